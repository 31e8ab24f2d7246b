// SPDX-License-Identifier: GPL-2.0

//! What it takes to save most of what can be saved of real applications: those of the demo.
//!
//! What they are, how they are started, and what a perfect merger could save, is in
//! `scripts/demo.d`. What has been saved is read from `/proc/PID/smaps_rollup`, for either scanner,
//! while it is stopped: it scans for a moment, stops, goes on. In the end a census of the frames
//! has to say the same.

use crate::memory::PAGE_SIZE;
use crate::scanner::Scanner;
use crate::work::Point;
use guest::procfs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

const PROGRAM: &str = "demo.d/measured.py";
/// The part of what can be saved that has to be.
const WANTED: f64 = 0.95;
/// For how long a scanner scans at a time. One CPU: nothing else runs then.
const STEP: Duration = Duration::from_millis(5);
/// It has converged after so many passes in a row in which …
const QUIET_PASSES: u64 = 3;
/// … what is saved grew by no larger part than that.
const QUIET_GROWTH: f64 = 0.001;
/// How far what `/proc` says and the census may differ.
const TOLERANCE: f64 = 0.01;
/// By what the plot is known: the part saved, in percent, over the run time, in ms.
const PLOT: &str = "applications";

/// What a scanner made of the applications.
pub struct Saving {
    /// Run time of its thread until it had saved the part that is wanted, in ms; infinite: it never
    /// had.
    pub wanted_ms: f64,
    /// The way there, and beyond.
    pub points: Vec<Point>,
}

/// Lets a scanner merge applications that were just started, until it has converged.
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

/// Lets it scan step by step until there is nothing more to merge: its run time in ms after each
/// step, and the pages that the job takes then.
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
            // The pass that is under way has seen growth: count from the next one.
            (most, quiet_from) = (before - now, passes + 1);
        }
        if passes >= quiet_from + QUIET_PASSES {
            return curve;
        }
        scanner.resume();
    }
}

/// Where a curve that begins at the origin first comes to a height, on straight lines between its
/// points; infinite if nowhere.
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

/// The applications, until this is dropped.
struct Job {
    program: Child,
    answers: BufReader<ChildStdout>,
    pids: Vec<i32>,
    /// Pages that a perfect merger could save.
    savable: f64,
}

impl Job {
    /// Starts them; returns when all is loaded and compared.
    fn start() -> Self {
        let mut command = Command::new("python3");
        command.arg(PROGRAM);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut program = started.unwrap_or_else(|error| panic!("python3 {PROGRAM}: {error}"));
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

    /// Pages of anonymous memory, those that several processes share in equal parts.
    fn resident(&self) -> f64 {
        self.sum_of_pages("Pss_Anon")
    }

    /// Mappings of merged pages.
    fn merged(&self) -> u64 {
        self.sum_of_pages("KSM") as u64
    }

    fn sum_of_pages(&self, field: &str) -> f64 {
        let kb = |&pid| procfs::rollup(pid, field).expect("what an application takes");
        let sum: u64 = self.pids.iter().map(kb).sum();
        sum as f64 * 1024.0 / PAGE_SIZE as f64
    }

    /// Has the frames counted: so many pages are to be saved.
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
        // It ends with its input, and the applications with it.
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
