// SPDX-License-Identifier: GPL-2.0

//! Nearby pages are merged together, even with gaps or other pages between them.

use guest::expect;
use guest::kernel::feature::Feature;
use guest::kernel::probe;
use guest::kernel::probe::CallCount;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    pages_with_gaps_between_them_are_merged,
    forked_pages_between_others_are_merged,
    pinned_pages_between_others_stay,
];

pub(super) const COUNTING_TESTS: &[Test] = tests![near_pages_are_merged_with_few_flushes];

pub(super) const COUNTING_HUGE_TESTS: &[Test] = tests![huge_pages_are_merged_with_few_flushes];

/// The knob that says which VMAs get transparent huge pages.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// More pages than one page table maps.
const PAGES: u64 = 1200;
/// A few dozen pages.
const FEW: u64 = 48;

fn near_pages_are_merged_with_few_flushes(lab: &Lab) -> Result {
    if Feature::HugePages.missing().is_none() {
        procfs::write(HUGE_PAGES, "never")?;
    }
    expect_few_flushes(lab)
}

fn huge_pages_are_merged_with_few_flushes(lab: &Lab) -> Result {
    procfs::write(HUGE_PAGES, "always")?;
    expect_few_flushes(lab)
}

/// Expects one TLB flush for at least four merged pages: an eighth of mainline's number of flushes.
fn expect_few_flushes(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    let flushes = CallCount::start(probe::FLUSH)?;
    scanner::merge()?;
    let calls = flushes.calls()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    expect::within("flushes", 1..=PAGES / 4, calls)
}

/// The next page to merge may be adjacent, within reach, or in another page table.
fn pages_with_gaps_between_them_are_merged(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    let mut kept = vec![0];
    for gap in (0..40).cycle() {
        let discarded = kept[kept.len() - 1] + 1;
        if discarded + gap >= PAGES {
            break;
        }
        if gap > 0 {
            a.advise(in_a.part(discarded, gap), libc::MADV_DONTNEED)?;
            b.advise(in_b.part(discarded, gap), libc::MADV_DONTNEED)?;
        }
        kept.push(discarded + gap);
    }
    scanner::merge()?;
    for index in kept {
        pages::expect_merged(&[(&a, in_a.page(index)), (&b, in_b.page(index))])?;
        a.check(in_a.page(index), Ids::same(ids.of(index)))?;
    }
    Ok(())
}

/// Every other page is mapped twice.
fn forked_pages_between_others_are_merged(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(FEW, ids)?, b.anon(FEW, ids)?);
    let child = a.fork()?;
    for index in (0..FEW).step_by(2) {
        child.fill(in_a.page(index), Ids::same(ids.of(index)))?;
    }
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&child, in_a), (&b, in_b)])?;
    pages::expect_mappings(&frames, 3)?;
    child.check(in_a, ids)
}

/// A pinned page stays unmerged until it is unpinned.
fn pinned_pages_between_others_stay(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(FEW, ids)?, b.anon(FEW, ids)?);
    let middle = FEW / 2;
    b.pin(in_b.page(middle))?;
    let before = b.frames(in_b.page(middle))?;
    scanner::merge()?;
    pages::expect_frames("the pinned page", (&b, in_b.page(middle)), &before)?;
    for (first, count) in [(0, middle), (middle + 1, FEW - middle - 1)] {
        pages::expect_merged(&[(&a, in_a.part(first, count)), (&b, in_b.part(first, count))])?;
    }
    b.unpin()?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}
