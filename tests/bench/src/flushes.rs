// SPDX-License-Identifier: GPL-2.0

//! TLB flushes that merging sends to a CPU that runs the process.

use crate::memory::Content;
use crate::memory::Worker;
use crate::memory::Workers;
use crate::scanner::Scanner;
use crate::work::compute;
use crate::work::converge;
use crate::work::MIB;
use guest::kernel::procfs;
use guest::process::task;

const SCANNER_CPU: u64 = 0;
const WORKER_CPU: u64 = 1;

/// Flushes of the other CPU's TLB for each page merged away: each content exists `copies`
/// times, in one process, which runs without a pause.
pub fn measure(scanner: &Scanner, mib: usize, copies: usize) -> f64 {
    let pages = mib * MIB;
    let workers = Workers::spawn_with(1, pages, Content::Copies(copies), keep_running);
    let goal = (pages - pages / copies) as u64;
    scanner.pin(SCANNER_CPU);
    // Nothing else may run on the worker's CPU: a process that does not run is not flushed there.
    task::pin(0, SCANNER_CPU).expect("the scanner's CPU");
    let before = shootdowns();
    scanner.start();
    converge(scanner, goal, Scanner::pages_sharing);
    let sent = shootdowns() - before;
    scanner.stop();
    drop(workers);
    sent as f64 / goal as f64
}

/// A thread that never waits: the CPU always has the memory's translations in its TLB.
fn keep_running(worker: &mut Worker) {
    task::pin(0, WORKER_CPU).expect("a worker's own CPU");
    std::thread::spawn(|| compute());
    worker.wait();
}

/// TLB flushes that CPUs have requested from other CPUs since boot.
fn shootdowns() -> u64 {
    let text = procfs::read("/proc/interrupts").expect("counts of interrupts");
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.trim().strip_prefix("TLB:"));
    let words = line.expect("a count of TLB shootdowns").split_whitespace();
    // A number for each CPU, then the description.
    words.map_while(|word| word.parse::<u64>().ok()).sum()
}
