// SPDX-License-Identifier: GPL-2.0

//! What a process learns about the pages of others by timing its own writes.
//!
//! In each trial the attacker has a page that the victim has, too, with a probability of a half. The
//! scanner merges what it merges; then the attacker writes to the page, and notes how long that took and
//! how many page faults it caused ([`guest::process::channel`]).
//!
//! The advantage of a case is the largest difference, over all thresholds, between the shares of trials
//! above the threshold where the victim has the page and where it has not: 0% is no better than guessing,
//! and 100% is certainty. The threshold is chosen after the fact, for the attacker. Even without any leak
//! the number is a little above 0: it exceeds the column "chance" once in a million runs.
//!
//! Runs as root on a host or in a guest with two CPUs, in a directory with `ksm_v.ko`. It starts and stops
//! both scanners and sets their knobs, so it is nothing for a host in use.

mod case;

use std::process::ExitCode;

use case::Case;
use case::Expected;
use case::CASES;
use case::GUESSES;
use clap::Parser;
use guest::lab::Lab;
use guest::process::channel::Notes;
use guest::process::peer;
use guest::process::peer::server;
use guest::rng;
use guest::Result;

/// What a case that must find nothing may find in many trials.
const SMALL: f64 = 0.01;
/// What a case that must find the victim's pages finds at least: the faults tell almost certainly.
const LARGE: f64 = 0.9;

/// Attacks on same-page merging: what the first write to a guessed page tells about other processes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The cases to run; all if none is named
    cases: Vec<String>,
    /// Trials of each case, rounded up to whole attacks
    #[arg(long, default_value_t = 1_000_000)]
    trials: u64,
    /// List the cases
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(server::NOTHING) => ExitCode::SUCCESS,
        Some(server::ARGUMENT) => server::main(&arguments.next().unwrap_or_default()),
        _ => obey(&Arguments::parse()),
    }
}

fn obey(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        CASES
            .iter()
            .for_each(|case| println!("{:<10} {}", case.name, case.about));
        return ExitCode::SUCCESS;
    }
    match chosen(&arguments.cases) {
        Ok(cases) => run(&cases, arguments.trials),
        Err(unknown) => {
            eprintln!("there is no case '{unknown}', see --list");
            ExitCode::from(2)
        }
    }
}

/// The cases with these names, or all; the error is a name without a case.
fn chosen(names: &[String]) -> std::result::Result<Vec<&'static Case>, &String> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    let find = |name| CASES.iter().find(|case| case.name == name);
    names
        .iter()
        .map(|name| find(name.as_str()).ok_or(name))
        .collect()
}

fn run(cases: &[&'static Case], trials: u64) -> ExitCode {
    if let Err(error) = peer::prepare() {
        eprintln!("this has to run as root: {error}");
        return ExitCode::FAILURE;
    }
    let found: Vec<_> = cases.iter().map(|case| tried(case, trials)).collect();
    let rows: Vec<String> = found.iter().flatten().map(Found::row).collect();
    println!("\n| the victim | trials | advantage by times | by faults | chance | verdict |");
    println!("| --- | ---: | ---: | ---: | ---: | --- |");
    rows.iter().for_each(|row| println!("{row}"));
    let passed = found.iter().flatten().filter(|found| found.is_expected());
    let (passed, all) = (passed.count(), cases.len());
    let (verdict, code) = if passed == all {
        ("ok", ExitCode::SUCCESS)
    } else {
        ("FAILED", ExitCode::FAILURE)
    };
    let failed = all - passed;
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored");
    code
}

/// Attacks, and prints whether the case found what it must.
fn tried(case: &'static Case, trials: u64) -> Option<Found> {
    let found = attack(case, trials);
    let is_expected = found.as_ref().is_ok_and(Found::is_expected);
    let verdict = if is_expected { "ok" } else { "FAILED" };
    println!("test attack::{} ... {verdict}", case.name);
    if let Err(failed) = &found {
        eprintln!("{}", failed.message().unwrap_or("failed"));
    }
    found.ok()
}

/// Attacks until there are enough trials.
fn attack(case: &'static Case, trials: u64) -> Result<Found> {
    let lab = Lab::open()?;
    let mut notes = Notes::default();
    let rounds = trials.div_ceil(GUESSES);
    for round in 0..rounds {
        eprintln!("{}: attack {} of {rounds} ...", case.name, round + 1);
        notes.add(case.play(&lab, rng::seed().wrapping_add(round))?);
    }
    Ok(Found {
        case,
        trials: rounds * GUESSES,
        times: notes.distance_of_times(),
        faults: notes.distance_of_faults(),
        chance: notes.critical(),
    })
}

/// What a case has found.
struct Found {
    case: &'static Case,
    trials: u64,
    /// The advantage by the durations of writes.
    times: f64,
    /// The advantage by the fault counts.
    faults: f64,
    /// What both exceed by chance, once in a million runs.
    chance: f64,
}

impl Found {
    fn is_expected(&self) -> bool {
        match self.case.expected {
            Expected::Nothing => self.times.max(self.faults) <= self.chance.max(SMALL),
            Expected::Pages => self.faults >= LARGE && self.times > self.chance,
        }
    }

    fn row(&self) -> String {
        let verdict = match (self.case.expected, self.is_expected()) {
            (Expected::Nothing, true) => "hidden",
            (Expected::Pages, true) => "found, as expected",
            (Expected::Nothing, false) => "FOUND",
            (Expected::Pages, false) => "NOT FOUND: the attack does not work",
        };
        let percent = |part: f64| format!("{:.2}%", 100.0 * part);
        format!(
            "| {} | {} | {} | {} | {} | {verdict} |",
            self.case.about,
            self.trials,
            percent(self.times),
            percent(self.faults),
            percent(self.chance)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, times: f64, faults: f64) -> bool {
        let case = CASES.iter().find(|case| case.name == name);
        let found = Found {
            case: case.expect("a case"),
            trials: 1_000_000,
            times,
            faults,
            chance: 0.005,
        };
        found.is_expected()
    }

    #[test]
    fn a_case_that_must_find_nothing_fails_by_times_and_by_faults() {
        assert!(found("user", 0.01, 0.0));
        assert!(!found("user", 0.011, 0.0));
        assert!(!found("user", 0.0, 0.011));
    }

    #[test]
    fn a_case_that_must_find_pages_needs_times_and_faults() {
        assert!(found("global", 0.5, 1.0));
        assert!(!found("global", 0.004, 1.0));
        assert!(!found("global", 0.5, 0.5));
    }
}
