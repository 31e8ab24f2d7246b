// SPDX-License-Identifier: GPL-2.0

//! Cost of ksm_v's scanner compared with ksmd's: same boot, same memory, both at full speed.
//!
//! Run as root in a guest with `ksm_v.ko` in the current directory. Under QEMU's `-icount
//! shift=0`, a nanosecond of a thread's run time is one instruction, and a run repeats exactly. A
//! few works need a guest with two CPUs and real time, one needs a guest with the demo's
//! applications, and some also run natively, on User-Mode Linux (`--native`). Prints a table, the
//! same as JSON, and points to plot. The exit status is 0 only if ksm_v needs no more than ksmd in
//! every row, without the rows that depend on the load of the machine.
//!
//! - [`work`]: the works, for any scanner
//! - [`volatile`], [`collapse`], [`flushes`], [`busy`], [`speed`], [`clones`],
//!   [`applications`]: works that need
//!   more than memory and a scanner
//! - [`memory`]: processes with memory of known contents
//! - [`scanner`]: the two scanners, and their resource usage
//! - [`report`]: the figures of both, the goals, the table

mod applications;
mod busy;
mod clones;
mod collapse;
mod flushes;
mod memory;
mod report;
mod scanner;
mod speed;
mod volatile;
mod work;

use guest::ksm_v::module;
use report::Line;
use report::Report;
use scanner::Scanner;
use std::process::ExitCode;
use work::Measured;
use work::Point;
use work::Run;
use work::Work;
use work::WORKS;

const USAGE: &str = "usage: ksm_v_bench [--native] [WORK]...";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (works, lines, names) = match arguments.split_first() {
        Some((first, names)) if first == "--native" => (work::native(), report::NATIVE, names),
        _ => (WORKS.to_vec(), report::COUNTED, &arguments[..]),
    };
    match chosen(works, names) {
        Ok(works) => run(&works, lines),
        Err(unknown) => {
            eprintln!("there is no work '{unknown}'\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Runs the works, and reports.
fn run(works: &[Work], lines: &'static [Line]) -> ExitCode {
    let all: Vec<Measured> = works.iter().flat_map(measure).collect();
    let report = Report::of(lines, &all);
    print!("{}", report.markdown());
    println!("== json\n{}", report.json());
    println!(
        "== rounds: figure, scanner, numbers\n{}",
        report::rounds(lines, &all)
    );
    println!("== points: plot, scanner, x, y");
    for Measured { scanner, outcome } in all {
        for Point { plot, x, y } in outcome.points {
            println!("{plot} {scanner} {x:.2} {y:.2}");
        }
    }
    if report.is_never_worse() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The works with these names, or all; the error is a name without a work.
fn chosen(works: Vec<Work>, names: &[String]) -> Result<Vec<Work>, &String> {
    if names.is_empty() {
        return Ok(works);
    }
    let find = |name| works.iter().find(|work| work.name == name).copied();
    names
        .iter()
        .map(|name| find(name.as_str()).ok_or(name))
        .collect()
}

/// Runs a work with the scanners in turn. Keeps only the points of the first round.
fn measure(work: &Work) -> Vec<Measured> {
    let mut all: Vec<Measured> = (0..work.rounds).flat_map(|_| measure_once(work)).collect();
    let later = all.iter_mut().skip(work.scanners.len());
    later.for_each(|measured| measured.outcome.points.clear());
    all
}

/// Runs a work with each scanner, after loading the module anew: the module draws its random
/// values again.
fn measure_once(work: &Work) -> Vec<Measured> {
    module::reload("").expect("the module loads anew");
    let scanners: Vec<Scanner> = work.scanners.iter().map(|scanner| scanner()).collect();
    let measured = |scanner: &Scanner, outcome| Measured {
        scanner: scanner.name(),
        outcome,
    };
    match work.run {
        Run::Each(run) => {
            let each = scanners.iter().map(|scanner| {
                eprintln!("measuring {}: {} ...", scanner.name(), work.name);
                measured(scanner, run(scanner))
            });
            each.collect()
        }
        Run::InTurn(run) => {
            eprintln!("measuring all in turn: {} ...", work.name);
            let turns = run(&scanners).into_iter();
            turns
                .map(|(place, outcome)| measured(&scanners[place], outcome))
                .collect()
        }
    }
}
