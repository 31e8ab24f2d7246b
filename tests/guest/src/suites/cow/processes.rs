// SPDX-License-Identifier: GPL-2.0

//! Fork, exit and `execve` of processes with merged pages.

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::tests;
use guest::Result;

use super::Trio;
use super::IDS;
use super::NEW;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    fork_shares_merged_pages,
    a_forked_child_writes_to_its_own,
    a_forking_parent_writes_to_its_own,
    children_of_children,
    fork_keeps_zero_pages_counted,
    exit_takes_only_its_own_mappings,
    frames_are_freed_with_the_last_sharer,
    exec_takes_only_its_own_mappings,
    a_new_program_merges_again,
];

fn fork_shares_merged_pages(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let child = trio.a.fork()?;
    pages::expect_frames("the child", (&child, trio.in_a), &trio.frames)?;
    pages::expect_mappings(&trio.frames, 4)?;
    scanner::expect_exact_counts("after the fork")?;
    child.check(trio.in_a, IDS)?;
    scanner::merge()?;
    pages::expect_frames("the child, after a pass", (&child, trio.in_a), &trio.frames)?;
    scanner::expect_exact_counts("after the fork and a pass")?;
    child.exit()?;
    pages::expect_mappings(&trio.frames, 3)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after the child exited").map(drop)
}

fn a_forked_child_writes_to_its_own(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let child = trio.a.fork()?;
    child.fill(trio.in_a, NEW)?;
    child.check(trio.in_a, NEW)?;
    trio.a.check(trio.in_a, IDS)?;
    pages::expect_not_merged((&child, trio.in_a))?;
    pages::expect_frames("the parent", (&trio.a, trio.in_a), &trio.frames)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after the child wrote").map(drop)
}

fn a_forking_parent_writes_to_its_own(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let child = trio.a.fork()?;
    trio.a.fill(trio.in_a, NEW)?;
    child.check(trio.in_a, IDS)?;
    trio.a.check(trio.in_a, NEW)?;
    pages::expect_frames("the child", (&child, trio.in_a), &trio.frames)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after the parent wrote").map(drop)
}

fn children_of_children(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let child = trio.a.fork()?;
    child.fill(trio.in_a.part(0, 4), NEW)?;
    let grandchild = child.fork()?;
    scanner::merge()?;
    grandchild.fill(trio.in_a.part(2, 4), Ids::each(5000))?;
    drop(child);
    grandchild.check(trio.in_a.part(0, 2), NEW)?;
    grandchild.check(trio.in_a.part(2, 4), Ids::each(5000))?;
    grandchild.check(trio.in_a.part(6, 2), Ids::each(IDS.of(6)))?;
    trio.a.check(trio.in_a, IDS)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("with three generations").map(drop)
}

/// A child inherits its parent's zero pages; its exit must not subtract the parent's pages from the
/// count.
fn fork_keeps_zero_pages_counted(lab: &Lab) -> Result {
    let parent = lab.alice()?;
    let span = parent.anon(PAGES, Ids::ZERO)?;
    scanner::merge()?;
    pages::expect_zero_page((&parent, span))?;
    let alone = scanner::expect_exact_counts("with zeros merged")?;
    let child = parent.fork()?;
    pages::expect_zero_page((&child, span))?;
    scanner::expect_exact_counts("after the fork")?;
    child.fill(span.part(0, 4), NEW)?;
    parent.check(span, Ids::ZERO)?;
    scanner::expect_exact_counts("after the child wrote")?;
    child.exit()?;
    let after = scanner::expect_exact_counts("after the child exited")?;
    expect::that(
        after.zero >= PAGES as i64 && after.zero <= alone.zero,
        || {
            format!(
                "zero_pages after the child exited: expected {PAGES} to {}, found {}",
                alone.zero, after.zero
            )
        },
    )?;
    parent.exit()?;
    scanner::expect_exact_counts("after the parent exited").map(drop)
}

fn exit_takes_only_its_own_mappings(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let (c, b) = (&trio.c, &trio.b);
    trio.a.exit()?;
    pages::expect_mappings(&trio.frames, 2)?;
    scanner::expect_exact_counts("after one exited")?;
    b.check(trio.in_b, IDS)?;
    c.check(trio.in_c, IDS)?;
    pages::expect_merged(&[(b, trio.in_b), (c, trio.in_c)]).map(drop)
}

fn frames_are_freed_with_the_last_sharer(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.exit()?;
    trio.b.exit()?;
    trio.c.exit()?;
    scanner::expect_exact_counts("after all exited")?;
    for frame in &trio.frames {
        let flags = frame.flags()?;
        expect::that(!flags.ksm(), || {
            format!("{frame:?}, whose sharers exited: expected to be free, found {flags:?}")
        })?;
    }
    Ok(())
}

fn exec_takes_only_its_own_mappings(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.exec()?;
    trio.expect_others_unchanged()?;
    pages::expect_mappings(&trio.frames, 2)?;
    scanner::expect_exact_counts("after one ran a new program").map(drop)
}

fn a_new_program_merges_again(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.exec()?;
    let span = trio.a.anon(PAGES, IDS)?;
    scanner::merge()?;
    pages::expect_frames("the new program", (&trio.a, span), &trio.frames)?;
    trio.expect_others_unchanged()
}
