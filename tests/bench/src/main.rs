// SPDX-License-Identifier: GPL-2.0

//! Scanner cost of ksm_v beside ksmd: one boot, the same memory, both with their knobs opened.
//!
//! Run as root in a guest with `ksm_v.ko` in the current directory. Under QEMU's `-icount
//! shift=0`, a nanosecond of a thread's run time is one instruction, and a run repeats exactly.
//! Prints a table, the same as JSON, and points to plot; the exit status is 0 only if ksm_v needs no more than ksmd
//! in every row.
//!
//! - [`work`]: what is measured, by which scanner whatsoever
//! - [`memory`]: processes with memory of known contents
//! - [`scanner`]: the two scanners, and what they have used up
//! - [`report`]: the figures of both, the goals, the table

mod memory;
mod report;
mod scanner;
mod work;

use scanner::Scanner;
use std::process::Command;
use std::process::ExitCode;
use work::Outcome;
use work::Point;
use work::Work;
use work::WORKS;

const USAGE: &str = "usage: ksm_v_bench [--list | WORK...]";

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names == ["--list"] {
        WORKS.iter().for_each(|work| println!("{}", work.name));
        return ExitCode::SUCCESS;
    }
    let works = match chosen(&names) {
        Ok(works) => works,
        Err(unknown) => {
            eprintln!("there is no work '{unknown}'\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    load_module();
    let (mut ksmd, mut ksm_v) = (Outcome::default(), Outcome::default());
    for work in works {
        if work.beside_ksmd {
            measure(work, &Scanner::ksmd(), &mut ksmd);
        }
        measure(work, &Scanner::ksm_v(), &mut ksm_v);
    }
    let report = report::Report::of(&ksmd.figures, &ksm_v.figures);
    print!("{}", report.markdown());
    println!("== json\n{}", report.json());
    println!("== points: plot, scanner, x, y");
    for (scanner, outcome) in [("ksmd", ksmd), ("ksm_v", ksm_v)] {
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

/// The works of these names, or all; an error is a name that none has.
fn chosen(names: &[String]) -> Result<Vec<&'static Work>, &String> {
    if names.is_empty() {
        return Ok(WORKS.iter().collect());
    }
    let find = |name| WORKS.iter().find(|work| work.name == name);
    names
        .iter()
        .map(|name| find(name.as_str()).ok_or(name))
        .collect()
}

fn measure(work: &Work, scanner: &Scanner, all: &mut Outcome) {
    eprintln!("measuring {}: {} ...", scanner.name(), work.name);
    let outcome = (work.run)(scanner);
    all.figures.extend(outcome.figures);
    all.points.extend(outcome.points);
}

fn load_module() {
    let loaded = Command::new("insmod").arg("ksm_v.ko").status();
    assert!(
        loaded.is_ok_and(|status| status.success()),
        "insmod ksm_v.ko failed: see dmesg"
    );
}
