// SPDX-License-Identifier: GPL-2.0

//! Frames from which kernel loads fail, provoked by the module `ksm_v_fail_frame`. This simulates
//! memory that has failed unnoticed: code that does not recover from the failed load crashes the
//! machine.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    samples_of_failed_memory_end_nothing,
    twins_on_failed_memory_end_nothing,
    shared_pages_on_failed_memory_end_nothing,
    failed_memory_is_no_zero_page,
    memory_that_fails_after_its_sample_ends_nothing,
];

const PAGES: u64 = 8;
/// The page whose frame fails.
const PAGE: u64 = 3;
const IDS: Ids = Ids::each(100);

/// Makes loads from a frame fail while this exists. It must be dropped before the process that owns
/// the page ends, or the kernel could not reuse the frame.
struct Failing(());

impl Failing {
    const FILE: &'static str = "/sys/kernel/debug/ksm_v_fail_frame";

    fn new(frame: Frame) -> Result<Self> {
        module::load_beside("ksm_v_fail_frame")?;
        procfs::write(Self::FILE, &frame.0.to_string())?;
        Ok(Failing(()))
    }

    /// The file for a frame that fails when the module is about to check whether all of it can be read.
    const LATE: &'static str = "/sys/kernel/debug/ksm_v_fail_frame_late";

    fn late(frame: Frame) -> Result<Self> {
        module::load_beside("ksm_v_fail_frame")?;
        procfs::write(Self::LATE, &frame.0.to_string())?;
        Ok(Failing(()))
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        if procfs::write(Self::FILE, "0").is_err() {
            eprintln!("a frame still fails");
        }
    }
}

/// Expects that all pages except [`PAGE`] are merged.
fn expect_others_merged(all: &[pages::Pages<'_>], ids: Ids) -> Result {
    for (first, count) in [(0, PAGE), (PAGE + 1, PAGES - PAGE - 1)] {
        let mut parts = all.to_vec();
        for (_, span) in &mut parts {
            *span = span.part(first, count);
        }
        pages::expect_merged(&parts)?;
    }
    for &(peer, span) in all {
        pages::expect_not_merged((peer, span.page(PAGE)))?;
        peer.check(span, ids)?;
    }
    Ok(())
}

/// Expects that all pages are merged after the memory works again.
fn expect_merged(all: &[pages::Pages<'_>], ids: Ids) -> Result {
    scanner::merge()?;
    pages::expect_merged(all)?;
    for &(peer, span) in all {
        peer.check(span, ids)?;
    }
    Ok(())
}

fn samples_of_failed_memory_end_nothing(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    let all = [(&a, in_a), (&b, in_b)];
    let failing = Failing::new(a.frame(in_a, PAGE)?)?;
    scanner::merge()?;
    expect_others_merged(&all, IDS)?;
    drop(failing);
    expect_merged(&all, IDS)
}

/// The page was seen before its frame failed, and is compared with later pages.
fn twins_on_failed_memory_end_nothing(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let in_a = a.anon(PAGES, IDS)?;
    knob::set(knob::WRITE_ONLY, a.pid())?;
    let failing = Failing::new(a.frame(in_a, PAGE)?)?;
    let in_b = b.anon(PAGES, IDS)?;
    knob::set(knob::WRITE_ONLY, b.pid())?;
    let all = [(&a, in_a), (&b, in_b)];
    expect_others_merged(&all, IDS)?;
    drop(failing);
    expect_merged(&all, IDS)
}

fn shared_pages_on_failed_memory_end_nothing(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let failing = Failing::new(a.frame(in_a, PAGE)?)?;
    let c = lab.alice()?;
    let in_c = c.anon(PAGES, IDS)?;
    scanner::merge()?;
    pages::expect_not_merged((&c, in_c.page(PAGE)))?;
    c.check(in_c, IDS)?;
    drop(failing);
    expect_merged(&[(&a, in_a), (&b, in_b), (&c, in_c)], IDS)
}

/// Expects that all pages of zeros except [`PAGE`] are merged, and that one, too, after its memory works again.
fn expect_others_zero((peer, span): pages::Pages<'_>, failing: Failing) -> Result {
    pages::expect_zero_page((peer, span.part(0, PAGE)))?;
    pages::expect_not_merged((peer, span.page(PAGE)))?;
    drop(failing);
    scanner::merge()?;
    pages::expect_zero_page((peer, span))?;
    peer.check(span, Ids::ZERO)
}

fn failed_memory_is_no_zero_page(lab: &Lab) -> Result {
    let a = lab.alice()?;
    let in_a = a.anon(PAGES, Ids::ZERO)?;
    let failing = Failing::new(a.frame(in_a, PAGE)?)?;
    scanner::merge()?;
    expect_others_zero((&a, in_a), failing)
}

/// The sample of a page of zeros was read before its memory fails.
fn memory_that_fails_after_its_sample_ends_nothing(lab: &Lab) -> Result {
    let a = lab.alice()?;
    let in_a = a.anon(PAGES, Ids::ZERO)?;
    let failing = Failing::late(a.frame(in_a, PAGE)?)?;
    scanner::merge()?;
    let failed = procfs::number(Failing::LATE)?;
    expect::eq("frames that failed before they were read whole", 1, failed)?;
    expect_others_zero((&a, in_a), failing)
}
