// SPDX-License-Identifier: GPL-2.0

//! Writes to merged pages, by the process itself and by others on its behalf.

use std::fs::OpenOptions;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pages;
use guest::process::trace;
use guest::tests;
use guest::Context;
use guest::Result;
use nix::sys::uio::process_vm_writev;
use nix::sys::uio::RemoteIoVec;
use nix::unistd::Pid;

use super::Trio;
use super::IDS;
use super::NEW;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    a_writer_gets_a_copy_and_others_keep_theirs,
    a_write_to_one_page_leaves_the_others_merged,
    all_sharers_write_in_turn,
    writes_of_the_same_bytes_count_as_writes,
    written_pages_merge_again_once_they_are_equal,
    the_last_sharer_keeps_the_page,
    writes_while_scanning_are_never_lost,
    writes_that_race_with_merging_are_never_lost,
    process_vm_writev_writes_to_a_copy,
    proc_pid_mem_writes_to_a_copy,
    ptrace_writes_to_a_copy,
    ptrace_writes_to_a_copy_of_read_only_memory,
];

fn a_writer_gets_a_copy_and_others_keep_theirs(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.fill(trio.in_a, NEW)?;
    trio.expect_private_copy(trio.in_a, NEW, "after one wrote")
}

fn a_write_to_one_page_leaves_the_others_merged(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.fill(trio.in_a.page(3), Ids::same(900))?;
    pages::expect_not_merged((&trio.a, trio.in_a.page(3)))?;
    pages::expect_frames(
        "pages before the written one",
        (&trio.a, trio.in_a.part(0, 3)),
        &trio.frames[..3],
    )?;
    pages::expect_frames(
        "pages after the written one",
        (&trio.a, trio.in_a.part(4, 4)),
        &trio.frames[4..],
    )?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after one page was written").map(drop)
}

fn all_sharers_write_in_turn(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let all = [
        (&trio.a, trio.in_a),
        (&trio.b, trio.in_b),
        (&trio.c, trio.in_c),
    ];
    for (index, &(peer, span)) in all.iter().enumerate() {
        peer.fill(span, Ids::each(1000 * (index as u64 + 1)))?;
        scanner::expect_exact_counts(&format!("after {} of 3 wrote", index + 1))?;
        for &(other, kept) in &all[index + 1..] {
            other.check(kept, IDS)?;
            pages::expect_frames(
                "processes that have not written yet",
                (other, kept),
                &trio.frames,
            )?;
        }
    }
    for (index, &(peer, span)) in all.iter().enumerate() {
        peer.check(span, Ids::each(1000 * (index as u64 + 1)))?;
        pages::expect_not_merged((peer, span))?;
    }
    for frame in &trio.frames {
        let flags = frame.flags()?;
        expect::that(!flags.ksm(), || {
            format!("{frame:?}, which nobody maps: expected not to be merged, found {flags:?}")
        })?;
    }
    Ok(())
}

fn writes_of_the_same_bytes_count_as_writes(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.fill(trio.in_a, IDS)?;
    trio.expect_private_copy(trio.in_a, IDS, "after the same bytes were written")
}

fn written_pages_merge_again_once_they_are_equal(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.fill(trio.in_a, NEW)?;
    scanner::merge()?;
    trio.expect_private_copy(trio.in_a, NEW, "after another pass")?;
    trio.a.fill(trio.in_a, IDS)?;
    scanner::merge()?;
    pages::expect_frames("pages written back", (&trio.a, trio.in_a), &trio.frames)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after merging again").map(drop)
}

/// The last mapping of a merged page stays valid, and other pages can still be merged with it.
fn the_last_sharer_keeps_the_page(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.fill(trio.in_a, NEW)?;
    trio.b.fill(trio.in_b, Ids::each(2000))?;
    pages::expect_frames("the last sharer", (&trio.c, trio.in_c), &trio.frames)?;
    let alone = scanner::expect_exact_counts("with one sharer")?;
    scanner::merge()?;
    let passed = scanner::expect_exact_counts("with one sharer, after a pass")?;
    expect::that(passed.shared >= PAGES, || {
        format!("pages_shared: expected the {PAGES} pages still mapped, found {passed:?}, {alone:?} before")
    })?;
    trio.b.fill(trio.in_b, IDS)?;
    scanner::merge()?;
    pages::expect_merged(&[(&trio.b, trio.in_b), (&trio.c, trio.in_c)])?;
    trio.c.fill(trio.in_c, NEW)?;
    trio.b.check(trio.in_b, IDS)?;
    trio.c.check(trio.in_c, NEW)
}

fn writes_while_scanning_are_never_lost(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(16, IDS)?, b.anon(16, IDS)?);
    scanner::start()?;
    for round in 0..60 {
        // Half of the pages are equal; which ones changes from round to round.
        let mine = Ids::each(100 + round % 2 * 8);
        a.fill(in_a, mine)?;
        a.poke(in_a.page(round % 16).addr, round)?;
        b.check(in_b, IDS)?;
        expect::eq(
            "the word written",
            round,
            a.peek(in_a.page(round % 16).addr)?,
        )?;
        a.check(in_a.part(0, round % 16), mine)?;
        if round % 10 == 9 {
            b.fill(in_b, IDS)?;
        }
    }
    scanner::stop()
}

/// A process makes its pages equal to another one's and unequal again as fast as it can, while the
/// scanner merges equal pages. So some writes happen between the comparison and the replacement of a
/// page.
fn writes_that_race_with_merging_are_never_lost(lab: &Lab) -> Result {
    const MANY: u64 = 64;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(MANY, IDS)?, b.anon(MANY, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    scanner::start()?;
    a.flip(in_a, Duration::from_secs(5))?;
    // Only two pages, so that a write follows each check as soon as possible.
    let zeros = a.anon(2, Ids::ZERO)?;
    a.flip(zeros, Duration::from_secs(4))?;
    scanner::stop()?;
    b.check(in_b, IDS)
}

/// The words of the new contents.
fn new_words() -> impl Iterator<Item = u64> {
    (0..PAGES).flat_map(|page| *content::page(NEW.of(page)))
}

fn new_bytes() -> Vec<u8> {
    new_words().flat_map(u64::to_ne_bytes).collect()
}

fn process_vm_writev_writes_to_a_copy(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let (bytes, length) = (new_bytes(), (PAGES * PAGE_SIZE) as usize);
    let remote = RemoteIoVec {
        base: trio.in_a.addr as usize,
        len: length,
    };
    let pid = Pid::from_raw(trio.a.pid());
    let written = process_vm_writev(pid, &[IoSlice::new(&bytes)], &[remote]);
    let written = written.context(|| "process_vm_writev")?;
    expect::eq("bytes written", length, written)?;
    trio.expect_private_copy(trio.in_a, NEW, "after process_vm_writev")
}

fn proc_pid_mem_writes_to_a_copy(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let path = format!("/proc/{}/mem", trio.a.pid());
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| file.write_all_at(&new_bytes(), trio.in_a.addr))
        .context(|| format!("writing {path}"))?;
    trio.expect_private_copy(trio.in_a, NEW, "after a write to /proc/PID/mem")
}

fn ptrace_writes_to_a_copy(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trace_and_write(&trio)?;
    trio.expect_private_copy(trio.in_a, NEW, "after ptrace")
}

fn ptrace_writes_to_a_copy_of_read_only_memory(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.protect(trio.in_a, libc::PROT_READ)?;
    trace_and_write(&trio)?;
    trio.expect_private_copy(trio.in_a, NEW, "after ptrace")
}

/// Writes new contents through ptrace, like a debugger.
fn trace_and_write(trio: &Trio) -> Result {
    let words: Vec<u64> = new_words().collect();
    trace::write(trio.a.pid(), trio.in_a.addr, &words)
}
