// SPDX-License-Identifier: GPL-2.0

//! Memory ranges and processes that did not opt in to merging and must be skipped for some reason.
//!
//! Each test has three processes with equal pages. Two are ordinary, and their merge proves that the
//! scanner ran; the third one has the memory to be skipped, and must keep its frames. If the reason
//! can be removed, the test removes it and expects that all three are merged, which proves that
//! nothing else prevented it.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::SkippableTest;
use guest::lab::Test;
use guest::memory::content;
use guest::memory::content::Ids;
use guest::memory::pagemap;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::trace;
use guest::process::userfaultfd::WRITE_PROTECT;
use guest::tests;
use guest::Result;
use guest::Span;
use libtest_mimic::Completion;

pub(super) const TESTS: &[Test] = tests![
    locked_memory,
    memory_locked_on_fault,
    memory_of_a_process_that_locks_all,
    memory_wiped_on_fork,
    memory_not_dumped,
    memory_not_copied_by_forks,
    droppable_memory,
    memory_watched_for_writes,
    shared_anonymous_memory,
    shared_files,
    hugetlb_memory,
    mappings_of_addresses,
    processes_that_are_not_dumpable,
    buffers_pinned_by_io_uring,
    pages_given_to_a_pipe,
    written_pages_of_the_vdso,
    zeros_of_memory_left_alone,
    pages_left_alone_are_no_partners,
];

pub(super) const SKIPPABLE: &[SkippableTest] = tests![shadow_stacks];

const PAGES: u64 = 8;
const IDS: Ids = Ids::each(100);

/// Removes the reason to skip the memory.
type Release = fn(&Peer, Span) -> Result;

/// Expects that the memory that `make` creates in a process of `user` is skipped until `release`.
fn expect_left_alone(
    lab: &Lab,
    user: User,
    make: impl FnOnce(&Peer) -> Result<Span>,
    release: Option<Release>,
) -> Result {
    let (a, other, b) = (lab.peer(user)?, lab.peer(user)?, lab.peer(user)?);
    // The scanner may see the skipped process first or last.
    let in_a = a.anon(PAGES, IDS)?;
    let span = make(&other)?;
    let in_b = b.anon(PAGES, IDS)?;
    let before = pagemap::entries(other.pid(), span)?;
    scanner::scan(6)?;
    let merged = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let after = pagemap::entries(other.pid(), span)?;
    expect::eq("page table entries of skipped memory", before, after)?;
    // This also covers what /proc/PID/pagemap does not show.
    pages::expect_mappings(&merged, 2)?;
    scanner::expect_exact_counts("with pages left alone")?;
    if let Some(release) = release {
        release(&other, span)?;
        scanner::merge()?;
        pages::expect_frames(
            "pages after the reason was removed",
            (&other, span),
            &merged,
        )?;
    }
    other.check(span, IDS)
}

fn alice(lab: &Lab, make: impl FnOnce(&Peer) -> Result<Span>, release: Option<Release>) -> Result {
    expect_left_alone(lab, User::Alice, make, release)
}

/// Ordinary pages with some advice, and the advice that undoes it.
fn advised(lab: &Lab, advice: i32, release: Release) -> Result {
    let make = |peer: &Peer| {
        let span = peer.anon(PAGES, IDS)?;
        peer.advise(span, advice)?;
        Ok(span)
    };
    alice(lab, make, Some(release))
}

fn locked_memory(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        let span = peer.anon(PAGES, IDS)?;
        peer.lock(span)?;
        Ok(span)
    };
    alice(lab, make, Some(Peer::unlock))
}

fn memory_locked_on_fault(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        let span = peer.anon(PAGES, IDS)?;
        peer.lock_on_fault(span)?;
        Ok(span)
    };
    alice(lab, make, Some(Peer::unlock))
}

fn memory_of_a_process_that_locks_all(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        peer.lock_all()?;
        peer.anon(PAGES, IDS)
    };
    alice(lab, make, Some(Peer::unlock))
}

fn memory_wiped_on_fork(lab: &Lab) -> Result {
    advised(lab, libc::MADV_WIPEONFORK, |peer, span| {
        peer.advise(span, libc::MADV_KEEPONFORK)
    })
}

fn memory_not_dumped(lab: &Lab) -> Result {
    advised(lab, libc::MADV_DONTDUMP, |peer, span| {
        peer.advise(span, libc::MADV_DODUMP)
    })
}

fn memory_not_copied_by_forks(lab: &Lab) -> Result {
    advised(lab, libc::MADV_DONTFORK, |peer, span| {
        peer.advise(span, libc::MADV_DOFORK)
    })
}

fn droppable_memory(lab: &Lab) -> Result {
    alice(lab, |peer| peer.filled(Kind::Droppable, PAGES, IDS), None)
}

fn memory_watched_for_writes(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        let span = peer.anon(PAGES, IDS)?;
        peer.watch(span, WRITE_PROTECT)?;
        Ok(span)
    };
    alice(lab, make, Some(|peer, _| peer.unwatch()))
}

fn shared_anonymous_memory(lab: &Lab) -> Result {
    alice(lab, |peer| peer.filled(Kind::SharedAnon, PAGES, IDS), None)
}

fn shared_files(lab: &Lab) -> Result {
    alice(lab, |peer| peer.filled(Kind::SharedFile, PAGES, IDS), None)
}

/// Reserves huge pages for hugetlbfs while it exists.
struct HugePages;

impl HugePages {
    const KNOB: &'static str = "/proc/sys/vm/nr_hugepages";

    fn reserve(count: u64) -> Result<Self> {
        procfs::write(Self::KNOB, &count.to_string())?;
        let found = procfs::number(Self::KNOB)?;
        expect::that(found >= count, || {
            format!("huge pages: expected {count}, found {found}")
        })?;
        Ok(HugePages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if procfs::write(Self::KNOB, "0").is_err() {
            eprintln!("the huge pages could not be released");
        }
    }
}

fn hugetlb_memory(lab: &Lab) -> Result {
    let _pages = HugePages::reserve(2)?;
    let make = |peer: &Peer| {
        let span = peer.map(Kind::Huge, 512)?.part(0, PAGES);
        peer.fill(span, IDS)?;
        Ok(span)
    };
    alice(lab, make, None)
}

/// Written pages of a private PFN mapping are ordinary pages in a place where no others may be.
fn mappings_of_addresses(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        let span = peer.filled(Kind::Special, PAGES, IDS)?;
        let flags = procfs::vma_flags(peer.pid(), span.addr)?;
        expect::that(flags.iter().any(|flag| flag == "pf"), || {
            format!("flags of a mapping of /dev/mem: expected pf among them, found {flags:?}")
        })?;
        Ok(span)
    };
    expect_left_alone(lab, User::Root, make, None)
}

fn processes_that_are_not_dumpable(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        peer.set_dumpable(false)?;
        peer.anon(PAGES, IDS)
    };
    alice(lab, make, Some(|peer, _| peer.set_dumpable(true)))
}

fn buffers_pinned_by_io_uring(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        let span = peer.anon(PAGES, IDS)?;
        peer.pin(span)?;
        Ok(span)
    };
    alice(lab, make, Some(|peer, _| peer.unpin()))
}

fn pages_given_to_a_pipe(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        let span = peer.anon(PAGES, IDS)?;
        peer.splice(span)?;
        Ok(span)
    };
    alice(lab, make, Some(|peer, _| peer.check_pipe(PAGES, IDS)))
}

/// The vDSO, the kernel's code in a process: a debugger's write to it creates private pages in a
/// mapping that must not change.
fn written_pages_of_the_vdso(lab: &Lab) -> Result {
    let make = |peer: &Peer| {
        let maps = procfs::read(&format!("/proc/{}/maps", peer.pid()))?;
        let line = maps.lines().find(|line| line.ends_with("[vdso]"));
        let range = line.and_then(procfs::mapping);
        let start = range.ok_or("the process has no vdso")?.start;
        let span = Span::new(start, 1);
        trace::write(peer.pid(), span.addr, content::page(IDS.first).as_slice())?;
        peer.check(span, IDS)?;
        Ok(span)
    };
    alice(lab, make, None)
}

/// Pages of zeros need no partner, and are skipped for the same reasons.
fn zeros_of_memory_left_alone(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let control = peer.anon(1, Ids::ZERO)?;
    let make: [fn(&Peer, Span) -> Result; 4] = [
        |peer, span| peer.lock(span),
        |peer, span| peer.advise(span, libc::MADV_DONTDUMP),
        |peer, span| peer.advise(span, libc::MADV_WIPEONFORK),
        |peer, span| peer.pin(span),
    ];
    let mut spans = Vec::new();
    for make in make {
        let span = peer.anon(PAGES, Ids::ZERO)?;
        make(&peer, span)?;
        spans.push((span, peer.frames(span)?));
    }
    scanner::merge()?;
    pages::expect_zero_page((&peer, control))?;
    for (span, before) in spans {
        pages::expect_frames("skipped pages of zeros", (&peer, span), &before)?;
    }
    Ok(())
}

/// A page whose only equal pages are skipped stays unchanged: it is not replaced by a shared page,
/// either.
fn pages_left_alone_are_no_partners(lab: &Lab) -> Result {
    let reasons: [fn(&Peer, Span) -> Result; 4] = [
        |peer, span| peer.lock(span),
        |peer, span| peer.advise(span, libc::MADV_DONTDUMP),
        |peer, span| peer.watch(span, WRITE_PROTECT),
        |peer, _| peer.set_dumpable(false),
    ];
    for index in 0..2 * reasons.len() {
        let reason = reasons[index / 2];
        // The skipped process is seen last in one case, and first in the other.
        let (one, two) = lab.pair()?;
        let (a, other) = if index % 2 == 0 {
            (one, two)
        } else {
            (two, one)
        };
        let controls = a.anon(2, Ids::same(7))?;
        let (in_a, span) = (a.anon(PAGES, IDS)?, other.anon(PAGES, IDS)?);
        reason(&other, span)?;
        let before = (a.frames(in_a)?, other.frames(span)?);
        scanner::scan(6)?;
        pages::expect_merged(&[(&a, controls)])?;
        let after = (a.frames(in_a)?, other.frames(span)?);
        expect::eq(format!("frames, in case {index}"), before, after)?;
    }
    Ok(())
}

fn shadow_stacks(lab: &Lab) -> Result<Completion> {
    let peer = lab.alice()?;
    let place = peer.free_place(PAGES);
    match peer.map_shadow_stack(place) {
        Ok(()) => {}
        Err(_) => {
            return Ok(Completion::ignored_with(
                "this machine has no shadow stacks",
            ))
        }
    }
    // All its pages are zeros, except the first.
    let before = pagemap::entries(peer.pid(), place)?;
    let control = peer.anon(1, Ids::ZERO)?;
    scanner::merge()?;
    pages::expect_zero_page((&peer, control))?;
    expect::eq(
        "entries of the shadow stack",
        before,
        pagemap::entries(peer.pid(), place)?,
    )?;
    Ok(Completion::Completed)
}
