// SPDX-License-Identifier: GPL-2.0

//! Reclaim, compaction and huge pages in memory with merged pages.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::SkippableTest;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::HUGE;
use guest::memory::pagemap;
use guest::memory::pages;
use guest::memory::swap;
use guest::memory::swap::Swap;
use guest::process::peer::Peer;
use guest::process::task;
use guest::tests;
use guest::Result;
use guest::Span;
use libtest_mimic::Completion;

use super::Trio;
use super::IDS;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    compaction_leaves_merged_pages_valid,
    collapsing_copies_merged_pages,
    page_out_spares_merged_pages,
    page_out_of_the_last_mapping_keeps_its_content,
    lazy_free_of_the_last_mapping,
    drop_caches_spares_merged_pages,
];

pub(super) const SKIPPABLE: &[SkippableTest] = tests![
    neighbours_are_swapped_out_and_back,
    pages_that_were_swapped_in_are_merged,
];

fn compaction_leaves_merged_pages_valid(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    for _ in 0..3 {
        procfs::write("/proc/sys/vm/compact_memory", "1")?;
    }
    trio.a.check(trio.in_a, IDS)?;
    trio.b.check(trio.in_b, IDS)?;
    trio.c.check(trio.in_c, IDS)?;
    scanner::expect_exact_counts("after compaction")?;
    let all = [
        (&trio.a, trio.in_a),
        (&trio.b, trio.in_b),
        (&trio.c, trio.in_c),
    ];
    pages::expect_merged(&all).map(drop)
}

/// A process that asks for a huge page gets one, just as with pages that a fork shared.
fn collapsing_copies_merged_pages(lab: &Lab) -> Result {
    const MADV_COLLAPSE: i32 = 25;
    let ids = Ids::each(10_000);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(HUGE, ids)?, b.anon(HUGE, ids)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.advise(in_a, MADV_COLLAPSE)?;
    pages::expect_frames("after MADV_COLLAPSE", (&b, in_b), &frames)?;
    a.check(in_a, ids)?;
    b.check(in_b, ids)?;
    scanner::expect_exact_counts("after MADV_COLLAPSE").map(drop)
}

fn page_out_spares_merged_pages(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    for advice in [libc::MADV_COLD, libc::MADV_PAGEOUT] {
        trio.a.advise(trio.in_a, advice)?;
        pages::expect_frames("after advice", (&trio.a, trio.in_a), &trio.frames)?;
    }
    trio.a.check(trio.in_a, IDS)?;
    trio.expect_others_unchanged()
}

/// Three processes of which only one still maps the merged frames, so that reclaim treats them as
/// unshared.
fn alone(lab: &Lab) -> Result<Trio> {
    let trio = Trio::new(lab)?;
    trio.a.fill(trio.in_a, Ids::each(900))?;
    trio.b.fill(trio.in_b, Ids::each(5000))?;
    pages::expect_mappings(&trio.frames, 1)?;
    Ok(trio)
}

fn page_out_of_the_last_mapping_keeps_its_content(lab: &Lab) -> Result {
    let trio = alone(lab)?;
    for advice in [libc::MADV_COLD, libc::MADV_PAGEOUT] {
        trio.c.advise(trio.in_c, advice)?;
        procfs::write("/proc/sys/vm/compact_memory", "1")?;
    }
    trio.c.check(trio.in_c, IDS)?;
    scanner::expect_exact_counts("after page-out of the last mapping").map(drop)
}

/// Each page contains either its old content or zeros until it is written.
fn lazy_free_of_the_last_mapping(lab: &Lab) -> Result {
    let trio = alone(lab)?;
    trio.c.advise(trio.in_c, libc::MADV_FREE)?;
    procfs::write("/proc/sys/vm/drop_caches", "3")?;
    scanner::merge()?;
    for index in 0..PAGES {
        let page = trio.in_c.page(index);
        let held = trio.c.check(page, Ids::same(IDS.of(index)));
        held.or_else(|_| trio.c.check(page, Ids::ZERO))?;
    }
    scanner::expect_exact_counts("after MADV_FREE of the last mapping")?;
    trio.c.fill(trio.in_c, IDS)?;
    scanner::merge()?;
    trio.c.check(trio.in_c, IDS)
}

fn drop_caches_spares_merged_pages(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    procfs::write("/proc/sys/vm/drop_caches", "3")?;
    pages::expect_frames("after dropping caches", (&trio.a, trio.in_a), &trio.frames)?;
    trio.expect_others_unchanged()
}

/// Enough swap space for these tests, in MiB.
const SWAP_MIB: u64 = 64;

/// Swaps pages out and waits until they are swapped out.
fn swap_out(peer: &Peer, span: Span) -> Result {
    let is_out = || {
        peer.advise(span, libc::MADV_PAGEOUT).is_ok()
            && pagemap::entries(peer.pid(), span)
                .is_ok_and(|entries| entries.iter().all(|entry| entry.swapped()))
    };
    let out = task::wait_until(task::PATIENCE, is_out);
    expect::that(out, || {
        format!(
            "expected {span:?} to be swapped out, found {:?}",
            pagemap::entries(peer.pid(), span)
        )
    })
}

fn neighbours_are_swapped_out_and_back(lab: &Lab) -> Result<Completion> {
    let _swap = match Swap::open(SWAP_MIB)? {
        Ok(swap) => swap,
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    let trio = Trio::new(lab)?;
    let neighbours = trio.a.anon(PAGES, Ids::each(5000))?;
    trio.a.advise(trio.in_a, libc::MADV_PAGEOUT)?;
    swap_out(&trio.a, neighbours)?;
    pages::expect_frames(
        "while neighbours are swapped out",
        (&trio.a, trio.in_a),
        &trio.frames,
    )?;
    scanner::expect_exact_counts("while neighbours are swapped out")?;
    scanner::merge()?;
    trio.a.check(neighbours, Ids::each(5000))?;
    trio.a.check(trio.in_a, IDS)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after neighbours were swapped in")?;
    Ok(Completion::Completed)
}

/// Pages that were read back may still be in the swap cache, which holds references to them.
fn pages_that_were_swapped_in_are_merged(lab: &Lab) -> Result<Completion> {
    let _swap = match Swap::open(SWAP_MIB)? {
        Ok(swap) => swap,
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    swap_out(&a, in_a)?;
    scanner::merge()?;
    a.check(in_a, IDS)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)?;
    scanner::expect_exact_counts("after pages were swapped in and merged")?;
    // The swap space of the old pages is no longer used.
    let freed = task::wait_until(task::PATIENCE, || swap::in_use() == Some(0));
    expect::that(freed, || {
        format!(
            "swap space in use, in kB: expected 0, found {:?}",
            swap::in_use()
        )
    })?;
    Ok(Completion::Completed)
}
