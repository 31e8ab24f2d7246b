// SPDX-License-Identifier: GPL-2.0

//! The output: a line and a table for each suite, their sums, and a line like libtest's.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use guest::Result;

use crate::tally::Count;
use crate::tally::Kind;

/// The result of a suite.
pub enum Verdict {
    /// The suite passed.
    Passed,
    /// The suite cannot run here, and why.
    Ignored(String),
    /// The failure.
    Failed(String),
}

/// A suite that has run.
pub struct Outcome {
    /// Its name.
    pub suite: &'static str,
    /// Its seed.
    pub seed: u64,
    /// Its result.
    pub verdict: Verdict,
    /// How long it took, including setting up and clearing away.
    pub time: Duration,
    /// Its counts.
    pub counts: Vec<Count>,
}

/// All outcomes so far.
#[derive(Default)]
pub struct Report {
    passed: u64,
    failed: u64,
    ignored: u64,
    totals: BTreeMap<(Kind, String), u64>,
}

impl Report {
    /// Prints an outcome and adds it.
    pub fn add(&mut self, outcome: Outcome) {
        let (seed, seconds) = (outcome.seed, outcome.time.as_secs_f64());
        let how = format!("(seed {seed:#x}, {seconds:.1} s)");
        self.line(outcome.suite, &outcome.verdict, &how);
        print_counts(&outcome.counts);
        for Count { kind, name, value } in outcome.counts {
            let total = self.totals.entry((kind, name)).or_default();
            *total = match kind {
                Kind::Peak => value.max(*total),
                Kind::Operations | Kind::Sum => *total + value,
            };
        }
    }

    /// Prints the sums and the verdict over all suites, which includes kmemleak's search; `lost` is
    /// false if the kernel has no kmemleak.
    pub fn finish(mut self, lost: Result<bool>) -> ExitCode {
        let verdict = match lost {
            Ok(true) => Verdict::Passed,
            Ok(false) => Verdict::Ignored("this kernel has no kmemleak".to_owned()),
            Err(failed) => Verdict::Failed(failed.message().unwrap_or("failed").to_owned()),
        };
        self.line("no_memory_is_lost", &verdict, "");
        println!("== totals of all suites");
        let totals: Vec<Count> = std::mem::take(&mut self.totals)
            .into_iter()
            .map(|((kind, name), value)| Count { kind, name, value })
            .collect();
        print_counts(&totals);
        println!();
        println!(
            "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out",
            if self.failed == 0 { "ok" } else { "FAILED" },
            self.passed,
            self.failed,
            self.ignored
        );
        ExitCode::from(u8::from(self.failed > 0))
    }

    fn line(&mut self, name: &str, verdict: &Verdict, how: &str) {
        match verdict {
            Verdict::Passed => {
                self.passed += 1;
                println!("test {name} ... ok {how}");
            }
            Verdict::Ignored(why) => {
                self.ignored += 1;
                println!("test {name} ... ignored: {why}");
            }
            Verdict::Failed(why) => {
                self.failed += 1;
                println!("test {name} ... FAILED {how}");
                why.lines().for_each(|line| println!("  | {line}"));
            }
        }
    }
}

/// A table: name and number, the operations and their sum first.
fn print_counts(counts: &[Count]) {
    let row = |kind: &str, name: &str, value: u64| println!("  {kind:<4} {name:<42} {value:>14}");
    let operations = |count: &&Count| count.kind == Kind::Operations;
    if counts.is_empty() {
        return;
    }
    for Count { kind, name, value } in counts {
        let kind = match kind {
            Kind::Operations => "op",
            Kind::Sum => "sum",
            Kind::Peak => "max",
        };
        row(kind, name, *value);
    }
    let all = counts.iter().filter(operations).map(|count| count.value);
    row("sum", "operations", all.sum());
}
