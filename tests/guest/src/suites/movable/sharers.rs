// SPDX-License-Identifier: GPL-2.0

//! All sharers of a page must be found when it moves, however they came to share it.

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::numa;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Context;
use guest::Result;
use guest::Span;

use super::group::Group;
use super::group::Sharer;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    a_page_with_many_sharers_moves,
    sharers_that_wrote_and_were_merged_again,
    sharers_that_moved_their_memory_about,
    sharers_that_a_child_merged,
    sharers_that_come_and_go,
    sharers_that_have_gone_take_no_memory,
    sharers_that_have_gone_are_told_from_forked_ones,
    sharers_whose_cgroup_is_gone,
];

const PAGES: u64 = 128;

/// Moves all pages to each node, and expects that all processes still have them.
fn expect_found(group: &Group, when: &str) -> Result {
    for (round, node) in [1, 0].into_iter().enumerate() {
        group.move_all(round % group.sharers.len(), node)?;
        group.expect_intact(when)?;
    }
    scanner::expect_exact_counts(when).map(drop)
}

/// Pages of one content, with several pages in each process, and children of some processes.
fn a_page_with_many_sharers_moves(lab: &Lab) -> Result {
    const PROCESSES: u64 = 4;
    const EACH: u64 = 60;
    let ids = Ids::same(4242);
    let mut sharers: Vec<(Peer, Span)> = Vec::new();
    for _ in 0..PROCESSES {
        let peer = lab.peer(User::Root)?;
        let span = peer.anon(EACH, ids)?;
        sharers.push((peer, span));
    }
    scanner::merge()?;
    for index in [0, 1] {
        let (peer, span) = &sharers[index];
        let child = (peer.fork()?, *span);
        sharers.push(child);
    }
    let expect_one = |frames: &[pages::Pages<'_>]| -> Result<_> {
        let frames = pages::expect_merged(frames)?;
        expect::eq("frames", vec![frames[0]; EACH as usize], frames.clone())?;
        pages::expect_mappings(&frames[..1], (PROCESSES + 2) * EACH)?;
        Ok(frames[0])
    };
    let all: Vec<pages::Pages<'_>> = sharers.iter().map(|(peer, span)| (peer, *span)).collect();
    let mut frame = expect_one(&all)?;
    for (who, node) in [(0, 1), (5, 0), (3, 1), (1, 0)] {
        let (peer, span) = &sharers[who];
        numa::move_pages(peer.pid(), &[span.addr], &[node]).context(|| "move_pages")?;
        let found = numa::nodes_of(peer.pid(), &[span.addr]).context(|| "nodes")?;
        expect::eq("node", vec![node], found)?;
        let after = expect_one(&all)?;
        if who > 0 {
            expect::ne("frame", frame, after)?;
        }
        frame = after;
        sharers
            .iter()
            .try_for_each(|(peer, span)| peer.check(*span, ids))?;
    }
    scanner::expect_exact_counts("after a page with many sharers moved").map(drop)
}

/// Each merge records a sharer again, although it is known already.
fn sharers_that_wrote_and_were_merged_again(lab: &Lab) -> Result {
    /// More rounds than the number of records that are checked for a known sharer.
    const ROUNDS: u64 = 20;
    let group = Group::mixed(lab, PAGES)?;
    for round in 0..ROUNDS {
        let writer = &group.sharers[[0, 2][round as usize % 2]];
        writer.peer.fill(writer.parts[0].part(0, PAGES / 4), IDS)?;
        group.merge()?;
        if round % 5 == 0 {
            // Records that are no longer needed are dropped at the end of a pass.
            scanner::scan(2)?;
        }
    }
    group.expect_shared("merged again")?;
    expect_found(&group, "after many merges")
}

/// VMAs that were split and merged: a page is at a different address than when it was merged.
fn sharers_that_moved_their_memory_about(lab: &Lab) -> Result {
    let mut group = Group::pair(lab, PAGES)?;
    group.fork()?;
    let half = PAGES / 2;
    for who in 0..3 {
        let Sharer { peer, parts } = &mut group.sharers[who];
        let (first, second) = (parts[0].part(0, half), parts[0].part(half, half));
        // The two halves swap places.
        *parts = vec![peer.remap(first)?, peer.remap(second)?];
    }
    expect_found(&group, "after mremap of both halves")?;
    for sharer in &mut group.sharers {
        let Sharer { peer, parts } = sharer;
        let place = peer.free_place(PAGES);
        for (part, first) in parts.iter_mut().zip([0, half]) {
            let target = place.part(first, half);
            peer.ask("mremap", &[part.addr, part.pages, target.addr])?;
            *part = target;
        }
        peer.protect(place.part(7, 11), libc::PROT_READ)?;
        peer.protect(place.part(9, 3), libc::PROT_NONE)?;
        peer.protect(place.part(7, 11), libc::PROT_READ | libc::PROT_WRITE)?;
    }
    expect_found(&group, "after the halves are one again")?;
    group.fork()?;
    expect_found(&group, "after a further fork")
}

/// Pages merged in a child are not in the memory of its parent, but in that of the child's own
/// children.
fn sharers_that_a_child_merged(lab: &Lab) -> Result {
    let (parent, other) = (lab.peer(User::Root)?, lab.peer(User::Root)?);
    let span = parent.anon(PAGES, Ids::each(9000))?;
    let child = parent.fork()?;
    child.fill(span, IDS)?;
    let in_other = other.anon(PAGES, IDS)?;
    let sharer = |peer: Peer, span: Span| Sharer {
        peer,
        parts: vec![span],
    };
    let sharers = vec![sharer(child, span), sharer(other, in_other)];
    let mut group = Group {
        sharers,
        pages: PAGES,
    };
    group.merge()?;
    group.fork()?;
    expect_found(&group, "of a child, its child, and another process")?;
    group.sharers.remove(0).peer.exit()?;
    expect_found(&group, "without the child")?;
    parent.check(span, Ids::each(9000))?;
    // Its parent has the same contents now.
    parent.fill(span, IDS)?;
    group.sharers.push(sharer(parent, span));
    group.merge()?;
    expect_found(&group, "with the parent")
}

fn sharers_that_come_and_go(lab: &Lab) -> Result {
    const ROUNDS: usize = 6;
    let mut group = Group::mixed(lab, PAGES)?;
    for _ in 0..ROUNDS {
        group.join(lab.peer(User::Root)?)?;
        group.fork()?;
        group.expect_shared("more of them")?;
        group.move_all(group.sharers.len() - 1, 1)?;
        for _ in 0..2 {
            group.sharers.remove(0).peer.exit()?;
        }
        scanner::scan(1)?;
        group.expect_intact("fewer of them")?;
        group.move_all(0, 0)?;
    }
    expect_found(&group, "at last")
}

fn sharers_that_have_gone_take_no_memory(lab: &Lab) -> Result {
    expect_records_gone(lab, 0, 1)
}

fn sharers_that_have_gone_are_told_from_forked_ones(lab: &Lab) -> Result {
    expect_records_gone(lab, 8, 16)
}

/// Visiting processes join pages that two others share, have `children` each, and exit. After
/// `passes` more passes, at most half of the records of the visitors may be left: all records are
/// gone, but other tables may have grown meanwhile.
fn expect_records_gone(lab: &Lab, children: u64, passes: u64) -> Result {
    /// The size of the record of a sharer.
    const BYTES: u64 = 8;
    const EACH: u64 = 2048;
    const VISITORS: u64 = 8;
    let mut group = Group::pair(lab, EACH)?;
    for _ in 0..children {
        group.fork()?;
    }
    scanner::scan(passes)?;
    let before = knob::number("index_bytes")?;
    for _ in 0..VISITORS {
        let visitor = lab.peer(User::Root)?;
        let span = visitor.anon(EACH, IDS)?;
        scanner::merge_now(&visitor)?;
        pages::expect_merged(&[(&visitor, span)])?;
        visitor.exit()?;
    }
    scanner::scan(passes)?;
    expect::within(
        "index_bytes",
        0..=before + VISITORS * EACH * BYTES / 2,
        knob::number("index_bytes")?,
    )?;
    group.expect_shared("without the visitors").map(drop)
}

/// Removes one of two cgroups with a sharer each; pages may be charged to the removed one.
fn sharers_whose_cgroup_is_gone(lab: &Lab) -> Result {
    for leaves in [0, 1] {
        let (one, other) = (Cgroup::new("leaves")?, Cgroup::new("stays")?);
        let peer = |cgroup: &Cgroup| lab.peer_in(User::Root, cgroup);
        let pair = match leaves {
            0 => Group::of(peer(&one)?, peer(&other)?, PAGES)?,
            _ => Group::of(peer(&other)?, peer(&one)?, PAGES)?,
        };
        let mut group = pair;
        group.sharers.remove(leaves).peer.exit()?;
        one.remove()?;
        expect_found(&group, "without a cgroup")?;
        group.join(peer(&other)?)?;
        expect_found(&group, "joined by another")?;
        drop(group);
    }
    Ok(())
}
