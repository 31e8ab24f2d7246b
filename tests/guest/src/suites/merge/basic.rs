// SPDX-License-Identifier: GPL-2.0

//! Equal pages of unrelated processes are merged, and all counts agree.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::debugfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::ksm_v::scanner::Counts;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    two_processes_share_frames,
    shared_frames_are_fresh_ones,
    many_processes_share_frames,
    equal_pages_of_one_process_are_merged,
    unequal_pages_stay,
    smaps_tells_merged_pages_and_pss_falls,
    counts_are_exact,
    counts_are_recent_while_running,
    pages_unshared_follows_unique_pages,
    index_bytes_follows_unique_pages,
    pages_are_merged_as_they_come,
    nothing_is_merged_while_stopped,
];

/// Size of a region in these tests, in pages.
const PAGES: u64 = 16;

fn two_processes_share_frames(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_mappings(&frames, 2)?;
    a.check(in_a, ids)?;
    b.check(in_b, ids)
}

fn shared_frames_are_fresh_ones(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    let (of_a, of_b) = (a.frames(in_a)?, b.frames(in_b)?);
    scanner::merge()?;
    let merged = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_disjoint("merged frames and those of one process", &merged, &of_a)?;
    pages::expect_disjoint("merged frames and those of the other", &merged, &of_b)
}

fn many_processes_share_frames(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let peers = lab.alices(6)?;
    let mut all = Vec::new();
    for peer in &peers {
        all.push((peer, peer.anon(PAGES, ids)?));
    }
    scanner::merge()?;
    let frames = pages::expect_merged(&all)?;
    pages::expect_mappings(&frames, 6)?;
    for (peer, span) in all {
        peer.check(span, ids)?;
    }
    scanner::expect_exact_counts("with six processes").map(drop)
}

fn equal_pages_of_one_process_are_merged(lab: &Lab) -> Result {
    let ids = Ids::same(100);
    let peer = lab.alice()?;
    let span = peer.anon(PAGES, ids)?;
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&peer, span)])?;
    pages::expect_mappings(&frames, PAGES)?;
    peer.check(span, ids)
}

/// Pages that differ in a single bit, at any position, are not merged.
fn unequal_pages_stay(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(64, Ids::same(100))?, b.anon(64, Ids::same(101))?);
    let controls = (a.anon(1, Ids::same(7))?, b.anon(1, Ids::same(7))?);
    for index in 0..64 {
        let addr = in_a.page(index).addr + index * 64 + index % 8 * 8;
        let value = a.peek(addr)? ^ (1 << (index % 64));
        a.poke(addr, value)?;
    }
    let before = a.frames(in_a)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, controls.0), (&b, controls.1)])?;
    pages::expect_frames("pages that differ in one bit", (&a, in_a), &before)?;
    // The pages without a difference are merged.
    pages::expect_merged(&[(&b, in_b)]).map(drop)
}

fn smaps_tells_merged_pages_and_pss_falls(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    for (peer, span) in [(&a, in_a), (&b, in_b)] {
        expect::eq("KSM of smaps before", 0, peer.smaps_pages(span, "KSM")?)?;
        expect::eq("Pss of smaps before", PAGES, peer.smaps_pages(span, "Pss")?)?;
    }
    let before = procfs::rollup(a.pid(), "Pss")? + procfs::rollup(b.pid(), "Pss")?;
    scanner::merge()?;
    for (peer, span) in [(&a, in_a), (&b, in_b)] {
        expect::eq("Rss of smaps after", PAGES, peer.smaps_pages(span, "Rss")?)?;
        expect::eq("KSM of smaps after", PAGES, peer.smaps_pages(span, "KSM")?)?;
        expect::eq(
            "Pss of smaps after",
            PAGES / 2,
            peer.smaps_pages(span, "Pss")?,
        )?;
    }
    let after = procfs::rollup(a.pid(), "Pss")? + procfs::rollup(b.pid(), "Pss")?;
    expect::that(after + PAGES * 4 <= before, || {
        format!(
            "sum of Pss: expected {before} kB to fall by {} kB, found {after} kB",
            PAGES * 4
        )
    })
}

fn counts_are_exact(lab: &Lab) -> Result {
    let zero = Counts {
        shared: 0,
        sharing: 0,
        zero: 0,
    };
    expect::eq(
        "counts at first",
        zero,
        scanner::expect_exact_counts("at first")?,
    )?;
    let peers = lab.alices(4)?;
    for peer in &peers {
        peer.anon(PAGES, Ids::each(100))?;
        peer.anon(3, Ids::same(200))?;
        peer.anon(5, Ids::ZERO)?;
    }
    scanner::merge()?;
    let found = scanner::expect_exact_counts("after merging")?;
    // Pages of the processes' own memory may be merged, too.
    let least = Counts {
        shared: PAGES + 1,
        sharing: 3 * PAGES + 11,
        zero: 20,
    };
    let enough =
        found.shared >= least.shared && found.sharing >= least.sharing && found.zero >= least.zero;
    expect::that(enough, || {
        format!("counts: expected at least {least:?}, found {found:?}")
    })
}

fn counts_are_recent_while_running(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let mut peers = lab.alices(4)?;
    for peer in &peers {
        peer.anon(PAGES, ids)?;
    }
    scanner::start()?;
    scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    let before = Counts::read()?;
    peers.truncate(2);
    let mut after = before;
    // If the scanner held the address space of an ended process, another thread frees the memory later.
    for _ in 0..10 {
        scanner::wait_passes(2)?;
        after = Counts::read()?;
        if before.sharing >= after.sharing + 2 * PAGES {
            break;
        }
    }
    scanner::stop()?;
    expect::that(before.sharing >= after.sharing + 2 * PAGES, || {
        format!(
            "pages_sharing after two of four processes ended: \
             expected {before:?} to fall by {}, found {after:?}",
            2 * PAGES
        )
    })
}

fn pages_unshared_follows_unique_pages(lab: &Lab) -> Result {
    const UNIQUE: u64 = 300;
    let look = || -> Result<u64> {
        scanner::merge()?;
        knob::number("pages_unshared")
    };
    let before = look()?;
    let peer = lab.alice()?;
    peer.anon(UNIQUE, Ids::each(1))?;
    let during = look()?;
    drop(peer);
    let after = look()?;
    // The process's own memory has some pages, too.
    expect::within(
        "increase of pages_unshared with 300 pages",
        UNIQUE..=UNIQUE + 200,
        during - before,
    )?;
    expect::within("pages_unshared without them", before..=before + 20, after)
}

/// The index grows and shrinks with the number of pages it knows: it takes at most 16 bytes per page
/// if there are many pages.
fn index_bytes_follows_unique_pages(lab: &Lab) -> Result {
    const UNIQUE: u64 = 60_000;
    let look = || -> Result<u64> {
        scanner::merge()?;
        knob::number("index_bytes")
    };
    let before = look()?;
    let peer = lab.alice()?;
    // The first page stays a page of zeros, which the index does not know.
    let span = peer.map(Kind::Anon, UNIQUE + 1)?;
    // Keep khugepaged from locking the VMA: a pass on a busy machine gives up waiting, and leaves the
    // VMA out. It would collapse the first pages each time the page of zeros was merged.
    peer.keep_small(span)?;
    peer.touch(span)?;
    let during = look()?;
    let known = knob::number("pages_unshared")?;
    expect::that(known >= UNIQUE, || {
        format!(
            "pages_unshared: expected {UNIQUE} or more, found {known}; {}",
            hindrances()
        )
    })?;
    drop(peer);
    let after = look()?;
    expect::within(
        format!("index_bytes with {known} pages known"),
        12 * known..=16 * known,
        during,
    )?;
    expect::within("index_bytes without them", 0..=before + 4 * UNIQUE, after)?;
    expect::eq("index_failures", 0, knob::number("index_failures")?)
}

/// What keeps pages out of the index: locked VMAs and the like, and a kernel that is short of memory.
fn hindrances() -> String {
    let refusals = debugfs::refusals().unwrap_or_default();
    let memory = ["slabs_scanned", "allocstall_normal", "thp_collapse_alloc"]
        .map(|name| (name, procfs::number_in("/proc/vmstat", name).ok()));
    format!("refusals so far: {refusals:?}, of /proc/vmstat: {memory:?}")
}

fn pages_are_merged_as_they_come(lab: &Lab) -> Result {
    scanner::start()?;
    let (a, b) = lab.pair()?;
    let mut all = Vec::new();
    for round in 0..4 {
        let ids = Ids::each(1000 * (round + 1));
        all.push((a.anon(PAGES, ids)?, b.anon(PAGES, ids)?, ids));
        scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    }
    scanner::stop()?;
    for (in_a, in_b, ids) in all {
        pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        a.check(in_a, ids)?;
        b.check(in_b, ids)?;
    }
    Ok(())
}

fn nothing_is_merged_while_stopped(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, Ids::each(1))?, b.anon(PAGES, Ids::each(1))?);
    let before = (
        a.frames(in_a)?,
        b.frames(in_b)?,
        knob::number("pages_scanned")?,
    );
    std::thread::sleep(std::time::Duration::from_millis(1000));
    let after = (
        a.frames(in_a)?,
        b.frames(in_b)?,
        knob::number("pages_scanned")?,
    );
    expect::eq("frames and pages_scanned after a second", before, after)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}
