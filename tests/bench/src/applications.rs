// SPDX-License-Identifier: GPL-2.0

//! The scanner's cost to save most of what can be saved of real applications, the demo's.
//!
//! `demo/jobs.py` defines them, starts them, and computes what a perfect merger could save. The
//! savings are read from `/proc/PID/smaps_rollup`, for both scanners, while they are stopped: a
//! scanner scans for a moment, stops, and goes on. In the end a census of the frames has to agree
//! with `/proc`.

use crate::memory::PAGE_SIZE;
use crate::scanner::Scanner;
use crate::work::Point;
use guest::kernel::procfs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

const PROGRAM: &str = "demo.measured";
/// The wanted part of what can be saved.
const WANTED: f64 = 0.95;
/// Length of one scan. With one CPU, nothing else runs during a scan.
const STEP: Duration = Duration::from_millis(5);
/// A scanner has converged after this many passes in a row without growth …
const QUIET_PASSES: u64 = 3;
/// … of the savings by more than this part.
const QUIET_GROWTH: f64 = 0.001;
/// Largest difference between `/proc` and the census.
const TOLERANCE: f64 = 0.01;
/// ID of the plot: the part saved, in percent, over the run time, in ms.
const PLOT: &str = "applications";

/// A scanner's results with the applications.
pub struct Saving {
    /// Run time of its thread until it had saved the wanted part, in ms; infinite if it never
    /// did.
    pub wanted_ms: f64,
    /// The curve up to the end of the measurement.
    pub points: Vec<Point>,
}

/// Lets a scanner merge newly started applications, until it has converged.
pub fn measure(scanner: &Scanner) -> Saving {
    let mut job = Job::start();
    let before = job.resident();
    assert_eq!(job.merged(), 0, "pages that nobody has merged");
    let curve = converge(scanner, || job.resident());
    let saved = |resident: f64| before - resident;
    let (end_ms, end) = *curve.last().expect("a step at least");
    job.check(saved(end), scanner.name());
    scanner.stop();
    assert_eq!(job.merged(), 0, "{} left pages merged", scanner.name());

    let share = |resident| saved(resident) / job.savable;
    let curve: Vec<(f64, f64)> = curve.iter().map(|&(ms, now)| (ms, share(now))).collect();
    let wanted_ms = crossing(&curve, WANTED);
    eprintln!(
        "{}: saved {:.0} of {:.0} pages ({:.1}%) in {end_ms:.0} ms and {} steps, {:.0}% of what \
         could be after {wanted_ms:.1} ms",
        scanner.name(),
        saved(end),
        job.savable,
        100.0 * share(end),
        curve.len(),
        100.0 * WANTED,
    );
    let point = |(ms, share)| Point {
        plot: PLOT,
        x: ms,
        y: 100.0 * share,
    };
    Saving {
        wanted_ms,
        points: curve.into_iter().map(point).collect(),
    }
}

/// Lets it scan step by step until there is nothing more to merge: returns its run time in ms
/// after each step, and the pages that the job then takes.
fn converge(scanner: &Scanner, resident: impl Fn() -> f64) -> Vec<(f64, f64)> {
    let (before, start) = (resident(), scanner.cpu_ns());
    let (mut most, mut quiet_from) = (0.0, scanner.passes() + 1);
    let mut curve = Vec::new();
    scanner.start();
    loop {
        std::thread::sleep(STEP);
        scanner.pause();
        let (now, passes) = (resident(), scanner.passes());
        curve.push(((scanner.cpu_ns() - start) as f64 / 1e6, now));
        if before - now > most * (1.0 + QUIET_GROWTH) {
            // The current pass has seen growth: count from the next one.
            (most, quiet_from) = (before - now, passes + 1);
        }
        if passes >= quiet_from + QUIET_PASSES {
            return curve;
        }
        scanner.resume();
    }
}

/// The x value at which a curve from the origin first reaches a height, interpolated linearly;
/// infinite if it does not.
fn crossing(curve: &[(f64, f64)], height: f64) -> f64 {
    let (mut x0, mut y0) = (0.0, 0.0);
    for &(x, y) in curve {
        if y >= height {
            return x0 + (x - x0) * (height - y0) / (y - y0);
        }
        (x0, y0) = (x, y);
    }
    f64::INFINITY
}

/// The applications; dropping this ends them.
struct Job {
    program: Child,
    answers: BufReader<ChildStdout>,
    pids: Vec<i32>,
    /// Number of pages that a perfect merger could save.
    savable: f64,
}

impl Job {
    /// Starts them; returns when all data is loaded and all pages are compared.
    fn start() -> Self {
        let mut command = Command::new("python3");
        command.args(["-m", PROGRAM]);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = started.unwrap_or_else(|error| panic!("python3 -m {PROGRAM}: {error}"));
        let mut job = Job {
            answers: BufReader::new(program.stdout.take().expect("a pipe")),
            program,
            pids: Vec::new(),
            savable: 0.0,
        };
        job.pids = job.numbers();
        job.savable = job.number();
        assert!(job.savable > 0.0, "nothing could be saved");
        job
    }

    /// Pages of anonymous memory; shared pages count in equal parts.
    fn resident(&self) -> f64 {
        self.sum_of_pages("Pss_Anon")
    }

    /// Number of mappings of merged pages.
    fn merged(&self) -> u64 {
        self.sum_of_pages("KSM") as u64
    }

    fn sum_of_pages(&self, field: &str) -> f64 {
        let kb = |&pid| procfs::rollup(pid, field).expect("what an application takes");
        let sum: u64 = self.pids.iter().map(kb).sum();
        sum as f64 * 1024.0 / PAGE_SIZE as f64
    }

    /// Expects that a census of the frames finds this many saved pages.
    fn check(&mut self, saved: f64, by: &str) {
        let input = self.program.stdin.as_mut().expect("a pipe");
        input.write_all(b"\n").expect("ask for a census");
        let counted: f64 = self.number();
        assert!(counted > 0.0, "{by} merged nothing");
        assert!(
            (saved - counted).abs() <= TOLERANCE * counted,
            "{by} saved {saved:.0} pages by Pss, but {counted:.0} by a census"
        );
        eprintln!("{by}: a census finds {counted:.0} pages saved");
    }

    fn number(&mut self) -> f64 {
        match self.numbers()[..] {
            [number] => number,
            ref found => panic!("{PROGRAM} answers {found:?}"),
        }
    }

    fn numbers<T: std::str::FromStr>(&mut self) -> Vec<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        assert!(!line.is_empty(), "{PROGRAM} has ended");
        let numbers = line.split_whitespace().map(str::parse);
        let numbers: Result<_, _> = numbers.collect();
        numbers.unwrap_or_else(|_| panic!("{PROGRAM} answers {line:?}"))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Its end of input ends it, and the applications.
        drop(self.program.stdin.take());
        let ended = self.program.wait();
        if !std::thread::panicking() {
            assert!(
                ended.is_ok_and(|status| status.success()),
                "{PROGRAM} failed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_crosses_a_height_between_its_points() {
        let curve = [(10.0, 0.5), (20.0, 0.75), (30.0, 0.5), (40.0, 1.0)];
        assert_eq!(crossing(&curve, 0.25), 5.0);
        assert_eq!(crossing(&curve, 0.625), 15.0);
        assert_eq!(crossing(&curve, 0.875), 37.5);
        assert_eq!(crossing(&curve, 1.25), f64::INFINITY);
    }
}
