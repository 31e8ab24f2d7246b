// SPDX-License-Identifier: GPL-2.0

//! Pages of different domains never share a frame.

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::census::Census;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    user_keeps_users_apart,
    user_keeps_known_pages_of_users_apart,
    user_is_the_real_one_in_a_user_namespace,
    user_is_the_one_a_process_became,
    user_keeps_fork_and_setuid_apart,
    process_keeps_processes_apart,
    process_keeps_forked_processes_apart,
    cgroup_keeps_cgroups_apart_and_joins_users,
    global_joins_all,
    promotion_counts_sightings_of_one_domain,
];

const PAGES: u64 = 8;
const IDS: Ids = Ids::each(100);

/// Processes with equal pages.
fn with_pages(peers: Vec<Peer>) -> Result<Vec<(Peer, Span)>> {
    let filled = |peer: Peer| {
        let span = peer.anon(PAGES, IDS)?;
        Ok((peer, span))
    };
    peers.into_iter().map(filled).collect()
}

fn spans(peers: &[(Peer, Span)]) -> Vec<pages::Pages<'_>> {
    peers.iter().map(|(peer, span)| (peer, *span)).collect()
}

/// Expects that two processes of one domain and two of another use two frames for each page, not one.
fn expect_two_sets(peers: &[(Peer, Span)]) -> Result {
    let spans = spans(peers);
    scanner::scan(6)?;
    let one = pages::expect_merged(&spans[..2])?;
    let other = pages::expect_merged(&spans[2..])?;
    pages::expect_disjoint("frames of two domains", &one, &other)?;
    pages::expect_mappings(&one, 2)?;
    pages::expect_mappings(&other, 2)?;
    for (peer, span) in peers {
        peer.check(*span, IDS)?;
    }
    scanner::expect_exact_counts("with two domains").map(drop)
}

fn user_keeps_users_apart(lab: &Lab) -> Result {
    let bob = || lab.peer(User::Bob);
    expect_two_sets(&with_pages(vec![
        lab.alice()?,
        lab.alice()?,
        bob()?,
        bob()?,
    ])?)
}

/// Bob's first page is not merged with a content known from Alice, however often it is seen.
fn user_keeps_known_pages_of_users_apart(lab: &Lab) -> Result {
    let alices = with_pages(lab.alices(2)?)?;
    scanner::merge()?;
    let known = pages::expect_merged(&spans(&alices))?;
    let bobs = with_pages(vec![lab.peer(User::Bob)?, lab.peer(User::Root)?])?;
    let before = (bobs[0].0.frames(bobs[0].1)?, bobs[1].0.frames(bobs[1].1)?);
    scanner::scan(6)?;
    let after = (bobs[0].0.frames(bobs[0].1)?, bobs[1].0.frames(bobs[1].1)?);
    expect::eq("frames of Bob and of root", before, after)?;
    pages::expect_mappings(&known, 2)
}

/// A user with Alice's ID in a user namespace is not Alice.
fn user_is_the_real_one_in_a_user_namespace(lab: &Lab) -> Result {
    let (one, other) = (lab.peer(User::Bob)?, lab.peer(User::Bob)?);
    one.enter_user_namespace(User::Alice)?;
    let peers = vec![lab.alice()?, lab.alice()?, one, other];
    expect_two_sets(&with_pages(peers)?)
}

fn user_is_the_one_a_process_became(lab: &Lab) -> Result {
    let peers = vec![
        lab.peer(User::Root)?,
        lab.peer(User::Root)?,
        lab.alice()?,
        lab.alice()?,
    ];
    for peer in &peers[..2] {
        peer.become_user(User::Bob)?;
        // Changing the user ID makes a process undumpable.
        peer.set_dumpable(true)?;
    }
    let peers = with_pages(peers)?;
    let (bob, root) = (lab.peer(User::Bob)?, lab.peer(User::Root)?);
    let (in_bob, in_root) = (bob.anon(PAGES, IDS)?, root.anon(PAGES, IDS)?);
    let of_root = root.frames(in_root)?;
    expect_two_sets_and(&peers, (&bob, in_bob))?;
    pages::expect_frames("root's pages", (&root, in_root), &of_root)
}

/// Like [`expect_two_sets`], but one more process belongs to the first set.
fn expect_two_sets_and(peers: &[(Peer, Span)], joins: pages::Pages<'_>) -> Result {
    let all = spans(peers);
    scanner::scan(6)?;
    let one = pages::expect_merged(&[all[0], all[1], joins])?;
    let other = pages::expect_merged(&all[2..])?;
    pages::expect_disjoint("frames of two domains", &one, &other)
}

/// Root's child became Alice but still shares frames with root. These frames must not cause a merge
/// of root's other pages with Alice's, or of Alice's with root's.
fn user_keeps_fork_and_setuid_apart(lab: &Lab) -> Result {
    let parent = lab.peer(User::Root)?;
    let span = parent.anon(PAGES, IDS)?;
    let child = parent.fork()?;
    child.become_user(User::Alice)?;
    child.set_dumpable(true)?;
    let others = with_pages(vec![
        lab.peer(User::Root)?,
        lab.alice()?,
        lab.peer(User::Root)?,
        lab.alice()?,
    ])?;
    let (roots, alices) = ([0, 2], [1, 3]);
    scanner::scan(8)?;
    let pid = |index: usize| others[index].0.pid();
    let of_root = [parent.pid(), pid(roots[0]), pid(roots[1])];
    let of_alice = [child.pid(), pid(alices[0]), pid(alices[1])];
    for (frame, places) in Census::take()?.frames() {
        let mapped_by = |pids: &[i32]| -> Vec<i32> {
            let by = |pid: &i32| places.iter().any(|place| place.pid == *pid);
            pids.iter().copied().filter(by).collect()
        };
        let (by_root, by_alice) = (mapped_by(&of_root), mapped_by(&of_alice));
        let inherited = by_root == [parent.pid()] && by_alice == [child.pid()];
        expect::that(
            by_root.is_empty() || by_alice.is_empty() || inherited,
            || {
                format!(
                    "{frame:?}: expected to be root's or Alice's, found root's {by_root:?} and \
                 Alice's {by_alice:?}; the parent is {}, its child {}",
                    parent.pid(),
                    child.pid()
                )
            },
        )?;
    }
    let all = spans(&others);
    pages::expect_merged(&[all[0], all[2]])?;
    pages::expect_merged(&[all[1], all[3]])?;
    parent.check(span, IDS)?;
    child.check(span, IDS)?;
    scanner::expect_exact_counts("with a child that became another user").map(drop)
}

fn process_keeps_processes_apart(lab: &Lab) -> Result {
    knob::set("domain", "process")?;
    let peers = with_pages(lab.alices(2)?)?;
    let inner = peers[0].0.anon(PAGES, Ids::same(7))?;
    let before = (
        peers[0].0.frames(peers[0].1)?,
        peers[1].0.frames(peers[1].1)?,
    );
    scanner::scan(6)?;
    // Equal pages within one process are merged.
    pages::expect_merged(&[(&peers[0].0, inner)])?;
    let after = (
        peers[0].0.frames(peers[0].1)?,
        peers[1].0.frames(peers[1].1)?,
    );
    expect::eq("frames of two processes", before, after)
}

/// Pages that a child shares with its parent since the fork are not shared with anyone else.
fn process_keeps_forked_processes_apart(lab: &Lab) -> Result {
    knob::set("domain", "process")?;
    let parent = lab.alice()?;
    let span = parent.anon(PAGES, IDS)?;
    let child = parent.fork()?;
    let in_parent = parent.anon(PAGES, IDS)?;
    let in_child = child.anon(PAGES, IDS)?;
    let control = parent.anon(2, Ids::same(7))?;
    scanner::scan(8)?;
    pages::expect_merged(&[(&parent, control)])?;
    let (of_parent, of_child) = (parent.frames(in_parent)?, child.frames(in_child)?);
    pages::expect_disjoint("frames of a parent and of its child", &of_parent, &of_child)?;
    let (kept, inherited) = (parent.frames(span)?, child.frames(span)?);
    pages::expect_disjoint("the child's own pages and its parent's", &kept, &of_child)?;
    pages::expect_disjoint(
        "the parent's own pages and its child's",
        &inherited,
        &of_parent,
    )?;
    parent.check(span, IDS)?;
    child.check(span, IDS)
}

fn cgroup_keeps_cgroups_apart_and_joins_users(lab: &Lab) -> Result {
    knob::set("domain", "cgroup")?;
    let (one, other) = (Cgroup::new("one")?, Cgroup::new("other")?);
    let peers = with_pages(vec![
        lab.peer_in(User::Alice, &one)?,
        lab.peer_in(User::Bob, &one)?,
        lab.peer_in(User::Alice, &other)?,
        lab.peer_in(User::Bob, &other)?,
    ])?;
    expect_two_sets(&peers)
}

fn global_joins_all(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let cgroup = Cgroup::new("one")?;
    let peers = with_pages(vec![
        lab.peer(User::Root)?,
        lab.alice()?,
        lab.peer(User::Bob)?,
        lab.peer_in(User::Alice, &cgroup)?,
    ])?;
    scanner::merge()?;
    let frames = pages::expect_merged(&spans(&peers))?;
    pages::expect_mappings(&frames, 4)
}

/// If sightings were counted across domains, Bob could learn from the time of his merge what Alice has.
fn promotion_counts_sightings_of_one_domain(lab: &Lab) -> Result {
    knob::set("promote_after", 40)?;
    knob::set("sleep_ms", 50)?;
    let (a, b) = (lab.alice()?, lab.peer(User::Bob)?);
    let (in_a, in_b) = (a.anon(1, IDS)?, b.anon(2, Ids::same(IDS.first))?);
    let before = a.frames(in_a)?;
    let begun = knob::number("full_scans")?;
    scanner::start()?;
    // In 19 passes, Bob's two pages are seen 38 times; together with Alice's page it would be 57 times.
    let mut merged_after = None;
    while merged_after.is_none() {
        let of_b = b.frames(in_b)?;
        let passes = knob::number("full_scans")? - begun;
        merged_after = (of_b[0] == of_b[1]).then_some(passes);
        expect::that(passes < 40, || {
            "Bob's pages: expected to be merged within 40 passes"
        })?;
    }
    scanner::stop()?;
    expect::within(
        "passes until Bob's pages were merged",
        Some(19)..=Some(24),
        merged_after,
    )?;
    pages::expect_frames("Alice's page", (&a, in_a), &before)
}
