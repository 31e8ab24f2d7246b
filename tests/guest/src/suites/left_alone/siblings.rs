// SPDX-License-Identifier: GPL-2.0

//! Workers of one server: processes that a master of root forked, and that became Alice. They are not
//! dumpable. They share pages with each other and with nobody else.
//!
//! All processes of a test have the same contents, so each could be merged with each.

use std::io;

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User::Alice;
use guest::process::peer::User::Bob;
use guest::process::peer::User::Root;
use guest::process::privileged::Gift;
use guest::process::privileged::Program;
use guest::process::task;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    workers_of_a_server_are_merged,
    workers_of_workers_are_merged,
    pages_that_workers_inherited_are_merged,
    workers_of_two_servers_are_apart,
    workers_of_two_users_are_apart,
    workers_with_other_capabilities_are_apart,
    an_outsider_is_no_worker,
    a_worker_that_executed_a_program_is_none,
    a_process_that_the_master_adopted_is_no_worker,
    orphaned_workers_are_left_alone,
    workers_of_a_master_that_executed_a_program_are_left_alone,
    workers_far_from_their_master_are_left_alone,
    children_that_made_themselves_undumpable_are_left_alone,
    workers_of_a_privileged_program_are_left_alone,
    workers_of_a_program_that_others_cannot_read_are_left_alone,
    a_registered_worker_is_its_users,
    leave_leaves_workers_alone,
    leave_keeps_what_is_merged,
    global_does_not_join_workers_and_others,
    cgroup_divides_workers,
    process_divides_workers,
];

const PAGES: u64 = 16;
const IDS: Ids = Ids::each(100);
/// The number of scanner passes: twice as many as needed.
const PASSES: u64 = 6;
/// The number of generations in which the module looks for a master (`rust/mm/family.rs`).
const GENERATIONS: usize = 8;

/// Forks a worker that becomes Alice.
fn worker(master: &Peer) -> Result<Peer> {
    let worker = master.fork()?;
    worker.become_user(Alice)?;
    Ok(worker)
}

fn workers(master: &Peer) -> Result<[Peer; 2]> {
    Ok([worker(master)?, worker(master)?])
}

fn fill<'a>(peers: &[&'a Peer]) -> Result<Vec<(&'a Peer, Span)>> {
    let filled = |&peer: &&'a Peer| Ok((peer, peer.anon(PAGES, IDS)?));
    peers.iter().map(filled).collect()
}

/// Fills pages of all processes, and scans. Expects that the pages of each family are merged, on frames
/// of its own, and that no page of a stranger is.
fn expect_families(families: &[&[&Peer]], strangers: &[&Peer]) -> Result {
    let filled = families.iter().map(|family| fill(family));
    let filled: Vec<_> = filled.collect::<Result<_>>()?;
    let alone = fill(strangers)?;
    scanner::scan(PASSES)?;
    for family in &filled {
        let frames = pages::expect_merged(family)?;
        pages::expect_mappings(&frames, family.len() as u64)?;
    }
    for &stranger in &alone {
        pages::expect_not_merged(stranger)?;
    }
    for (peer, span) in filled.concat().into_iter().chain(alone) {
        peer.check(span, IDS)?;
    }
    Ok(())
}

/// Expects that the workers are merged, and no stranger is.
fn expect_strangers([one, other]: &[Peer; 2], strangers: &[&Peer]) -> Result {
    expect_families(&[&[one, other]], strangers)
}

/// Expects that none of the processes is merged, while two processes of Alice are.
fn expect_left_alone(lab: &Lab, peers: &[&Peer]) -> Result {
    expect_strangers(&lab.pair()?.into(), peers)
}

fn workers_of_a_server_are_merged(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    expect_families(&[&[&one, &other, &worker(&master)?]], &[&master])
}

fn workers_of_workers_are_merged(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    expect_families(&[&[&one, &other, &one.fork()?]], &[])
}

/// The master maps the same frames, and is in another domain: its mappings stay.
fn pages_that_workers_inherited_are_merged(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let inherited = master.anon(PAGES, IDS)?;
    let before = master.frames(inherited)?;
    let [one, other] = workers(&master)?;
    let own = fill(&[&one, &other])?;
    scanner::scan(PASSES)?;
    let all = [own[0], own[1], (&one, inherited), (&other, inherited)];
    pages::expect_mappings(&pages::expect_merged(&all)?, 4)?;
    pages::expect_frames("the master's pages", (&master, inherited), &before)?;
    pages::expect_not_merged((&master, inherited))?;
    for (peer, span) in all.into_iter().chain([(&master, inherited)]) {
        peer.check(span, IDS)?;
    }
    scanner::expect_exact_counts("with workers of a server").map(drop)
}

fn workers_of_two_servers_are_apart(lab: &Lab) -> Result {
    let masters = [lab.peer(Root)?, lab.peer(Root)?];
    let [ours, theirs] = [workers(&masters[0])?, workers(&masters[1])?];
    expect_families(&[&[&ours[0], &ours[1]], &[&theirs[0], &theirs[1]]], &[])
}

fn workers_of_two_users_are_apart(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let alices = workers(&master)?;
    let bobs = [master.fork()?, master.fork()?];
    for bob in &bobs {
        bob.become_user(Bob)?;
    }
    expect_families(&[&[&alices[0], &alices[1]], &[&bobs[0], &bobs[1]]], &[])
}

fn workers_with_other_capabilities_are_apart(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let plain = workers(&master)?;
    let capable = [master.fork()?, master.fork()?];
    for worker in &capable {
        worker.keep_capabilities()?;
        worker.become_user(Alice)?;
    }
    let families: [&[&Peer]; 2] = [&[&plain[0], &plain[1]], &[&capable[0], &capable[1]]];
    expect_families(&families, &[])
}

/// An outsider has the workers' ids. It is merged with its own kind only, and alone if it makes itself
/// undumpable.
fn an_outsider_is_no_worker(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    let (alice, friend) = lab.pair()?;
    let hidden = lab.alice()?;
    hidden.set_dumpable(false)?;
    expect_families(&[&[&one, &other], &[&alice, &friend]], &[&hidden])
}

/// It has Alice's ids, the master's program, and is the master's child.
fn a_worker_that_executed_a_program_is_none(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let family = workers(&master)?;
    let stranger = worker(&master)?;
    stranger.exec()?;
    stranger.set_dumpable(false)?;
    expect_strangers(&family, &[&stranger, &stranger.fork()?])
}

/// A process that was not forked by the master becomes its child: as in a container whose first process
/// is the master. It has Alice's ids and the master's program, and has not called exec since its fork.
fn a_process_that_the_master_adopted_is_no_worker(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    master.adopt_orphans()?;
    let family = workers(&master)?;
    let parent = worker(&master)?;
    parent.exec()?;
    let stranger = parent.fork()?;
    stranger.set_dumpable(false)?;
    parent.exit()?;
    expect::eq("the stranger's parent", master.pid(), parent_of(&stranger)?)?;
    expect_strangers(&family, &[&stranger])
}

/// The parent's process ID is field 4 of `/proc/PID/stat`.
fn parent_of(peer: &Peer) -> Result<i32> {
    let field = task::stat(peer.pid(), 4)?;
    field
        .parse()
        .map_err(|_| format!("/proc/{}/stat: field 4 is {field}", peer.pid()).into())
}

fn orphaned_workers_are_left_alone(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    master.exit()?;
    expect_left_alone(lab, &[&one, &other])
}

fn workers_of_a_master_that_executed_a_program_are_left_alone(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    master.exec()?;
    // The master's new workers are a new family.
    expect_strangers(&workers(&master)?, &[&one, &other])
}

fn workers_far_from_their_master_are_left_alone(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let mut line = vec![worker(&master)?];
    for generation in 1..=GENERATIONS {
        line.push(line[generation - 1].fork()?);
    }
    let family: Vec<&Peer> = line[..GENERATIONS].iter().collect();
    expect_families(&[&family], &[&line[GENERATIONS]])
}

/// Their ids are the master's, so they are undumpable by their own wish.
fn children_that_made_themselves_undumpable_are_left_alone(lab: &Lab) -> Result {
    for user in [Alice, Root] {
        let master = lab.peer(user)?;
        let (one, other) = (master.fork()?, master.fork()?);
        for child in [&one, &other] {
            child.set_dumpable(false)?;
        }
        expect_left_alone(lab, &[&one, &other])?;
    }
    Ok(())
}

/// Alice executes a set-user-ID program, which makes itself dumpable. Its children give up its owner's id.
fn workers_of_a_privileged_program_are_left_alone(lab: &Lab) -> Result {
    let program = Program::new(Gift::User(Root))?;
    let master = start(lab, &program, Alice.id())?;
    master.set_dumpable(true)?;
    let (one, other) = (master.fork()?, master.fork()?);
    for child in [&one, &other] {
        child.set_user_ids([Some(Alice); 3])?;
    }
    expect_left_alone(lab, &[&one, &other])
}

fn workers_of_a_program_that_others_cannot_read_are_left_alone(lab: &Lab) -> Result {
    let program = Program::new(Gift::Nothing)?;
    let master = start(lab, &program, Root.id())?;
    let [one, other] = workers(&master)?;
    expect_left_alone(lab, &[&one, &other])
}

fn start(lab: &Lab, program: &Program, user: u32) -> Result<Peer> {
    let become_user = move || -> io::Result<()> { guest::process::peer::become_user(user) };
    lab.start(program.path(), become_user)
}

/// As before there were families: registered memory is merged with that of the user.
fn a_registered_worker_is_its_users(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    let registered = worker(&master)?;
    registered.register_all()?;
    let alice = lab.alice()?;
    expect_families(&[&[&one, &other], &[&registered, &alice]], &[])
}

fn leave_leaves_workers_alone(lab: &Lab) -> Result {
    knob::set("undumpable", "leave")?;
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    expect_left_alone(lab, &[&one, &other])
}

/// The knob may change at any time. Pages merged before stay merged until they are written to.
fn leave_keeps_what_is_merged(lab: &Lab) -> Result {
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    let filled = fill(&[&one, &other])?;
    scanner::scan(PASSES)?;
    let frames = pages::expect_merged(&filled)?;
    knob::set("undumpable", "leave")?;
    expect_left_alone(lab, &[&one, &other])?;
    expect::eq("merged frames", frames, pages::expect_merged(&filled)?)?;
    for &(peer, span) in &filled {
        peer.fill(span, IDS)?;
    }
    scanner::scan(PASSES)?;
    for &pages in &filled {
        pages::expect_not_merged(pages)?;
    }
    knob::set("undumpable", "siblings")?;
    scanner::scan(PASSES)?;
    pages::expect_merged(&filled)?;
    scanner::expect_exact_counts("after two changes of undumpable").map(drop)
}

fn global_does_not_join_workers_and_others(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let masters = [lab.peer(Root)?, lab.peer(Root)?];
    let [ours, theirs] = [workers(&masters[0])?, workers(&masters[1])?];
    let (alice, bob) = (lab.alice()?, lab.peer(Bob)?);
    let others: &[&Peer] = &[&alice, &bob, &masters[0]];
    let families = [&[&ours[0], &ours[1]][..], &[&theirs[0], &theirs[1]], others];
    expect_families(&families, &[])
}

fn cgroup_divides_workers(lab: &Lab) -> Result {
    knob::set("domain", "cgroup")?;
    let (one, other) = (Cgroup::new("one")?, Cgroup::new("other")?);
    let master = lab.peer_in(Root, &one)?;
    let [here, there] = [workers(&master)?, workers(&master)?];
    for worker in &there {
        procfs::write(&other.procs(), &worker.pid().to_string())?;
    }
    let alices = [lab.peer_in(Alice, &one)?, lab.peer_in(Alice, &other)?];
    let families: [&[&Peer]; 2] = [&[&here[0], &here[1]], &[&there[0], &there[1]]];
    expect_families(&families, &[&alices[0], &alices[1]])
}

fn process_divides_workers(lab: &Lab) -> Result {
    knob::set("domain", "process")?;
    let master = lab.peer(Root)?;
    let [one, other] = workers(&master)?;
    let inner = one.anon(PAGES, Ids::same(7))?;
    expect_families(&[], &[&one, &other])?;
    // Equal pages within one process are merged.
    pages::expect_merged(&[(&one, inner)]).map(drop)
}
