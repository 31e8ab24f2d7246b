// SPDX-License-Identifier: GPL-2.0

//! Other kernel users that refer to merged pages.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap;
use guest::memory::pages;
use guest::tests;
use guest::Result;
use guest::Span;

use super::Trio;
use super::IDS;
use super::NEW;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    a_pipe_keeps_what_it_was_given,
    a_pinned_buffer_is_a_copy,
    writes_to_a_pinned_buffer_reach_its_owner,
    a_pinned_buffer_stays_pinned_while_scanning,
];

/// The tests that need soft-dirty bits.
pub(super) const SOFT_DIRTY: &[Test] = tests![marks_of_written_pages_survive];

/// Checkpointing tools and debuggers track writes by soft-dirty bits: a merge is not a write, and
/// must not hide one.
fn marks_of_written_pages_survive(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    let zeros = a.anon(PAGES, Ids::ZERO)?;
    procfs::write(&format!("/proc/{}/clear_refs", a.pid()), "4")?;
    a.fill(in_a.part(0, 4), IDS)?;
    a.fill(zeros.part(0, 4), Ids::ZERO)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_zero_page((&a, zeros))?;
    let marks = |span: Span| -> Result<Vec<bool>> {
        let entries = pagemap::entries(a.pid(), span)?;
        Ok(entries.iter().map(|entry| entry.soft_dirty()).collect())
    };
    let expected = [true, true, true, true, false, false, false, false];
    expect::eq(
        "soft-dirty bits of merged pages",
        &expected[..],
        &marks(in_a)?,
    )?;
    // Mainline sets the bit on all of them, written or not.
    expect::eq(
        "soft-dirty bits of merged zeros",
        &expected[..],
        &marks(zeros)?,
    )
}

/// The pipe refers to the merged frames; a write by their owner must not show in the pipe.
fn a_pipe_keeps_what_it_was_given(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.splice(trio.in_a)?;
    scanner::expect_exact_counts("with merged pages in a pipe")?;
    trio.a.fill(trio.in_a, NEW)?;
    scanner::merge()?;
    trio.expect_others_unchanged()?;
    trio.a.check_pipe(PAGES, IDS)?;
    trio.expect_private_copy(trio.in_a, NEW, "after the pipe was emptied")
}

fn a_pinned_buffer_is_a_copy(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.pin(trio.in_a)?;
    trio.expect_private_copy(trio.in_a, IDS, "after pinning")?;
    let pinned = trio.a.frames(trio.in_a)?;
    scanner::merge()?;
    pages::expect_frames("pinned pages after a pass", (&trio.a, trio.in_a), &pinned)?;
    trio.a.unpin()?;
    scanner::merge()?;
    pages::expect_frames(
        "unpinned pages after a pass",
        (&trio.a, trio.in_a),
        &trio.frames,
    )
}

fn writes_to_a_pinned_buffer_reach_its_owner(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.pin(trio.in_a)?;
    for index in 0..PAGES {
        let addr = trio.in_a.page(index).addr + 8 * index;
        trio.a.pinned_write(addr, 0xfeed + index)?;
        expect::eq(
            "word written through the pin",
            0xfeed + index,
            trio.a.peek(addr)?,
        )?;
    }
    trio.expect_others_unchanged()
}

/// If a pinned page were replaced, writes through the pin would go to a page that no process maps.
fn a_pinned_buffer_stays_pinned_while_scanning(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    a.pin(in_a)?;
    let in_c = b.anon(PAGES, IDS)?;
    scanner::start()?;
    for round in 1..50 {
        let addr = in_a.page(round % PAGES).addr + 16;
        a.pinned_write(addr, round)?;
        expect::eq("word written through the pin", round, a.peek(addr)?)?;
        a.fill(in_a, IDS)?;
    }
    scanner::stop()?;
    b.check(in_b, IDS)?;
    pages::expect_merged(&[(&b, in_b), (&b, in_c)]).map(drop)
}
