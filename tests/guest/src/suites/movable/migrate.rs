// SPDX-License-Identifier: GPL-2.0

//! Shared pages that move between NUMA nodes.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::mainline::Mainline;
use guest::ksm_v::mainline::Server;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::numa;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::rng;
use guest::tests;
use guest::Context;
use guest::Result;
use guest::Span;

use super::group::changed;
use super::group::Group;
use super::group::Sharer;
use super::Kept;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    move_pages_moves_shared_pages,
    move_pages_leaves_others_in_place,
    mbind_moves_shared_pages,
    mbind_fails_for_others,
    migrate_pages_moves_shared_pages,
    pages_that_only_a_child_has_left_move,
    pages_that_only_a_grandchild_has_left_move,
    pages_move_after_some_were_written,
    pages_move_while_they_are_read_and_written,
    pages_that_a_pipe_has_move_later,
    moved_pages_are_joined_by_others,
    pages_of_ksmd_move_beside_others,
    unmerging_finds_moved_pages,
    pages_move_while_the_module_is_reloaded,
];

const PAGES: u64 = 256;
/// The contents that are written.
const NEW: Ids = Ids::each(5000);

fn move_pages_moves_shared_pages(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    for (who, node) in [(0, 1), (0, 0), (2, 1), (1, 0)] {
        group.move_all(who, node)?;
        group.expect_intact(&format!("moved to node {node} by process {who}"))?;
    }
    scanner::expect_exact_counts("after pages were moved").map(drop)
}

/// For each page, the node where it is not.
fn elsewhere(group: &Group) -> Result<Vec<i32>> {
    Ok(group.nodes()?.iter().map(|node| 1 - node).collect())
}

fn move_pages_leaves_others_in_place(lab: &Lab) -> Result {
    let _kept = Kept::new()?;
    let group = Group::mixed(lab, PAGES)?;
    let frames = group.expect_shared("at first")?;
    let targets = elsewhere(&group)?;
    let found = group.move_by(0, &targets)?;
    let there = found.iter().zip(&targets);
    expect::eq(
        "pages moved",
        0,
        there.filter(|(found, target)| found == target).count(),
    )?;
    group.expect_in_place("after move_pages", &frames)
}

fn mbind_moves_shared_pages(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    let sharer = &group.sharers[0];
    for node in [1, 0, 1] {
        sharer.peer.bind_all(sharer.parts[0], node)?;
        group.expect_on(node as i32, "after mbind")?;
        group.expect_intact("after mbind")?;
    }
    Ok(())
}

fn mbind_fails_for_others(lab: &Lab) -> Result {
    let _kept = Kept::new()?;
    let group = Group::mixed(lab, PAGES)?;
    let frames = group.expect_shared("at first")?;
    let (sharer, target) = (&group.sharers[0], elsewhere(&group)?[0]);
    let bound = sharer.peer.bind_all(sharer.parts[0], target as u64);
    expect::that(bound.is_err(), || "mbind: expected to fail, found success")?;
    group.expect_in_place("after mbind", &frames)
}

fn migrate_pages_moves_shared_pages(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    group.move_all(0, 0)?;
    for (who, from, to) in [(0, 0, 1), (1, 1, 0), (2, 0, 1)] {
        // Other pages of the process may stay where they are.
        numa::migrate_pages(group.sharers[who].pid(), from, to).context(|| "migrate_pages")?;
        group.expect_on(to as i32, "after migrate_pages")?;
        group.expect_intact("after migrate_pages")?;
    }
    Ok(())
}

/// The child never merged pages itself, and the processes that merged them no longer have them.
fn pages_that_only_a_child_has_left_move(lab: &Lab) -> Result {
    let mut group = Group::pair(lab, PAGES)?;
    group.fork()?;
    let [parent, other] = [0, 1].map(|_| group.sharers.remove(0));
    other.peer.exit()?;
    parent.peer.fill(parent.parts[0], NEW)?;
    for node in [0, 1, 0] {
        group.move_all(0, node)?;
        group.expect_intact("of a child alone")?;
    }
    parent.peer.check(parent.parts[0], NEW)
}

/// All processes that had the pages before are gone.
fn pages_that_only_a_grandchild_has_left_move(lab: &Lab) -> Result {
    let mut group = Group::pair(lab, PAGES)?;
    for _ in 0..2 {
        group.fork()?;
        // The child is the first process of the next round.
        let child = group.sharers.pop().ok_or("no child")?;
        group
            .sharers
            .drain(..)
            .try_for_each(|sharer| sharer.peer.exit())?;
        group.sharers.push(child);
    }
    group.fork()?;
    for (who, node) in [(0, 0), (1, 1), (0, 0)] {
        group.move_all(who, node)?;
        group.expect_intact("of a grandchild and its child")?;
    }
    scanner::expect_exact_counts("after all others were gone").map(drop)
}

/// A sharer that wrote has its own page; the pages of all others move.
fn pages_move_after_some_were_written(lab: &Lab) -> Result {
    const WRITTEN: u64 = 32;
    let mut group = Group::mixed(lab, PAGES)?;
    group.move_all(0, 1)?;
    let writer = group.sharers.remove(0);
    let part = writer.parts[0].part(0, WRITTEN);
    writer.peer.fill(part, NEW)?;
    let before: Vec<_> = writer.peer.frames(part)?;
    group.move_all(0, 0)?;
    let after = writer.peer.frames(part)?;
    expect::eq("moved private pages", 0, changed(&before, &after))?;
    writer.peer.check(part, NEW)?;
    group.check("after another one wrote")?;
    // After the writer restores the content, its pages are shared again.
    writer.peer.fill(part, IDS)?;
    group.sharers.insert(0, writer);
    group.merge()?;
    group.expect_intact("after it wrote the same")?;
    for node in [1, 0] {
        group.move_all(0, node)?;
    }
    group.expect_intact("at last").map(drop)
}

/// A task that faults on a page during its migration waits for the end of it.
fn pages_move_while_they_are_read_and_written(lab: &Lab) -> Result {
    /// Number of write steps; the last one restores the pages.
    const STEPS: u64 = 200;
    let group = Group::mixed(lab, PAGES)?;
    let worker = lab.alice()?;
    worker.churn_steps(rng::seed(), STEPS)?;
    let [reader, writer] = [&group.sharers[0], &group.sharers[2]];
    for round in 0..8 {
        let arguments = |sharer: &Sharer| {
            let part = sharer.parts[0];
            vec![part.addr, part.pages, IDS.first, IDS.stride]
        };
        reader.peer.begin("check", &arguments(reader))?;
        writer.peer.begin("fill", &arguments(writer))?;
        group.move_by(1, &vec![round % 2; PAGES as usize])?;
        reader.peer.finish("check")?;
        writer.peer.finish("fill")?;
        group.check("moved beside users")?;
        group.merge()?;
        group.expect_shared("merged again")?;
    }
    worker.churned()?;
    group.expect_intact("at last").map(drop)
}

/// A reference held by another kernel user keeps a page in place for all sharers.
fn pages_that_a_pipe_has_move_later(lab: &Lab) -> Result {
    const SPLICED: u64 = 8;
    let group = Group::mixed(lab, PAGES)?;
    group.move_all(0, 0)?;
    let frames = group.expect_shared("at first")?;
    let sharer = &group.sharers[0];
    sharer.peer.splice(sharer.parts[0].part(0, SPLICED))?;
    group.move_by(1, &[1; PAGES as usize])?;
    let there = group.nodes()?.iter().filter(|&&node| node == 1).count() as u64;
    expect::eq("pages moved", PAGES - SPLICED, there)?;
    let after = group.expect_intact("while a pipe has some")?;
    let held = ..SPLICED as usize;
    expect::eq(
        "frames of the pages in the pipe",
        &frames[held],
        &after[held],
    )?;
    sharer.peer.check_pipe(SPLICED, IDS)?;
    group.move_all(2, 1)?;
    group.expect_intact("without the pipe").map(drop)
}

/// The addresses of all pages.
fn addresses(span: Span) -> Vec<u64> {
    (0..span.pages).map(|page| span.page(page).addr).collect()
}

/// A process with two spans that ksmd has merged, until the returned [`Mainline`] is dropped.
fn merged_by_ksmd(lab: &Lab) -> Result<(Peer, [Span; 2], Mainline)> {
    let peer = lab.peer(User::Root)?;
    let mainline = Mainline::of(Server::Ksmd)?;
    let spans = [peer.anon(PAGES, NEW)?, peer.anon(PAGES, NEW)?];
    for span in spans {
        peer.register(span)?;
    }
    mainline.merge(PAGES)?;
    Ok((peer, spans, mainline))
}

/// The kernel's own merged pages are moved by the kernel.
fn pages_of_ksmd_move_beside_others(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    let (peer, spans, mainline) = merged_by_ksmd(lab)?;
    let own = spans.map(|span| (&peer, span));
    pages::expect_merged(&own)?;
    let addresses = addresses(spans[0]);
    for node in [1, 0] {
        let targets = [node; PAGES as usize];
        let found = numa::move_pages(peer.pid(), &addresses, &targets);
        expect::eq(
            "nodes of ksmd's pages",
            &targets[..],
            &found.context(|| "move_pages")?,
        )?;
        group.move_all(0, node)?;
        pages::expect_merged(&own)?;
        group.expect_intact("beside ksmd")?;
    }
    spans.iter().try_for_each(|&span| peer.check(span, NEW))?;
    drop(mainline);
    group.expect_intact("without ksmd").map(drop)
}

fn moved_pages_are_joined_by_others(lab: &Lab) -> Result {
    let mut group = Group::mixed(lab, PAGES)?;
    group.move_all(0, 1)?;
    let frames = group.expect_shared("moved")?;
    group.join(lab.peer(User::Root)?)?;
    group.expect_in_place("joined by another", &frames)?;
    group.move_all(3, 0)?;
    group.expect_intact("moved again").map(drop)
}

fn unmerging_finds_moved_pages(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    group.move_all(0, 1)?;
    scanner::unmerge()?;
    expect::eq("shared pages", 0, scanner::Counts::truth()?.shared)?;
    group.check("unmerged")
}

/// The kernel asks the module for the sharers of every merged page, also of ksmd's pages, while the
/// module is loaded and unloaded.
fn pages_move_while_the_module_is_reloaded(lab: &Lab) -> Result {
    const LOADS: u32 = 20;
    let group = Group::pair(lab, PAGES)?;
    let (peer, spans, mainline) = merged_by_ksmd(lab)?;
    let moved = [
        (peer.pid(), addresses(spans[0])),
        (group.sharers[0].pid(), group.sharers[0].addresses()),
    ];
    let done = AtomicBool::new(false);
    let move_all = || {
        let mut moves = 0;
        while !done.load(Ordering::Relaxed) {
            let targets = [(moves % 2) as i32; PAGES as usize];
            for (pid, addresses) in &moved {
                numa::move_pages(*pid, addresses, &targets).context(|| "move_pages")?;
            }
            moves += 1;
        }
        Result::Ok(moves)
    };
    let moves = std::thread::scope(|scope| {
        let mover = scope.spawn(move_all);
        let cycled = (0..LOADS).try_for_each(|_| {
            module::unload()?;
            module::load("")?;
            knob::set("promote_after", 1)?;
            group.merge()
        });
        done.store(true, Ordering::Relaxed);
        let moves = mover.join().map_err(|_| "the mover panicked")?;
        cycled.and(moves)
    })?;
    eprintln!("moved {moves} times");
    expect::within("number of moves of all pages", 2..=u64::MAX, moves)?;
    pages::expect_merged(&spans.map(|span| (&peer, span)))?;
    spans.iter().try_for_each(|&span| peer.check(span, NEW))?;
    drop(mainline);
    group.merge()?;
    group.expect_intact("after all loads").map(drop)
}
