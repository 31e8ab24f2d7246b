// SPDX-License-Identifier: GPL-2.0

//! The kinds of private memory that are merged.

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::SkippableTest;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::tests;
use guest::Result;
use libtest_mimic::Completion;

pub(super) const TESTS: &[Test] = tests![
    written_pages_of_private_files_are_merged,
    clean_pages_of_private_files_stay,
    stacks_are_merged,
    read_only_memory_is_merged,
    inaccessible_memory_stays_correct,
    pages_shared_by_fork_are_merged_as_one,
    pages_shared_by_fork_are_not_merged_with_themselves,
    registered_memory_is_merged_too,
    memory_outlives_the_first_thread,
];

pub(super) const SKIPPABLE: &[SkippableTest] = tests![heaps_are_merged];

fn written_pages_of_private_files_are_merged(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (a, b) = lab.pair()?;
    let in_a = a.filled(Kind::PrivateFile, 8, ids)?;
    let in_b = b.anon(8, ids)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, ids)
}

/// Each process has its own file, with equal contents.
fn clean_pages_of_private_files_stay(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.map(Kind::PrivateFile, 8)?, b.map(Kind::PrivateFile, 8)?);
    let controls = (a.anon(1, Ids::same(1))?, b.anon(1, Ids::same(1))?);
    for index in 0..8 {
        let (one, other) = (
            a.peek(in_a.page(index).addr)?,
            b.peek(in_b.page(index).addr)?,
        );
        expect::eq("first words of the files", one, other)?;
    }
    let before = (a.frames(in_a)?, b.frames(in_b)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, controls.0), (&b, controls.1)])?;
    expect::eq(
        "frames of the files",
        before,
        (a.frames(in_a)?, b.frames(in_b)?),
    )
}

fn heaps_are_merged(lab: &Lab) -> Result<Completion> {
    let ids = Ids::each(1);
    let (a, b) = lab.pair()?;
    let (Ok(in_a), Ok(in_b)) = (a.heap(16), b.heap(16)) else {
        return Ok(Completion::ignored_with("brk() has no room here"));
    };
    a.fill(in_a, ids)?;
    b.fill(in_b, ids)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, ids)?;
    Ok(Completion::Completed)
}

fn stacks_are_merged(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.stack()?, b.stack()?);
    a.fill(in_a, ids)?;
    b.fill(in_b, ids)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, ids)?;
    a.poke(in_a.addr, 1)?;
    b.check(in_b, ids)
}

fn read_only_memory_is_merged(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, ids)?, b.anon(8, ids)?);
    a.protect(in_a, libc::PROT_READ)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, ids)?;
    a.protect(in_a, libc::PROT_READ | libc::PROT_WRITE)?;
    a.fill(in_a, Ids::each(100))?;
    a.check(in_a, Ids::each(100))?;
    b.check(in_b, ids)
}

fn inaccessible_memory_stays_correct(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, ids)?, b.anon(8, ids)?);
    let zeros = a.anon(8, Ids::ZERO)?;
    a.protect(in_a, libc::PROT_NONE)?;
    a.protect(zeros, libc::PROT_NONE)?;
    scanner::merge()?;
    scanner::expect_exact_counts("with memory that is not accessible")?;
    for span in [in_a, zeros] {
        a.protect(span, libc::PROT_READ | libc::PROT_WRITE)?;
    }
    a.check(in_a, ids)?;
    a.check(zeros, Ids::ZERO)?;
    a.fill(in_a, Ids::each(100))?;
    a.fill(zeros, Ids::each(200))?;
    a.check(in_a, Ids::each(100))?;
    a.check(zeros, Ids::each(200))?;
    b.check(in_b, ids)
}

fn pages_shared_by_fork_are_merged_as_one(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (parent, other) = lab.pair()?;
    let span = parent.anon(8, ids)?;
    let child = parent.fork()?;
    pages::expect_frames(
        "pages of a forked child",
        (&child, span),
        &parent.frames(span)?,
    )?;
    let in_other = other.anon(8, ids)?;
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&parent, span), (&child, span), (&other, in_other)])?;
    pages::expect_mappings(&frames, 3)?;
    child.fill(span, Ids::each(100))?;
    parent.check(span, ids)?;
    other.check(in_other, ids)?;
    scanner::expect_exact_counts("after the child wrote").map(drop)
}

fn pages_shared_by_fork_are_not_merged_with_themselves(lab: &Lab) -> Result {
    let parent = lab.alice()?;
    let span = parent.anon(8, Ids::each(1))?;
    let child = parent.fork()?;
    let control = parent.anon(2, Ids::same(100))?;
    let before = parent.frames(span)?;
    scanner::scan(6)?;
    pages::expect_merged(&[(&parent, control)])?;
    pages::expect_frames("pages of the parent", (&parent, span), &before)?;
    pages::expect_frames("pages of the child", (&child, span), &before)
}

fn registered_memory_is_merged_too(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, ids)?, b.anon(8, ids)?);
    a.register(in_a)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

/// A process whose first thread has ended still has memory, but `/proc` shows none for its process ID.
fn memory_outlives_the_first_thread(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (a, b) = lab.pair()?;
    let thread = a.leave_first_thread()?;
    let (in_a, in_b) = (a.anon(8, ids)?, b.anon(8, ids)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&b, in_b)])?;
    expect::eq("frames of both", &frames, &pagemap::frames(thread, in_a)?)?;
    a.fill(in_a, Ids::each(100))?;
    a.check(in_a, Ids::each(100))?;
    b.check(in_b, ids)
}
