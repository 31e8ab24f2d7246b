// SPDX-License-Identifier: GPL-2.0

//! What a process notices of being scanned: how long its page faults take, and mapping memory.
//!
//! The process has two CPUs. On one, a thread touches fresh pages for a while, and maps and unmaps
//! for a while. The other one belongs to the scanner, and when that sleeps to a second thread
//! which just runs, so that the machine under the guest is as busy in either case.

use crate::memory::map;
use crate::memory::Content;
use crate::memory::Worker;
use crate::memory::Workers;
use crate::memory::PAGE_SIZE;
use crate::scanner::Scanner;
use crate::work::compute;
use crate::work::MIB;
use guest::task;
use std::time::Duration;
use std::time::Instant;

const WORKER_CPU: u64 = 0;
const SCANNER_CPU: u64 = 1;
/// How often each scanner has its turn with a process.
const TURNS: usize = 12;
/// For how long each scanner has scanned before the first turn.
const SETTLE: Duration = Duration::from_secs(1);
/// As above, before anything is measured in a turn.
const WARM_UP: Duration = Duration::from_millis(50);
/// For how long each thing is measured: turns are so short that few come between a time in which
/// the host is fast and one in which it is slow.
const SPAN: Duration = Duration::from_millis(100);
/// Pairs of mmap and munmap in a run: a millisecond or two.
const PAIRS: u64 = 64;
/// Fresh pages before their memory is given back, to be fresh again.
const FRESH_PAGES: usize = 16 * MIB;

/// Times of a process of which a scanner scans `mib` MiB and what is measured, in ns.
pub struct Times {
    /// Half of all faults on fresh pages take no longer, …
    pub fault_p50: f64,
    /// … 99 of 100, …
    pub fault_p99: f64,
    /// … all.
    pub fault_max: f64,
    /// Mapping a page and unmapping it.
    pub map_and_unmap: f64,
}

/// Measures them while each of the scanners runs, in turn. Returns the times of each turn, with the
/// scanner's place among `scanners`.
pub fn measure(scanners: &[Scanner], mib: usize) -> Vec<(usize, Times)> {
    let mut workers = Workers::spawn_with(1, mib * MIB, Content::Unique, work);
    let mut times = Vec::new();
    for scanner in scanners {
        scanner.pin(SCANNER_CPU);
        scanner.start();
        std::thread::sleep(SETTLE);
        scanner.pause();
    }
    for _ in 0..TURNS {
        for (place, scanner) in scanners.iter().enumerate() {
            times.push((place, turn(scanner, &mut workers)));
        }
    }
    scanners.iter().for_each(Scanner::stop);
    drop(workers);
    times
}

fn turn(scanner: &Scanner, workers: &mut Workers) -> Times {
    scanner.resume();
    std::thread::sleep(WARM_UP);
    let [p50, p99, max, pair] = workers.ask()[0].map(|ns: u64| ns as f64);
    scanner.pause();
    Times {
        fault_p50: p50,
        fault_p99: p99,
        fault_max: max,
        map_and_unmap: pair,
    }
}

fn work(worker: &mut Worker) {
    std::thread::spawn(fill_in);
    task::pin(0, WORKER_CPU).expect("a worker's own CPU");
    while worker.is_asked() {
        let mut faults = time_faults();
        faults.sort_unstable();
        let part = |percent: usize| faults[(faults.len() - 1) * percent / 100];
        worker.answer(&[part(50), part(99), part(100), time_mapping()]);
    }
}

/// Runs when nothing else does on the scanner's CPU.
fn fill_in() {
    task::pin(0, SCANNER_CPU).expect("the scanner's CPU");
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: Only reads `none`.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &none) };
    assert_eq!(result, 0, "SCHED_IDLE: {}", std::io::Error::last_os_error());
    compute();
}

/// How long each fault took.
fn time_faults() -> Vec<u64> {
    let memory = map(FRESH_PAGES);
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < SPAN {
        for page in memory.chunks_exact_mut(PAGE_SIZE / 8) {
            // No two pages are alike.
            let content = times.len() as u64 + 1;
            let before = Instant::now();
            // SAFETY: A reference is valid.
            unsafe { std::ptr::write_volatile(&mut page[0], content) };
            times.push(before.elapsed().as_nanos() as u64);
        }
        let (addr, bytes) = (memory.as_mut_ptr().cast(), FRESH_PAGES * PAGE_SIZE);
        // SAFETY: Its own memory, which may as well be zeroes.
        let result = unsafe { libc::madvise(addr, bytes, libc::MADV_DONTNEED) };
        assert_eq!(result, 0, "madvise: {}", std::io::Error::last_os_error());
    }
    times
}

/// How long it takes to map a page and to unmap it: the median of short runs of pairs, since the
/// machine under the guest takes its CPU away now and then.
fn time_mapping() -> u64 {
    let (start, mut runs) = (Instant::now(), Vec::new());
    while start.elapsed() < SPAN {
        let before = Instant::now();
        (0..PAIRS).for_each(|_| map_and_unmap());
        runs.push(before.elapsed().as_nanos() as u64 / PAIRS);
    }
    runs.sort_unstable();
    runs[runs.len() / 2]
}

fn map_and_unmap() {
    let (protection, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: A new mapping, which nobody uses and only this unmaps.
    let result = unsafe {
        let addr = libc::mmap(std::ptr::null_mut(), PAGE_SIZE, protection, flags, -1, 0);
        libc::munmap(addr, PAGE_SIZE)
    };
    assert_eq!(result, 0, "munmap: {}", std::io::Error::last_os_error());
}
