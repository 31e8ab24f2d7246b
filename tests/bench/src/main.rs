// SPDX-License-Identifier: GPL-2.0

//! Scanner cost of ksm_v beside ksmd: one boot, the same memory, both with their knobs opened.
//!
//! Run as root in a guest with `ksm_v.ko` in the current directory. Under QEMU's `-icount
//! shift=0`, a nanosecond of a thread's run time is one instruction, and a run repeats exactly.
//! Prints a table; the exit status is 0 only if ksm_v needs no more than ksmd in every row.

mod memory;
mod scanner;

use memory::Work;
use memory::Workers;
use scanner::Scanner;
use std::process::Command;
use std::process::ExitCode;

/// Processes that the memory of a work is spread over.
const PROCESSES: usize = 2;
/// Passes over which a steady state is averaged.
const STEADY_PASSES: u64 = 3;

/// One row of the table, for one scanner: thread run time in nanoseconds for each page.
struct Costs {
    first_pass: u64,
    later_passes: u64,
    merged_away: u64,
    passes_to_merge: u64,
}

fn main() -> ExitCode {
    let mib: usize = std::env::args()
        .nth(1)
        .map_or(64, |text| text.parse().expect("usage: ksm_v_bench [MIB]"));
    let pages = mib << 8;
    load_module();
    let scanners = [Scanner::ksmd(), Scanner::ksm_v()];
    let costs = scanners.map(|scanner| {
        eprintln!("measuring {} over {mib} MiB ...", scanner.name());
        measure(&scanner, pages)
    });
    let [ksmd, ksm_v] = costs;
    print(mib, &ksmd, &ksm_v)
}

fn load_module() {
    let loaded = Command::new("insmod").arg("ksm_v.ko").status();
    assert!(
        loaded.is_ok_and(|status| status.success()),
        "insmod ksm_v.ko failed: see dmesg"
    );
}

fn measure(scanner: &Scanner, pages: usize) -> Costs {
    let (first_pass, later_passes) = unique(scanner, pages);
    let (merged_away, passes_to_merge) = copies(scanner, pages, 4);
    Costs {
        first_pass,
        later_passes,
        merged_away,
        passes_to_merge,
    }
}

/// Cost per page of pages that all differ: of the first pass, and of every later one.
fn unique(scanner: &Scanner, pages: usize) -> (u64, u64) {
    let workers = Workers::spawn(PROCESSES, pages, Work::Unique);
    scanner.start();
    let start = scanner.usage();
    scanner.wait_for_passes(1);
    let after_first = scanner.usage();
    // Pages enter a scanner's tables for good in its first two passes.
    scanner.wait_for_passes(1);
    let before = scanner.usage();
    scanner.wait_for_passes(STEADY_PASSES);
    let after = scanner.usage();
    scanner.stop();
    drop(workers);
    (
        after_first.ns_per_page_since(&start),
        after.ns_per_page_since(&before),
    )
}

/// Cost per page merged away where every content is there `copies` times, and the passes it took.
fn copies(scanner: &Scanner, pages: usize, copies: usize) -> (u64, u64) {
    let workers = Workers::spawn(PROCESSES, pages, Work::Copies(copies));
    let goal = (pages - pages / copies) as u64;
    scanner.start();
    let (start, first_pass) = (scanner.cpu_ns(), scanner.passes());
    let mut merged = 0;
    while merged < goal {
        scanner.wait_for_passes(1);
        let now = scanner.pages_sharing();
        assert!(
            now > merged || scanner.passes() < first_pass + 8,
            "{} does not converge: {now} of {goal} pages merged away",
            scanner.name()
        );
        merged = now;
    }
    let cost = (scanner.cpu_ns() - start) / merged;
    let passes = scanner.passes() - first_pass;
    scanner.stop();
    drop(workers);
    (cost, passes)
}

fn print(mib: usize, ksmd: &Costs, ksm_v: &Costs) -> ExitCode {
    let rows = [
        (
            "unique pages, first pass",
            ksmd.first_pass,
            ksm_v.first_pass,
        ),
        (
            "unique pages, every later pass",
            ksmd.later_passes,
            ksm_v.later_passes,
        ),
        (
            "4 copies each: per page merged away, to convergence",
            ksmd.merged_away,
            ksm_v.merged_away,
        ),
    ];
    println!("| {mib} MiB, ns of the scanner's run time per page | ksmd | ksm_v | ksm_v / ksmd |");
    println!("| --- | ---: | ---: | ---: |");
    let mut status = ExitCode::SUCCESS;
    for (work, ksmd, ksm_v) in rows {
        let percent = ksm_v * 100 / ksmd.max(1);
        println!("| {work} | {ksmd} | {ksm_v} | {percent}% |");
        if ksm_v > ksmd {
            status = ExitCode::FAILURE;
        }
    }
    println!(
        "| 4 copies each: passes to convergence | {} | {} | |",
        ksmd.passes_to_merge, ksm_v.passes_to_merge
    );
    status
}
