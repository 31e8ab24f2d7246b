// SPDX-License-Identifier: GPL-2.0

//! Domains that change: a process is not merged with processes of a domain that it has left.
//!
//! Pages merged before stay merged, as after a fork; these tests check what is merged afterwards.

use std::time::Duration;

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::procfs;
use guest::ksm_v::domain;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::rng;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    who_moved_to_another_cgroup_is_merged_there,
    who_became_another_user_is_merged_as_that,
    pages_are_apart_after_a_change_of_the_domain,
    pages_are_apart_after_a_reload,
    users_are_apart_under_load,
    cgroups_are_apart_under_load,
    processes_are_apart_under_load,
];

const PAGES: u64 = 8;
const IDS: Ids = Ids::each(100);
/// The number of scanner passes: twice as many as needed.
const PASSES: u64 = 6;

/// A process with filled pages.
fn filled(peer: Peer) -> Result<(Peer, Span)> {
    let span = peer.anon(PAGES, IDS)?;
    Ok((peer, span))
}

/// Expects that new pages of `left`, which was merged with its former domain, are merged with the
/// pages of `joined`, in frames that differ from the `old` ones.
fn expect_merged_anew(left: &Peer, joined: &(Peer, Span), old: &[Frame]) -> Result {
    let new = left.anon(PAGES, IDS)?;
    scanner::scan(PASSES)?;
    let merged = pages::expect_merged(&[(left, new), (&joined.0, joined.1)])?;
    pages::expect_disjoint("frames of the old and the new domain", old, &merged)
}

fn who_moved_to_another_cgroup_is_merged_there(lab: &Lab) -> Result {
    knob::set("domain", "cgroup")?;
    let (old, new) = (Cgroup::new("old")?, Cgroup::new("new")?);
    let stays = filled(lab.peer_in(User::Alice, &old)?)?;
    let moves = filled(lab.peer_in(User::Alice, &old)?)?;
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&stays.0, stays.1), (&moves.0, moves.1)])?;
    procfs::write(&new.procs(), &moves.0.pid().to_string())?;
    let there = filled(lab.peer_in(User::Alice, &new)?)?;
    expect_merged_anew(&moves.0, &there, &frames)?;
    pages::expect_mappings(&frames, 2)?;
    // After the process rewrites the pages it brought along, they are merged within its new domain.
    moves.0.fill(moves.1, IDS)?;
    scanner::scan(PASSES)?;
    pages::expect_merged(&[(&moves.0, moves.1), (&there.0, there.1)])?;
    pages::expect_mappings(&frames, 1)
}

fn who_became_another_user_is_merged_as_that(lab: &Lab) -> Result {
    let stays = filled(lab.peer(User::Root)?)?;
    let becomes = filled(lab.peer(User::Root)?)?;
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&stays.0, stays.1), (&becomes.0, becomes.1)])?;
    becomes.0.become_user(User::Bob)?;
    // Changing the user ID makes a process undumpable.
    becomes.0.set_dumpable(true)?;
    let bobs = filled(lab.peer(User::Bob)?)?;
    expect_merged_anew(&becomes.0, &bobs, &frames)?;
    pages::expect_mappings(&frames, 2)?;
    becomes.0.fill(becomes.1, IDS)?;
    scanner::scan(PASSES)?;
    pages::expect_merged(&[(&becomes.0, becomes.1), (&bobs.0, bobs.1)])?;
    pages::expect_mappings(&frames, 1)
}

/// Changes from each domain to each other one: merged pages must be unmerged, and then merged
/// according to the new domain.
fn pages_are_apart_after_a_change_of_the_domain(lab: &Lab) -> Result {
    let (one, other) = (Cgroup::new("one")?, Cgroup::new("other")?);
    let peers = [
        filled(lab.peer_in(User::Alice, &one)?)?,
        filled(lab.peer_in(User::Alice, &one)?)?,
        filled(lab.peer_in(User::Alice, &other)?)?,
        filled(lab.peer_in(User::Bob, &other)?)?,
    ];
    // The expected number of frames per content for each domain.
    let divisions = [
        ("global", 1),
        ("user", 2),
        ("global", 1),
        ("cgroup", 2),
        ("process", 4),
    ];
    for (division, count) in divisions {
        scanner::unmerge()?;
        knob::set("domain", division)?;
        scanner::scan(PASSES)?;
        let mut frames = Vec::new();
        for (peer, span) in &peers {
            frames.push(peer.frame(*span, 0)?);
        }
        frames.sort_unstable();
        frames.dedup();
        expect::eq(
            format!("frames of a content with domain={division}"),
            count,
            frames.len(),
        )?;
        domain::expect_apart()?;
    }
    Ok(())
}

/// Pages merged with those of all users are unmerged before the module is unloaded. After the next
/// load, the module merges within users, which is the default.
fn pages_are_apart_after_a_reload(lab: &Lab) -> Result {
    let (alices, bobs) = (
        [filled(lab.alice()?)?, filled(lab.alice()?)?],
        [filled(lab.peer(User::Bob)?)?, filled(lab.peer(User::Bob)?)?],
    );
    knob::set("domain", "global")?;
    scanner::scan(PASSES)?;
    let merged = |of: &[(Peer, Span)]| {
        pages::expect_merged(
            &of.iter()
                .map(|(peer, span)| (peer, *span))
                .collect::<Vec<_>>(),
        )
    };
    expect::eq("frames of all users", merged(&alices)?, merged(&bobs)?)?;
    module::expect_in_use("while pages of two users are merged")?;
    module::unload()?;
    module::load("")?;
    knob::set("promote_after", 1)?;
    knob::set("sleep_ms", 0)?;
    knob::set("scan_rate", 10_000)?;
    scanner::scan(2 * PASSES)?;
    pages::expect_disjoint(
        "frames of Alice and of Bob after the reload",
        &merged(&alices)?,
        &merged(&bobs)?,
    )?;
    domain::expect_apart().map(drop)
}

/// The time for which processes change their memory.
const WORK: Duration = Duration::from_secs(4);

/// Processes change pages of few contents at random, while the scanner merges all pages it may.
fn expect_apart_under_load(division: &str, peers: Vec<Peer>) -> Result {
    knob::set("domain", division)?;
    let kept: Vec<(Peer, Span)> = peers.into_iter().map(filled).collect::<Result<_>>()?;
    let seed = rng::seed();
    scanner::start()?;
    for (index, (peer, _)) in kept.iter().enumerate() {
        peer.churn(seed.wrapping_add(index as u64), WORK)?;
    }
    for (peer, _) in &kept {
        peer.churned()?;
    }
    scanner::stop()?;
    let shared = domain::expect_apart()?;
    for (peer, span) in &kept {
        peer.check(*span, IDS)?;
    }
    let least = if division == "process" {
        0
    } else {
        PAGES as usize
    };
    expect::that(shared >= least, || {
        format!("frames shared by several processes: expected {least} or more, found {shared}")
    })
}

fn users_are_apart_under_load(lab: &Lab) -> Result {
    let bobs = || lab.peer(User::Bob);
    let peers = vec![lab.alice()?, lab.alice()?, bobs()?, bobs()?];
    expect_apart_under_load("user", peers)
}

fn cgroups_are_apart_under_load(lab: &Lab) -> Result {
    let (one, other) = (Cgroup::new("one")?, Cgroup::new("other")?);
    let peers = vec![
        lab.peer_in(User::Alice, &one)?,
        lab.peer_in(User::Bob, &one)?,
        lab.peer_in(User::Alice, &other)?,
        lab.peer_in(User::Bob, &other)?,
    ];
    expect_apart_under_load("cgroup", peers)
}

fn processes_are_apart_under_load(lab: &Lab) -> Result {
    expect_apart_under_load("process", lab.alices(4)?)
}
