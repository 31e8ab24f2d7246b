// SPDX-License-Identifier: GPL-2.0

//! Stress of the loaded module: random work while the scanner runs at full speed, limited in time,
//! repeatable by seed, with all contents of memory known and checked throughout.
//!
//! A suite is random work around one source of trouble. Its workers are processes of several
//! users, which run this same program. They keep their memory in step with a shadow ([`region`],
//! [`shadow`]) and count their operations ([`tally`]). The harness ([`stage`]) loads the module,
//! lets it scan and watches: [`observer`] reads its counts, [`checker`] verifies that users share no
//! frame. At the end the harness unmerges everything, verifies the memory once more, and unloads.
//!
//! Runs as root in a directory with `ksm_v.ko`.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use guest::process::peer;
use guest::rng;

use crate::job::Job;
use crate::report::Report;
use crate::suite::Suite;

mod checker;
mod child;
mod clock;
mod crew;
mod frames;
mod job;
mod leaks;
mod observer;
mod priority;
mod region;
mod report;
mod shadow;
mod stage;
mod steps;
mod suite;
mod suites;
mod tally;
mod worker;

/// Stress of the ksm_veridian kernel module.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The suites to run; all if none is named
    suites: Vec<String>,
    /// How long the workers of each suite work, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// The seed of all random choices, as printed; by default a new one
    #[arg(long, value_parser = seed_of)]
    seed: Option<u64>,
    /// List the suites
    #[arg(long)]
    list: bool,
    /// The job of a process of a suite
    #[arg(long = job::OPTION, hide = true, num_args = job::WORDS)]
    worker: Vec<String>,
}

/// Parses a printed seed, or a decimal number.
fn seed_of(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.worker.is_empty() {
        return work(&arguments.worker);
    }
    if arguments.list {
        suites::ALL
            .iter()
            .for_each(|suite| println!("{:<16} {}", suite.name, suite.about));
        return ExitCode::SUCCESS;
    }
    match chosen(&arguments.suites) {
        Ok(suites) => run(&suites, &arguments),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

/// The job that the harness gave this process.
fn work(words: &[String]) -> ExitCode {
    let result = Job::from_words(words).and_then(|job| worker::run(&job));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("{}", failed.message().unwrap_or("failed"));
            ExitCode::FAILURE
        }
    }
}

/// The suites with these names; all suites if there are none.
fn chosen(names: &[String]) -> Result<Vec<&'static Suite>, String> {
    if names.is_empty() {
        return Ok(suites::ALL.to_vec());
    }
    let find = |name: &String| {
        suites::find(name).ok_or_else(|| format!("there is no suite {name:?}, see --list"))
    };
    names.iter().map(find).collect()
}

fn run(suites: &[&'static Suite], arguments: &Arguments) -> ExitCode {
    if let Err(error) = prepare() {
        eprintln!("this has to run as root: {error}");
        return ExitCode::FAILURE;
    }
    let seed = arguments.seed.unwrap_or_else(rng::seed);
    println!("seed {seed:#x}, {} s for each suite", arguments.seconds);
    let mut report = Report::default();
    leaks::forget_old();
    for suite in suites {
        report.add(stage::run(suite, seed, arguments.seconds));
    }
    report.finish(leaks::expect_none())
}

/// The harness's own memory is not merged, and all users may run this program.
fn prepare() -> io::Result<()> {
    // The harness adopts the orphans of workers, and ends them.
    nix::sys::prctl::set_child_subreaper(true)?;
    peer::prepare()
}
