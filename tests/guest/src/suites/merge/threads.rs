// SPDX-License-Identifier: GPL-2.0

//! Scanning with several threads.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::kernel::probe;
use guest::kernel::probe::CallRecorder;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::task;
use guest::process::task::PATIENCE;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    several_threads_merge_all,
    several_threads_merge_out_of_forks,
    several_threads_look_at_each_page_once_a_pass,
    several_threads_all_work,
    several_threads_share_an_address_space,
    several_threads_unmerge_all,
    threads_change_while_they_scan,
];

const THREADS: u64 = 4;
const PROCESSES: usize = 8;
const PAGES: u64 = 600;
const IDS: Ids = Ids::each(100);
/// The number of passes after which pages are merged even if several threads competed for them.
const PASSES: u64 = 8;

/// Processes with equal pages.
fn crowd(lab: &Lab) -> Result<Vec<(Peer, Span)>> {
    knob::set("threads", THREADS)?;
    let place = |peer: Peer| peer.anon(PAGES, IDS).map(|span| (peer, span));
    lab.alices(PROCESSES)?.into_iter().map(place).collect()
}

/// Expects that all pages are merged. Several threads may have made separate shared pages of the same
/// content, but no page may stay unmerged.
fn expect_merged(crowd: &[(Peer, Span)]) -> Result {
    let mut mappings: BTreeMap<(usize, Frame), u64> = BTreeMap::new();
    for (peer, span) in crowd {
        for (page, frame) in peer.frames(*span)?.into_iter().enumerate() {
            expect::that(frame.flags()?.ksm(), || {
                format!(
                    "page {page} of process {}: expected to be merged",
                    peer.pid()
                )
            })?;
            *mappings.entry((page, frame)).or_default() += 1;
        }
    }
    let frames: BTreeSet<Frame> = mappings.keys().map(|&(_, frame)| frame).collect();
    expect::eq("contents on one frame each", mappings.len(), frames.len())?;
    // One frame per content, or a few more.
    expect::within(
        "shared frames",
        PAGES..=PAGES + PAGES / 10,
        frames.len() as u64,
    )
}

fn several_threads_merge_all(lab: &Lab) -> Result {
    let crowd = crowd(lab)?;
    let zeroes = crowd[0].0.anon(64, Ids::ZERO)?;
    scanner::scan(PASSES)?;
    expect_merged(&crowd)?;
    pages::expect_zero_page((&crowd[0].0, zeroes))?;
    for (peer, span) in &crowd {
        peer.check(*span, IDS)?;
    }
    crowd[0].0.poke(crowd[0].1.addr, 1)?;
    crowd[1].0.check(crowd[1].1, IDS)?;
    scanner::expect_exact_counts("after merging by several threads").map(drop)
}

/// Pages with several mappings, which threads find in several processes at the same time.
fn several_threads_merge_out_of_forks(lab: &Lab) -> Result {
    knob::set("threads", THREADS)?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    let mut crowd = vec![(a.fork()?, in_a), (a.fork()?, in_a), (b.fork()?, in_b)];
    crowd.extend([(a, in_a), (b, in_b)]);
    scanner::scan(PASSES)?;
    expect_merged(&crowd)?;
    for (peer, span) in &crowd {
        peer.check(*span, IDS)?;
    }
    scanner::expect_exact_counts("after merging forked pages").map(drop)
}

/// The number of pages scanned in a pass.
fn scanned_in_a_pass() -> Result<u64> {
    const COUNTED: u64 = 8;
    scanner::start()?;
    scanner::wait_passes(2)?;
    // Read both values in the same pass.
    let look = || -> Result<(u64, u64)> {
        loop {
            let pass = knob::number("full_scans")?;
            let pages = knob::number("pages_scanned")?;
            if knob::number("full_scans")? == pass {
                return Ok((pass, pages));
            }
        }
    };
    let before = look()?;
    scanner::wait_passes(COUNTED)?;
    let after = look()?;
    scanner::stop()?;
    Ok((after.1 - before.1) / (after.0 - before.0))
}

fn several_threads_look_at_each_page_once_a_pass(lab: &Lab) -> Result {
    let peers = lab.alices(PROCESSES)?;
    for (index, peer) in (0..).zip(&peers) {
        peer.anon(2000, Ids::each(10_000 * (index + 1)))?;
    }
    // A region large enough for several threads to share.
    peers[0].anon(16_000, Ids::each(1_000_000))?;
    let alone = scanned_in_a_pass()?;
    knob::set("threads", THREADS)?;
    let together = scanned_in_a_pass()?;
    // At each reading, a pass may just have begun, or be about to end.
    let slack = alone / 4;
    expect::within(
        "pages that several threads scan in a pass",
        alone - slack..=alone + slack,
        together,
    )
}

/// The CPU time of each thread, in nanoseconds.
fn run_times() -> Result<Vec<u64>> {
    task::scanners()
        .into_iter()
        .map(task::run_time_ns)
        .collect()
}

/// Expects that each thread gets work, however little CPU time the machine has.
fn expect_all_to_work() -> Result {
    const LEAST_NS: u64 = 100_000_000;
    let before = run_times()?;
    expect::eq("threads", 2, before.len())?;
    let ran = || -> Result<Vec<u64>> {
        let times = std::iter::zip(run_times()?, &before);
        Ok(times.map(|(now, before)| now - before).collect())
    };
    let is_done = || ran().is_ok_and(|times| times.iter().all(|&time| time >= LEAST_NS));
    scanner::start()?;
    let done = task::wait_until(PATIENCE, is_done);
    scanner::stop()?;
    let ran = ran()?;
    expect::that(done, || {
        format!("run time of threads in ns: expected all above 0, found {ran:?}")
    })
}

/// Expects that the two threads read page tables at the same time: one starts before the other
/// finishes.
fn expect_to_work_together() -> Result {
    let threads = task::scanners();
    let recorder = CallRecorder::start("walk_page_range_vma")?;
    let together = || -> Result<bool> {
        recorder.clear()?;
        std::thread::sleep(Duration::from_millis(100));
        let mut busy = BTreeSet::new();
        Ok(recorder.calls()?.into_iter().any(|call| {
            if call.ends {
                busy.remove(&call.thread);
            } else if threads.contains(&call.thread) {
                busy.insert(call.thread);
            }
            busy.len() == threads.len()
        }))
    };
    scanner::start()?;
    let seen = task::wait_until(PATIENCE, || together().unwrap_or(false));
    scanner::stop()?;
    expect::that(seen, || "two threads: expected to read at the same time")
}

fn several_threads_all_work(lab: &Lab) -> Result {
    let peers = lab.alices(PROCESSES)?;
    for (index, peer) in (0..).zip(&peers) {
        peer.anon(2000, Ids::each(10_000 * (index + 1)))?;
    }
    knob::set("threads", 2)?;
    expect_all_to_work()
}

/// A single process, like one virtual machine: each thread scans a part of it.
fn several_threads_share_an_address_space(lab: &Lab) -> Result {
    const PAGES: u64 = 20_000;
    knob::set("threads", 2)?;
    let peer = lab.alice()?;
    let unlike = peer.anon(PAGES, Ids::each(1_000_000))?;
    expect_all_to_work()?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus > 1 && probe::is_possible() {
        expect_to_work_together()?;
    }
    let (some, equal) = (peer.anon(PAGES, IDS)?, peer.anon(PAGES, IDS)?);
    scanner::scan(PASSES)?;
    for frame in [peer.frames(some)?, peer.frames(equal)?].concat() {
        expect::that(frame.flags()?.ksm(), || {
            format!("{frame:?}: expected to be merged")
        })?;
    }
    pages::expect_not_merged((&peer, unlike))?;
    for (span, ids) in [(some, IDS), (equal, IDS), (unlike, Ids::each(1_000_000))] {
        peer.check(span, ids)?;
    }
    scanner::expect_exact_counts("after merging in one process by two threads").map(drop)
}

fn several_threads_unmerge_all(lab: &Lab) -> Result {
    let crowd = crowd(lab)?;
    scanner::scan(PASSES)?;
    scanner::start()?;
    scanner::unmerge()?;
    for (peer, span) in &crowd {
        pages::expect_not_merged((peer, *span))?;
        peer.check(*span, IDS)?;
    }
    scanner::expect_exact_counts("after unmerging").map(drop)
}

/// Waits for the number of threads: a thread that has ended may stay visible for a moment.
fn expect_threads(count: u64) -> Result {
    let is_done = || task::scanners().len() as u64 == count;
    expect::that(task::wait_until(PATIENCE, is_done), || {
        format!("threads: expected {count}, found {:?}", task::scanners())
    })
}

fn threads_change_while_they_scan(lab: &Lab) -> Result {
    let crowd = crowd(lab)?;
    knob::set("sleep_ms", 1)?;
    scanner::start()?;
    let start = Instant::now();
    let mut cpu_ns = 0;
    for threads in [1, 3, 2, 64, 1, 5].into_iter().cycle() {
        knob::set("threads", threads)?;
        expect::eq("threads", threads, knob::number("threads")?)?;
        expect_threads(threads)?;
        let now = knob::number("cpu_ns")?;
        expect::that(now >= cpu_ns, || {
            format!("cpu_ns: expected {cpu_ns} or more, found {now}")
        })?;
        cpu_ns = now;
        if start.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    scanner::wait_passes(PASSES)?;
    scanner::stop()?;
    expect_merged(&crowd)?;
    scanner::expect_exact_counts("after changes of threads").map(drop)
}
