// SPDX-License-Identifier: GPL-2.0

//! What is measured: memory, and what a scanner makes of it.

use crate::applications;
use crate::busy;
use crate::collapse;
use crate::collapse::Khugepaged;
use crate::flushes;
use crate::memory::Content;
use crate::memory::Workers;
use crate::scanner::Scanner;
use crate::speed;
use crate::volatile;
use std::thread::sleep;
use std::time::Duration;

/// Pages of a MiB.
pub const MIB: usize = 256;
/// Processes that the memory of most works is spread over.
pub const PROCESSES: usize = 2;
/// Processes that much memory is spread over: the host allows a process 65530 mappings, and
/// User-Mode Linux needs one for each page of a process that lies apart.
const MANY_PROCESSES: usize = 16;
/// Passes over which a steady state is averaged.
const STEADY_PASSES: u64 = 3;
/// As above, of what is merged: ksm_v looks at shared frames in every sixteenth pass.
const MERGED_PASSES: u64 = 16;
/// Passes before that: in the first nine after it was loaded ksm_v looks at every shared frame, as
/// some may be left of an earlier load.
const SETTLING_PASSES: u64 = 10;
/// Longer than anything here takes.
const LONG_PAUSE: Duration = Duration::from_secs(3600);
/// Between two points of a curve.
const CURVE_INTERVAL: Duration = Duration::from_millis(5);
/// Further passes in which something has to be merged, or it never will.
const IDLE_PASSES: u64 = 8;
/// How often instructions are counted where they depend on what the module draws when it is loaded.
const COUNTED_ROUNDS: usize = 5;
/// How often real time is measured.
const TIMED_ROUNDS: usize = 5;
/// What is also done natively, where all that can be measured is real time.
const NATIVE: [&str; 5] = [
    "unique-64",
    "unique-256",
    "unique-2048",
    "alike-64",
    "copies-256",
];

/// One number, of one scanner.
pub struct Figure {
    /// By what the report knows it.
    pub id: &'static str,
    /// In the unit that the report names.
    pub value: f64,
}

/// A point of a plot.
pub struct Point {
    /// By what the plot is known.
    pub plot: &'static str,
    /// What it lies above.
    pub x: f64,
    /// How high it is.
    pub y: f64,
}

/// What a piece of work brought.
#[derive(Default)]
pub struct Outcome {
    /// Its numbers.
    pub figures: Vec<Figure>,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

/// What a piece of work brought, done by whom.
pub struct Measured {
    /// The scanner's name.
    pub scanner: &'static str,
    /// What it brought.
    pub outcome: Outcome,
}

/// A piece of work.
#[derive(Clone, Copy)]
pub struct Work {
    /// Its name, as it is asked for.
    pub name: &'static str,
    /// Has it done. Leaves nothing merged and nothing running.
    pub run: Run,
    /// Who does it, in turn.
    pub scanners: &'static [fn() -> Scanner],
    /// How often each does it: the median counts.
    pub rounds: usize,
    /// What it is for.
    pub guest: Guest,
}

/// How a work is done.
#[derive(Clone, Copy)]
pub enum Run {
    /// By one scanner, then by the next one.
    Each(fn(&Scanner) -> Outcome),
    /// By all of them in turn, on the same memory; an outcome comes with the scanner's place.
    InTurn(fn(&[Scanner]) -> Vec<(usize, Outcome)>),
}

/// A machine that works are for.
#[derive(Clone, Copy)]
pub enum Guest {
    /// One CPU that counts instructions: nothing depends on real time.
    Counting,
    /// As that, with the demo and its applications.
    Demo,
    /// As Counting, for works that take long and are done only when named.
    Named,
    /// Two CPUs and real time.
    Parallel,
    /// User-Mode Linux: one CPU, which is a real one, and real time.
    Native,
}

impl Guest {
    /// By what scripts/bench knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Guest::Counting => "counting",
            Guest::Demo => "demo",
            Guest::Named => "named",
            Guest::Parallel => "parallel",
            Guest::Native => "native",
        }
    }
}

impl Work {
    /// A work that both scanners do once, counting instructions.
    const fn new(name: &'static str, run: fn(&Scanner) -> Outcome) -> Self {
        Work {
            name,
            run: Run::Each(run),
            scanners: &[Scanner::ksmd, Scanner::ksm_v],
            rounds: 1,
            guest: Guest::Counting,
        }
    }

    /// So often by each.
    const fn repeated(self, rounds: usize) -> Self {
        Work { rounds, ..self }
    }

    /// Not by ksmd, which would take too long.
    const fn without_ksmd(self) -> Self {
        Work {
            scanners: &[Scanner::ksm_v],
            ..self
        }
    }
}

/// What is done natively.
pub fn native() -> Vec<Work> {
    let works = WORKS.iter().filter(|work| NATIVE.contains(&work.name));
    works
        .map(|work| Work {
            rounds: TIMED_ROUNDS,
            guest: Guest::Native,
            ..*work
        })
        .collect()
}

/// Saved pages over the run time of the scanner's thread: MiB over ms.
pub const CONVERGENCE: &str = "convergence";
/// Cost of a page over the size of memory: ns over MiB.
pub const COST: &str = "cost";

/// All of them.
pub const WORKS: &[Work] = &[
    Work::new("unique-64", |scanner| {
        let costs = unique(scanner, PROCESSES, 64);
        Outcome {
            figures: vec![
                figure("unique-64/first-pass", costs.first_pass),
                figure("unique-64/later-passes", costs.later_passes),
                figure("unique-64/index-bytes", costs.index_bytes),
            ],
            points: vec![costs.point(64)],
        }
    })
    .repeated(COUNTED_ROUNDS),
    Work::new("unique-256", |scanner| {
        let costs = unique(scanner, PROCESSES, 256);
        Outcome {
            figures: vec![figure("unique-256/later-passes", costs.later_passes)],
            points: vec![costs.point(256)],
        }
    }),
    Work::new("unique-2048", |scanner| {
        let costs = unique(scanner, MANY_PROCESSES, 2048);
        Outcome {
            figures: vec![figure("unique-2048/later-passes", costs.later_passes)],
            points: vec![costs.point(2048)],
        }
    })
    .without_ksmd(),
    Work::new("alike-64", |scanner| {
        let costs = steady(scanner, PROCESSES, 64, Content::Alike);
        only(figure("alike-64/later-passes", costs.later_passes))
    })
    .repeated(COUNTED_ROUNDS),
    Work::new("copies-256", |scanner| {
        let costs = copies(scanner, 256, 4);
        Outcome {
            figures: vec![
                figure("copies-256/merging", costs.merging),
                figure("copies-256/passes", costs.passes),
                figure("copies-256/merged", costs.merged),
            ],
            points: costs.points,
        }
    }),
    Work::new("zero-64", |scanner| {
        only(figure("zero-64/merging", zeroes(scanner, 64)))
    })
    .repeated(COUNTED_ROUNDS),
    Work::new("volatile-64", |scanner| {
        only(figure(
            "volatile-64/broken",
            volatile::measure(scanner, 64, 2),
        ))
    }),
    Work::new("processes-1000", |scanner| {
        let costs = unique(scanner, 1000, 1000);
        only(figure("processes-1000/later-passes", costs.later_passes))
    })
    .without_ksmd(),
    Work {
        scanners: &[Scanner::ksm_v_by_default, Scanner::ksmd_by_default],
        guest: Guest::Named,
        ..Work::new("khugepaged-defaults", |scanner| {
            collapse::measure(scanner, Khugepaged::Default, &collapse::DEFAULTS)
        })
    },
    Work {
        scanners: &[Scanner::ksm_v_by_default],
        guest: Guest::Named,
        ..Work::new("khugepaged-yielding", |scanner| {
            collapse::measure(scanner, Khugepaged::Yielding, &collapse::YIELDING)
        })
    },
    Work {
        scanners: &[Scanner::ksm_v_of_server],
        guest: Guest::Named,
        ..Work::new("khugepaged-server", |scanner| {
            collapse::measure(scanner, Khugepaged::Default, &collapse::SERVER)
        })
    },
    Work {
        scanners: &[Scanner::ksm_v_of_server],
        guest: Guest::Named,
        ..Work::new("khugepaged-eager", |scanner| {
            collapse::measure(scanner, Khugepaged::Eager, &collapse::EAGER)
        })
    },
    Work {
        guest: Guest::Demo,
        scanners: &[Scanner::ksmd_in_use, Scanner::ksm_v_in_use],
        ..Work::new("applications", |scanner| {
            let saving = applications::measure(scanner);
            Outcome {
                figures: vec![figure("applications/wanted", saving.wanted_ms)],
                points: saving.points,
            }
        })
    },
    Work {
        guest: Guest::Parallel,
        ..Work::new("flushes-64", |scanner| {
            only(figure("flushes-64/sent", flushes::measure(scanner, 64, 4)))
        })
    },
    Work {
        guest: Guest::Parallel,
        rounds: TIMED_ROUNDS,
        ..Work::new("speed-256", |scanner| {
            let [one, two] = speed::measure(scanner, 256);
            Outcome {
                figures: vec![
                    figure("speed-256/one-thread", one),
                    figure("speed-256/two-threads", two),
                ],
                points: Vec::new(),
            }
        })
    }
    .without_ksmd(),
    Work {
        name: "busy-64",
        run: Run::InTurn(|scanners| {
            let turns = busy::measure(scanners, 64).into_iter();
            turns
                .map(|(place, times)| (place, noticed(times)))
                .collect()
        }),
        scanners: &[Scanner::idle, Scanner::ksmd, Scanner::ksm_v],
        rounds: TIMED_ROUNDS,
        guest: Guest::Parallel,
    },
];

fn noticed(times: busy::Times) -> Outcome {
    Outcome {
        figures: vec![
            figure("busy-64/fault-p50", times.fault_p50),
            figure("busy-64/fault-p99", times.fault_p99),
            figure("busy-64/fault-max", times.fault_max),
            figure("busy-64/map-and-unmap", times.map_and_unmap),
        ],
        points: Vec::new(),
    }
}

fn only(figure: Figure) -> Outcome {
    Outcome {
        figures: vec![figure],
        ..Outcome::default()
    }
}

/// A figure of this name.
pub fn figure(id: &'static str, value: f64) -> Figure {
    Figure { id, value }
}

/// What pages cost that stay as they are: run time of the scanner's thread for each, in ns.
struct Steady {
    first_pass: f64,
    later_passes: f64,
    /// Bytes of the scanner's tables for each page.
    index_bytes: f64,
}

impl Steady {
    fn point(&self, mib: u32) -> Point {
        Point {
            plot: COST,
            x: mib.into(),
            y: self.later_passes,
        }
    }
}

fn unique(scanner: &Scanner, processes: usize, mib: usize) -> Steady {
    steady(scanner, processes, mib, Content::Unique)
}

fn steady(scanner: &Scanner, processes: usize, mib: usize, content: Content) -> Steady {
    let pages = mib * MIB;
    let workers = Workers::spawn(processes, pages, content);
    // Before it starts: who starts it may wait for longer than a pass takes.
    let (start, first_pass) = (scanner.usage(), scanner.passes());
    // ksm_v pauses after the pass, so that no page of the next one counts, which costs less.
    scanner.start_with_pauses(LONG_PAUSE);
    scanner.wait_until_passes(first_pass + 1);
    let after_first = scanner.usage();
    scanner.start();
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
    /// Passes until then, the last one included.
    passes: f64,
    /// For each page in each pass from then on, in ns.
    merged: f64,
    /// The way there.
    points: Vec<Point>,
}

/// Every content is there `copies` times.
fn copies(scanner: &Scanner, mib: usize, copies: usize) -> Copies {
    let pages = mib * MIB;
    let workers = Workers::spawn(PROCESSES, pages, Content::Copies(copies));
    let goal = (pages - pages / copies) as u64;
    let (start, first_pass) = (scanner.cpu_ns(), scanner.passes());
    scanner.start();
    let points = converge(scanner, goal, Scanner::pages_sharing);
    let merging = (scanner.cpu_ns() - start) as f64 / goal as f64;
    let passes = (scanner.passes() + 1 - first_pass) as f64;
    scanner.wait_for_passes(SETTLING_PASSES);
    let before = scanner.usage();
    scanner.wait_for_passes(MERGED_PASSES);
    let merged = scanner.usage().ns_per_page_since(&before);
    scanner.stop();
    drop(workers);
    Copies {
        merging,
        passes,
        merged,
        points,
    }
}

/// Cost of each page of zeroes that is merged away, in ns.
fn zeroes(scanner: &Scanner, mib: usize) -> f64 {
    let pages = mib * MIB;
    let workers = Workers::spawn(PROCESSES, pages, Content::Zero);
    let start = scanner.cpu_ns();
    scanner.start();
    converge(scanner, pages as u64, Scanner::zero_pages);
    let cost = (scanner.cpu_ns() - start) as f64 / pages as f64;
    scanner.stop();
    drop(workers);
    cost
}

/// Lets it scan until `count` says `goal`; returns how that came about.
pub fn converge(scanner: &Scanner, goal: u64, count: fn(&Scanner) -> u64) -> Vec<Point> {
    let start = scanner.cpu_ns();
    let (mut merged, mut last_gain) = (0, scanner.passes());
    let mut points = Vec::new();
    while merged < goal {
        sleep(CURVE_INTERVAL);
        let now = count(scanner);
        points.push(Point {
            plot: CONVERGENCE,
            x: (scanner.cpu_ns() - start) as f64 / 1e6,
            y: now as f64 / MIB as f64,
        });
        if now > merged {
            last_gain = scanner.passes();
        }
        merged = now;
        assert!(
            scanner.passes() < last_gain + IDLE_PASSES,
            "{} does not converge: {now} of {goal} pages merged away",
            scanner.name()
        );
    }
    points
}

/// Keeps a CPU busy for ever, without a `pause`: QEMU makes that a way out of the guest, which the
/// other CPUs of the guest would notice.
pub fn compute() -> ! {
    let mut count = 0u64;
    loop {
        count = std::hint::black_box(count.wrapping_add(1));
    }
}
