// SPDX-License-Identifier: GPL-2.0

//! The effects of scanning on a process: the time of its page faults, and of mapping memory.
//!
//! There are two CPUs. On one, a thread of the process touches new pages for a while, then maps and
//! unmaps for a while. The other CPU runs the scanner, and a second thread of the process while the
//! scanner sleeps, so that the host is equally busy in both cases.

use crate::memory::map;
use crate::memory::Content;
use crate::memory::Worker;
use crate::memory::Workers;
use crate::memory::PAGE_SIZE;
use crate::scanner::Scanner;
use crate::work::compute;
use crate::work::MIB;
use guest::process::task;
use std::time::Duration;
use std::time::Instant;

const WORKER_CPU: u64 = 0;
const SCANNER_CPU: u64 = 1;
/// Number of turns of each scanner.
const TURNS: usize = 12;
/// How long each scanner scans before the first turn.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a scanner scans in a turn before anything is measured.
const WARM_UP: Duration = Duration::from_millis(50);
/// How long each value is measured: turns are short, so that few of them see both fast and slow
/// times of the host.
const SPAN: Duration = Duration::from_millis(100);
/// Pairs of mmap and munmap in a run: a millisecond or two.
const PAIRS: u64 = 64;
/// Number of new pages before their memory is given back, to be new again.
const FRESH_PAGES: usize = 16 * MIB;

/// Times of a process with `mib` MiB that a scanner scans, in ns.
pub struct Times {
    /// Time of a fault on a new page: median, …
    pub fault_p50: f64,
    /// … 99th percentile, …
    pub fault_p99: f64,
    /// … maximum.
    pub fault_max: f64,
    /// Time to map and unmap a page.
    pub map_and_unmap: f64,
}

/// Measures them while each of the scanners runs, in turn. Returns the times of each turn, with the
/// scanner's index in `scanners`.
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

/// Runs when nothing else runs on the scanner's CPU.
fn fill_in() {
    task::pin(0, SCANNER_CPU).expect("the scanner's CPU");
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: Only reads `none`.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &none) };
    assert_eq!(result, 0, "SCHED_IDLE: {}", std::io::Error::last_os_error());
    compute();
}

/// Times of all faults.
fn time_faults() -> Vec<u64> {
    let memory = map(FRESH_PAGES);
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < SPAN {
        for page in memory.chunks_exact_mut(PAGE_SIZE / 8) {
            // All pages have different contents.
            let content = times.len() as u64 + 1;
            let before = Instant::now();
            // SAFETY: A reference is valid.
            unsafe { std::ptr::write_volatile(&mut page[0], content) };
            times.push(before.elapsed().as_nanos() as u64);
        }
        let (addr, bytes) = (memory.as_mut_ptr().cast(), FRESH_PAGES * PAGE_SIZE);
        // SAFETY: Memory of this process, for which zeroes are a valid value.
        let result = unsafe { libc::madvise(addr, bytes, libc::MADV_DONTNEED) };
        assert_eq!(result, 0, "madvise: {}", std::io::Error::last_os_error());
    }
    times
}

/// Time to map and unmap a page: the median over short runs of pairs, because the host sometimes
/// takes the CPU away.
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
    // SAFETY: A new mapping, which only this function uses and unmaps.
    let result = unsafe {
        let addr = libc::mmap(std::ptr::null_mut(), PAGE_SIZE, protection, flags, -1, 0);
        libc::munmap(addr, PAGE_SIZE)
    };
    assert_eq!(result, 0, "munmap: {}", std::io::Error::last_os_error());
}
