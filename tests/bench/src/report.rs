// SPDX-License-Identifier: GPL-2.0

//! Compares the figures of the scanners with each other and with the goals.

use crate::scanner;
use crate::work::Measured;
use std::fmt::Write;

/// The most that ksm_v should need.
#[derive(Clone, Copy)]
enum Goal {
    /// No goal, for comparison only.
    None,
    /// At most this value.
    AtMost(f64),
    /// At most this part of ksmd's figure.
    Part(f64),
    /// At most this multiple of its own figure with that name.
    Times(f64, &'static str),
    /// At most this multiple of the figure without scanning.
    OfIdle(f64),
}

/// A line of the report.
pub struct Line {
    id: &'static str,
    what: &'static str,
    goal: Goal,
    /// Measured in real time, and so close that the load of the machine decides.
    close: bool,
    /// Larger is not worse.
    is_no_cost: bool,
}

impl Line {
    const fn new(id: &'static str, what: &'static str, goal: Goal) -> Self {
        Line {
            id,
            what,
            goal,
            close: false,
            is_no_cost: false,
        }
    }

    /// Figures of a work with khugepaged.
    const fn count(id: &'static str, what: &'static str) -> Self {
        Line {
            is_no_cost: true,
            ..Line::new(id, what, Goal::None)
        }
    }

    const fn close(self) -> Self {
        Line {
            close: true,
            ..self
        }
    }
}

/// All figures of guests that QEMU emulates, in the order of the table.
pub const COUNTED: &[Line] = &[
    Line::new(
        "unique-64/first-pass",
        "64 MiB that all differ, first pass: instructions per page",
        Goal::AtMost(600.0),
    ),
    Line::new(
        "unique-64/later-passes",
        "the same, every later pass",
        Goal::AtMost(450.0),
    ),
    Line::new(
        "unique-256/later-passes",
        "256 MiB that all differ, every later pass: instructions per page",
        Goal::AtMost(450.0),
    ),
    Line::new(
        "unique-2048/later-passes",
        "2 GiB that all differ, every later pass: instructions per page",
        Goal::Times(1.15, "unique-64/later-passes"),
    ),
    Line::new(
        "processes-1000/later-passes",
        "1000 processes of 1 MiB that all differs, every later pass: instructions per page",
        Goal::Times(1.3, "unique-64/later-passes"),
    ),
    Line::new(
        "zero-only-2048/first-pass",
        "2 GiB without zeroes, content=zero, first pass: instructions per page",
        Goal::None,
    ),
    Line::new(
        "zero-only-2048/later-passes",
        "the same, every later pass",
        Goal::None,
    ),
    Line::new(
        "alike-64/later-passes",
        "64 MiB that differ in their last 96 bytes, every later pass: instructions per page",
        Goal::AtMost(3000.0),
    ),
    Line::new(
        "copies-256/merging",
        "256 MiB, 4 copies of each page: instructions per page merged away, to convergence",
        Goal::AtMost(5000.0),
    ),
    Line::new(
        "copies-256/passes",
        "the same: passes to convergence",
        Goal::AtMost(2.0),
    ),
    Line::new(
        "copies-256/merged",
        "the same, once merged: instructions per page and pass",
        Goal::AtMost(120.0),
    ),
    Line::new(
        "zero-64/merging",
        "64 MiB of zeroes: instructions per page merged away",
        Goal::Part(0.25),
    ),
    Line::new(
        "clones-of-file/slowest",
        "50 clones of a file of 64 MiB start, of ten pages each writes four as all do and one of its own; each is \
         merged by `merge_now`: million instructions of the slowest one",
        Goal::AtMost(1000.0),
    ),
    Line::new(
        "clones-of-file/left",
        "clones-of-file: the most that a `merge_now` left, of what a perfect merger saves: %",
        Goal::AtMost(10.0),
    ),
    Line::new(
        "clones-of-file/merging",
        "clones-of-file: instructions per page merged away",
        Goal::None,
    ),
    Line::new(
        "clones-by-fork/slowest",
        "the same with clones that a process with 64 MiB forks: million instructions of the slowest `merge_now`",
        Goal::AtMost(1000.0),
    ),
    Line::new(
        "clones-by-fork/left",
        "clones-by-fork: the most that a `merge_now` left, of what a perfect merger saves: %",
        Goal::AtMost(10.0),
    ),
    Line::new(
        "clones-by-fork/merging",
        "clones-by-fork: instructions per page merged away",
        Goal::None,
    ),
    Line::new(
        "unique-64/index-bytes",
        "64 MiB that all differ: bytes of tables per page",
        Goal::AtMost(16.0),
    ),
    Line::new(
        "volatile-64/broken",
        "64 MiB, 2 copies of each page, every fourth rewritten before each pass: merges broken, \
         per merge",
        Goal::Part(1.0),
    ),
    Line::count("khugepaged-defaults/merged-100", "khugepaged beside the scanner, both with defaults, 10 minutes: merged where 100 pages of 512 are equal, % of these, mean"),
    Line::count("khugepaged-defaults/huge-100", "khugepaged-defaults: huge there, % of all, mean"),
    Line::count("khugepaged-defaults/merged-400", "khugepaged-defaults: merged where 400 of 512 are equal, % of these, mean"),
    Line::count("khugepaged-defaults/huge-400", "khugepaged-defaults: huge there, % of all, mean"),
    Line::count("khugepaged-defaults/collapses", "khugepaged-defaults: collapses"),
    Line::count("khugepaged-defaults/late-collapses", "khugepaged-defaults: collapses in the last third"),
    Line::count("khugepaged-defaults/splits", "khugepaged-defaults: splits"),
    Line::count("khugepaged-defaults/merges", "khugepaged-defaults: pages merged, each time"),
    Line::count("khugepaged-defaults/scanner", "khugepaged-defaults: million instructions of the scanner"),
    Line::count("khugepaged-defaults/khugepaged", "khugepaged-defaults: million instructions of khugepaged"),
    Line::count("khugepaged-yielding/merged-100", "the same, max_ptes_shared 0: merged where 100 pages of 512 are equal, % of these, mean"),
    Line::count("khugepaged-yielding/huge-100", "khugepaged-yielding: huge there, % of all, mean"),
    Line::count("khugepaged-yielding/merged-400", "khugepaged-yielding: merged where 400 of 512 are equal, % of these, mean"),
    Line::count("khugepaged-yielding/huge-400", "khugepaged-yielding: huge there, % of all, mean"),
    Line::count("khugepaged-yielding/collapses", "khugepaged-yielding: collapses"),
    Line::count("khugepaged-yielding/late-collapses", "khugepaged-yielding: collapses in the last third"),
    Line::count("khugepaged-yielding/splits", "khugepaged-yielding: splits"),
    Line::count("khugepaged-yielding/merges", "khugepaged-yielding: pages merged, each time"),
    Line::count("khugepaged-yielding/scanner", "khugepaged-yielding: million instructions of the scanner"),
    Line::count("khugepaged-yielding/khugepaged", "khugepaged-yielding: million instructions of khugepaged"),
    Line::count("khugepaged-server/merged-100", "khugepaged beside a faster scanner, 5 minutes: merged where 100 pages of 512 are equal, % of these, mean"),
    Line::count("khugepaged-server/huge-100", "khugepaged-server: huge there, % of all, mean"),
    Line::count("khugepaged-server/merged-400", "khugepaged-server: merged where 400 of 512 are equal, % of these, mean"),
    Line::count("khugepaged-server/huge-400", "khugepaged-server: huge there, % of all, mean"),
    Line::count("khugepaged-server/collapses", "khugepaged-server: collapses"),
    Line::count("khugepaged-server/late-collapses", "khugepaged-server: collapses in the last third"),
    Line::count("khugepaged-server/splits", "khugepaged-server: splits"),
    Line::count("khugepaged-server/merges", "khugepaged-server: pages merged, each time"),
    Line::count("khugepaged-server/scanner", "khugepaged-server: million instructions of the scanner"),
    Line::count("khugepaged-server/khugepaged", "khugepaged-server: million instructions of khugepaged"),
    Line::count("khugepaged-eager/merged-100", "the same, a faster khugepaged, too, 20 seconds: merged where 100 pages of 512 are equal, % of these, mean"),
    Line::count("khugepaged-eager/huge-100", "khugepaged-eager: huge there, % of all, mean"),
    Line::count("khugepaged-eager/merged-400", "khugepaged-eager: merged where 400 of 512 are equal, % of these, mean"),
    Line::count("khugepaged-eager/huge-400", "khugepaged-eager: huge there, % of all, mean"),
    Line::count("khugepaged-eager/collapses", "khugepaged-eager: collapses"),
    Line::count("khugepaged-eager/late-collapses", "khugepaged-eager: collapses in the last third"),
    Line::count("khugepaged-eager/splits", "khugepaged-eager: splits"),
    Line::count("khugepaged-eager/merges", "khugepaged-eager: pages merged, each time"),
    Line::count("khugepaged-eager/scanner", "khugepaged-eager: million instructions of the scanner"),
    Line::count("khugepaged-eager/khugepaged", "khugepaged-eager: million instructions of khugepaged"),
    Line::new(
        "applications/wanted",
        "6 Redis and 6 Python: million instructions to 95% of what a perfect merger saves",
        Goal::Part(0.2),
    ),
    Line::new(
        "flushes-64/sent",
        "64 MiB, 4 copies of each page, in a running process: TLB flushes sent to its CPU, per \
         page merged away",
        Goal::AtMost(0.125),
    ),
    Line::new(
        "speed-256/one-thread",
        "256 MiB that all differ, in 16 processes, every later pass: ns of real time per page",
        Goal::None,
    )
    .close(),
    Line::new(
        "speed-256/two-threads",
        "the same, by two threads",
        Goal::Times(1.0 / 1.7, "speed-256/one-thread"),
    )
    .close(),
    Line::new(
        "busy-64/fault-p50",
        "a process whose 64 MiB are scanned: ns for a fault on a fresh page, median",
        Goal::Part(1.0),
    )
    .close(),
    Line::new(
        "busy-64/fault-p99",
        "the same: 99th percentile",
        Goal::Part(1.0),
    )
    .close(),
    Line::new("busy-64/fault-max", "the same: longest", Goal::Part(1.0)).close(),
    Line::new(
        "busy-64/map-and-unmap",
        "the same process: ns for a pair of mmap and munmap",
        Goal::OfIdle(1.05),
    )
    .close(),
];

/// All figures of a kernel that runs natively, in the order of the table.
pub const NATIVE: &[Line] = &[
    Line::new(
        "unique-64/first-pass",
        "64 MiB that all differ, first pass: ns per page",
        Goal::None,
    ),
    Line::new(
        "unique-64/later-passes",
        "the same, every later pass",
        Goal::None,
    ),
    Line::new(
        "unique-256/later-passes",
        "256 MiB that all differ, every later pass: ns per page",
        Goal::Part(1.0 / 12.0),
    ),
    Line::new(
        "unique-2048/later-passes",
        "2 GiB that all differ, every later pass: ns per page",
        Goal::Times(1.15, "unique-64/later-passes"),
    ),
    Line::new(
        "zero-only-2048/first-pass",
        "2 GiB without zeroes, content=zero, first pass: ns per page",
        Goal::AtMost(60.0),
    ),
    Line::new(
        "zero-only-2048/later-passes",
        "the same, every later pass",
        Goal::None,
    ),
    Line::new(
        "alike-64/later-passes",
        "64 MiB that differ in their last 96 bytes, every later pass: ns per page",
        Goal::None,
    ),
    Line::new(
        "copies-256/merging",
        "256 MiB, 4 copies of each page: ns per page merged away, to convergence",
        Goal::Part(0.25),
    ),
    Line::new(
        "copies-256/merged",
        "the same, once merged: ns per page and pass",
        Goal::None,
    ),
];

/// A line with its numbers.
struct Row {
    line: &'static Line,
    /// The figure without scanning.
    idle: Option<f64>,
    ksmd: Option<f64>,
    ksm_v: f64,
    ratio: Option<Ratio>,
    ratio_to_idle: Option<Ratio>,
    /// The most that ksm_v should need, if it is known.
    goal: Option<f64>,
}

/// ksm_v's figure divided by another's, over pairs measured one after the other.
struct Ratio {
    median: f64,
    /// The 95% confidence interval of the median, of many pairs; the smallest and the largest ratio,
    /// of few pairs.
    low: f64,
    high: f64,
    is_of_many: bool,
}

/// From this number on, pairs are many.
const MANY_PAIRS: usize = 20;

/// The measured figures.
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Collects the figures; a line needs at least a figure of ksm_v.
    pub fn of(lines: &'static [Line], all: &[Measured]) -> Self {
        let rows = lines.iter().filter_map(|line| Row::of(line, all));
        Report {
            rows: rows.collect(),
        }
    }

    /// Returns whether ksm_v needed no more than ksmd in all lines that do not depend on real time.
    pub fn is_never_worse(&self) -> bool {
        let is_no_worse = |row: &Row| {
            row.line.close || row.line.is_no_cost || row.ksmd.is_none_or(|ksmd| row.ksm_v <= ksmd)
        };
        self.rows.iter().all(is_no_worse)
    }

    /// The table.
    pub fn markdown(&self) -> String {
        let mut text = "| work | idle | ksmd | ksm_v | ksm_v / ksmd | goal |\n\
                        | --- | ---: | ---: | ---: | ---: | ---: |\n"
            .to_owned();
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.line.what,
                row.idle.map_or("-".to_owned(), number),
                row.ksmd.map_or("-".to_owned(), number),
                number(row.ksm_v),
                row.ratio.as_ref().map_or("-".to_owned(), Ratio::text),
                row.goal_text()
            );
        }
        text
    }

    /// An array of objects, one for each figure.
    pub fn json(&self) -> String {
        let objects: Vec<String> = self.rows.iter().map(Row::json).collect();
        format!("[\n{}\n]", objects.join(",\n"))
    }
}

impl Row {
    fn of(line: &'static Line, all: &[Measured]) -> Option<Self> {
        let value = |scanner, id| median(values(all, scanner, id));
        let (idle, ksmd) = (value(scanner::IDLE, line.id), value(scanner::KSMD, line.id));
        let goal = match line.goal {
            Goal::None => None,
            Goal::AtMost(most) => Some(most),
            Goal::Part(part) => ksmd.filter(|ksmd| ksmd.is_finite()).map(|ksmd| part * ksmd),
            Goal::Times(times, id) => value(scanner::KSM_V, id).map(|own| times * own),
            Goal::OfIdle(times) => idle.map(|idle| times * idle),
        };
        Some(Row {
            line,
            idle,
            ksmd,
            ksm_v: value(scanner::KSM_V, line.id)?,
            ratio: Ratio::of(all, scanner::KSMD, line.id),
            ratio_to_idle: Ratio::of(all, scanner::IDLE, line.id),
            goal,
        })
    }

    /// Returns whether ksm_v needs no more than the goal.
    fn verdict(&self, goal: f64) -> &'static str {
        match (self.line.goal, &self.ratio, &self.ratio_to_idle) {
            (Goal::Part(part), Some(ratio), _) => ratio.verdict(part),
            (Goal::OfIdle(times), _, Some(ratio)) => ratio.verdict(times),
            _ if self.ksm_v <= goal => "met",
            _ => "missed",
        }
    }

    fn goal_text(&self) -> String {
        self.goal.map_or("-".to_owned(), |goal| {
            format!("{}, {}", number(goal), self.verdict(goal))
        })
    }

    fn json(&self) -> String {
        let finite = |value: &f64| value.is_finite();
        let or_null = |value: Option<f64>| value.filter(finite).map_or("null".to_owned(), number);
        format!(
            r#"  {{"figure": "{}", "idle": {}, "ksmd": {}, "ksm_v": {}, "goal": {}}}"#,
            self.line.id,
            or_null(self.idle),
            or_null(self.ksmd),
            or_null(Some(self.ksm_v)),
            or_null(self.goal)
        )
    }
}

impl Ratio {
    /// `None` if `other` has no figure or needs nothing, or one of them never gets there.
    fn of(all: &[Measured], other: &str, id: &str) -> Option<Self> {
        let pairs = values(all, other, id)
            .into_iter()
            .zip(values(all, scanner::KSM_V, id));
        let mut ratios: Vec<f64> = pairs
            .filter(|&(other, ksm_v)| other > 0.0 && (ksm_v + other).is_finite())
            .map(|(other, ksm_v)| ksm_v / other)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let reach = reach_of_median(ratios.len());
        let middle = ratios.len() / 2;
        Some(Ratio {
            median: *ratios.get(middle)?,
            is_of_many: ratios.len() >= MANY_PAIRS,
            low: ratios[middle.saturating_sub(reach)],
            high: ratios[(middle + reach).min(ratios.len() - 1)],
        })
    }

    /// Returns whether it is at most `goal`; with many pairs, as far as that can be told.
    fn verdict(&self, goal: f64) -> &'static str {
        if self.median <= goal {
            "met"
        } else if self.is_of_many && self.low <= goal {
            "not told apart"
        } else {
            "missed"
        }
    }

    fn text(&self) -> String {
        let percent = |ratio| format!("{:.1}%", 100.0 * ratio);
        if self.low == self.high {
            return percent(self.median);
        }
        format!(
            "{} ({} to {})",
            percent(self.median),
            percent(self.low),
            percent(self.high)
        )
    }
}

/// Half the width of the median's 95% confidence interval, in places of the sorted numbers: the
/// number of values above the median varies by ± 1.96 √n / 2.
fn reach_of_median(count: usize) -> usize {
    if count < MANY_PAIRS {
        return count;
    }
    (0.98 * (count as f64).sqrt()).ceil() as usize
}

/// A line for each figure that was measured more than once: its name, the scanner, all values.
pub fn rounds(lines: &[Line], all: &[Measured]) -> String {
    let mut text = String::new();
    for line in lines {
        for scanner in [scanner::IDLE, scanner::KSMD, scanner::KSM_V] {
            let values = values(all, scanner, line.id);
            if values.len() > 1 {
                let numbers: Vec<String> = values.into_iter().map(number).collect();
                let _ = writeln!(text, "{} {scanner} {}", line.id, numbers.join(" "));
            }
        }
    }
    text
}

/// A scanner's figures with this name.
fn values(all: &[Measured], scanner: &str, id: &str) -> Vec<f64> {
    let own = all.iter().filter(|measured| measured.scanner == scanner);
    own.flat_map(|measured| &measured.outcome.figures)
        .filter(|figure| figure.id == id)
        .map(|figure| figure.value)
        .collect()
}

/// The middle value; `None` if there are no values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A number with its significant digits.
fn number(value: f64) -> String {
    if value.is_infinite() {
        "never".to_owned()
    } else if value.fract() == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}
