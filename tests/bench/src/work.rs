// SPDX-License-Identifier: GPL-2.0

//! What is measured: memory, and what a scanner makes of it.

use crate::memory::Content;
use crate::memory::Workers;
use crate::scanner::Scanner;

/// Pages of a MiB.
const MIB: usize = 256;
/// Processes that the memory of most works is spread over.
const PROCESSES: usize = 2;
/// Passes over which a steady state is averaged.
const STEADY_PASSES: u64 = 3;
/// Further passes in which something has to be merged, or it never will.
const IDLE_PASSES: u64 = 8;

/// One number, of one scanner.
pub struct Figure {
    /// By what the report knows it.
    pub id: &'static str,
    /// In the unit that the report names.
    pub value: f64,
}

/// A piece of work.
pub struct Work {
    /// Its name, as it is asked for.
    pub name: &'static str,
    /// Has a scanner do it. Leaves nothing merged and nothing running.
    pub run: fn(&Scanner) -> Vec<Figure>,
    /// Whether ksmd does it too, within reasonable time.
    pub beside_ksmd: bool,
}

/// All of them.
pub const WORKS: &[Work] = &[
    Work {
        name: "unique-64",
        run: |scanner| {
            let costs = unique(scanner, PROCESSES, 64 * MIB);
            vec![
                figure("unique-64/first-pass", costs.first_pass),
                figure("unique-64/later-passes", costs.later_passes),
                figure("unique-64/index-bytes", costs.index_bytes),
            ]
        },
        beside_ksmd: true,
    },
    Work {
        name: "unique-256",
        run: |scanner| {
            let costs = unique(scanner, PROCESSES, 256 * MIB);
            vec![figure("unique-256/later-passes", costs.later_passes)]
        },
        beside_ksmd: true,
    },
    Work {
        name: "unique-2048",
        run: |scanner| {
            let costs = unique(scanner, PROCESSES, 2048 * MIB);
            vec![figure("unique-2048/later-passes", costs.later_passes)]
        },
        beside_ksmd: false,
    },
    Work {
        name: "alike-64",
        run: |scanner| {
            let costs = steady(scanner, PROCESSES, 64 * MIB, Content::Alike);
            vec![figure("alike-64/later-passes", costs.later_passes)]
        },
        beside_ksmd: true,
    },
    Work {
        name: "copies-256",
        run: |scanner| {
            let costs = copies(scanner, 256 * MIB, 4);
            vec![
                figure("copies-256/merging", costs.merging),
                figure("copies-256/passes", costs.passes),
                figure("copies-256/merged", costs.merged),
            ]
        },
        beside_ksmd: true,
    },
    Work {
        name: "zero-64",
        run: |scanner| vec![figure("zero-64/merging", zeroes(scanner, 64 * MIB))],
        beside_ksmd: true,
    },
    Work {
        name: "processes-1000",
        run: |scanner| {
            let costs = unique(scanner, 1000, 1000 * MIB);
            vec![figure("processes-1000/later-passes", costs.later_passes)]
        },
        beside_ksmd: true,
    },
];

fn figure(id: &'static str, value: f64) -> Figure {
    Figure { id, value }
}

/// What pages cost that stay as they are: run time of the scanner's thread for each, in ns.
struct Steady {
    first_pass: f64,
    later_passes: f64,
    /// Bytes of the scanner's tables for each page.
    index_bytes: f64,
}

fn unique(scanner: &Scanner, processes: usize, pages: usize) -> Steady {
    steady(scanner, processes, pages, Content::Unique)
}

fn steady(scanner: &Scanner, processes: usize, pages: usize, content: Content) -> Steady {
    let workers = Workers::spawn(processes, pages, content);
    scanner.start();
    let start = scanner.usage();
    scanner.wait_for_passes(1);
    let after_first = scanner.usage();
    // Pages enter a scanner's tables for good in its first two passes, and their samples are told
    // apart in them.
    scanner.wait_for_passes(2);
    let before = scanner.usage();
    scanner.wait_for_passes(STEADY_PASSES);
    let after = scanner.usage();
    let index_bytes = scanner.index_bytes() as f64 / pages as f64;
    scanner.stop();
    drop(workers);
    Steady {
        first_pass: after_first.ns_per_page_since(&start),
        later_passes: after.ns_per_page_since(&before),
        index_bytes,
    }
}

/// What it costs to merge copies.
struct Copies {
    /// For each page merged away, to convergence, in ns.
    merging: f64,
    /// Passes until then.
    passes: f64,
    /// For each page in each pass from then on, in ns.
    merged: f64,
}

/// Every content is there `copies` times.
fn copies(scanner: &Scanner, pages: usize, copies: usize) -> Copies {
    let workers = Workers::spawn(PROCESSES, pages, Content::Copies(copies));
    let goal = (pages - pages / copies) as u64;
    scanner.start();
    let (start, first_pass) = (scanner.cpu_ns(), scanner.passes());
    converge(scanner, goal, Scanner::pages_sharing);
    let merging = (scanner.cpu_ns() - start) as f64 / goal as f64;
    let passes = (scanner.passes() - first_pass) as f64;
    scanner.wait_for_passes(1);
    let before = scanner.usage();
    scanner.wait_for_passes(STEADY_PASSES);
    let merged = scanner.usage().ns_per_page_since(&before);
    scanner.stop();
    drop(workers);
    Copies {
        merging,
        passes,
        merged,
    }
}

/// Cost of each page of zeroes that is merged away, in ns.
fn zeroes(scanner: &Scanner, pages: usize) -> f64 {
    let workers = Workers::spawn(PROCESSES, pages, Content::Zero);
    scanner.start();
    let start = scanner.cpu_ns();
    converge(scanner, pages as u64, Scanner::zero_pages);
    let cost = (scanner.cpu_ns() - start) as f64 / pages as f64;
    scanner.stop();
    drop(workers);
    cost
}

/// Lets it scan until `count` says `goal`.
fn converge(scanner: &Scanner, goal: u64, count: fn(&Scanner) -> u64) {
    let (mut merged, mut idle) = (count(scanner), 0);
    while merged < goal {
        scanner.wait_for_passes(1);
        let now = count(scanner);
        idle = if now > merged { 0 } else { idle + 1 };
        merged = now;
        assert!(
            idle < IDLE_PASSES,
            "{} does not converge: {now} of {goal} pages merged away",
            scanner.name()
        );
    }
}
