// SPDX-License-Identifier: GPL-2.0

//! The works: memory, and measurements of a scanner on it.

use crate::applications;
use crate::busy;
use crate::clones;
use crate::collapse;
use crate::collapse::Khugepaged;
use crate::flushes;
use crate::memory::Content;
use crate::memory::Image;
use crate::memory::Workers;
use crate::scanner::Scanner;
use crate::speed;
use crate::volatile;
use std::thread::sleep;
use std::time::Duration;

/// Pages of a MiB.
pub const MIB: usize = 256;
/// Number of processes that share the memory of most works.
pub const PROCESSES: usize = 2;
/// Number of processes for works with much memory: the host allows a process 65530 mappings, and
/// User-Mode Linux needs one for each page of a process that is not contiguous.
const MANY_PROCESSES: usize = 16;
/// Number of passes over which a steady state is averaged.
const STEADY_PASSES: u64 = 3;
/// The same for merged pages: ksm_v scans shared frames in every sixteenth pass.
const MERGED_PASSES: u64 = 16;
/// Number of passes before that: in its first nine passes ksm_v scans every shared frame, because
/// some may be left from an earlier load.
const SETTLING_PASSES: u64 = 10;
/// Longer than any work takes.
const LONG_PAUSE: Duration = Duration::from_secs(3600);
/// Interval between two points of a curve.
const CURVE_INTERVAL: Duration = Duration::from_millis(5);
/// Number of passes without a merge after which a work fails.
const IDLE_PASSES: u64 = 8;
/// Number of rounds where instruction counts depend on the module's random values.
const COUNTED_ROUNDS: usize = 5;
/// Number of rounds in real time.
const TIMED_ROUNDS: usize = 5;

/// A number for one scanner.
pub struct Figure {
    /// Its name in the report.
    pub id: &'static str,
    /// Its value, in the unit of the report.
    pub value: f64,
}

/// A point of a plot.
pub struct Point {
    /// The ID of the plot.
    pub plot: &'static str,
    /// Its x value.
    pub x: f64,
    /// Its y value.
    pub y: f64,
}

/// The results of a work.
#[derive(Default)]
pub struct Outcome {
    /// Its numbers.
    pub figures: Vec<Figure>,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

/// The results of a work, with the scanner.
pub struct Measured {
    /// The scanner's name.
    pub scanner: &'static str,
    /// The results.
    pub outcome: Outcome,
}

/// A work.
#[derive(Clone, Copy)]
pub struct Work {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its function. Leaves nothing merged and nothing running.
    pub run: Run,
    /// The scanners that do it, in turn.
    pub scanners: &'static [fn() -> Scanner],
    /// Number of rounds of each; the median counts.
    pub rounds: usize,
}

/// The order of the scanners in a work.
#[derive(Clone, Copy)]
pub enum Run {
    /// One scanner after the other.
    Each(fn(&Scanner) -> Outcome),
    /// All of them in turn, on the same memory; each outcome has the scanner's index.
    InTurn(fn(&[Scanner]) -> Vec<(usize, Outcome)>),
}

impl Work {
    /// A work that both scanners do once, with counted instructions.
    const fn new(name: &'static str, run: fn(&Scanner) -> Outcome) -> Self {
        Work {
            name,
            run: Run::Each(run),
            scanners: &[Scanner::ksmd, Scanner::ksm_v],
            rounds: 1,
        }
    }

    /// Sets the number of rounds.
    const fn repeated(self, rounds: usize) -> Self {
        Work { rounds, ..self }
    }

    /// Leaves out ksmd, which would take too long.
    const fn without_ksmd(self) -> Self {
        Work {
            scanners: &[Scanner::ksm_v],
            ..self
        }
    }
}

/// All works, for native runs.
pub fn native() -> Vec<Work> {
    let timed = |work: &Work| Work {
        rounds: TIMED_ROUNDS,
        ..*work
    };
    WORKS.iter().map(timed).collect()
}

/// ID of a plot: saved MiB over the run time of the scanner's thread in ms.
pub const CONVERGENCE: &str = "convergence";
/// ID of a plot: cost of a page in ns over the size of memory in MiB.
pub const COST: &str = "cost";

/// All works. The list tests/bench/works says which guest runs each.
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
    Work {
        scanners: &[Scanner::ksm_v_for_zeroes],
        ..Work::new("zero-only-2048", |scanner| {
            let costs = unique(scanner, MANY_PROCESSES, 2048);
            Outcome {
                figures: vec![
                    figure("zero-only-2048/first-pass", costs.first_pass),
                    figure("zero-only-2048/later-passes", costs.later_passes),
                ],
                points: Vec::new(),
            }
        })
    },
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
    Work::new("clones-of-file", |scanner| {
        let ids = [
            "clones-of-file/slowest",
            "clones-of-file/left",
            "clones-of-file/merging",
        ];
        clones(scanner, &Image::of_file(clones::IMAGE), ids)
    })
    .without_ksmd(),
    Work::new("clones-by-fork", |scanner| {
        let ids = [
            "clones-by-fork/slowest",
            "clones-by-fork/left",
            "clones-by-fork/merging",
        ];
        clones(scanner, &Image::of_parent(clones::IMAGE), ids)
    })
    .without_ksmd(),
    Work::new("processes-1000", |scanner| {
        let costs = unique(scanner, 1000, 1000);
        only(figure("processes-1000/later-passes", costs.later_passes))
    })
    .without_ksmd(),
    Work {
        scanners: &[Scanner::ksm_v_by_default, Scanner::ksmd_by_default],
        ..Work::new("khugepaged-defaults", |scanner| {
            collapse::measure(scanner, Khugepaged::Default, &collapse::DEFAULTS)
        })
    },
    Work {
        scanners: &[Scanner::ksm_v_by_default],
        ..Work::new("khugepaged-yielding", |scanner| {
            collapse::measure(scanner, Khugepaged::Yielding, &collapse::YIELDING)
        })
    },
    Work {
        scanners: &[Scanner::ksm_v_of_server],
        ..Work::new("khugepaged-server", |scanner| {
            collapse::measure(scanner, Khugepaged::Default, &collapse::SERVER)
        })
    },
    Work {
        scanners: &[Scanner::ksm_v_of_server],
        ..Work::new("khugepaged-eager", |scanner| {
            collapse::measure(scanner, Khugepaged::Eager, &collapse::EAGER)
        })
    },
    Work {
        scanners: &[Scanner::ksmd_in_use, Scanner::ksm_v_in_use],
        ..Work::new("applications", |scanner| {
            let saving = applications::measure(scanner);
            Outcome {
                figures: vec![figure("applications/wanted", saving.wanted_ms)],
                points: saving.points,
            }
        })
    },
    Work::new("flushes-64", |scanner| {
        only(figure("flushes-64/sent", flushes::measure(scanner, 64, 4)))
    }),
    Work {
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

fn clones(
    scanner: &Scanner,
    image: &Image,
    [slowest, left, merging]: [&'static str; 3],
) -> Outcome {
    let merged = clones::measure(scanner, image);
    Outcome {
        figures: vec![
            figure(slowest, merged.slowest_ms),
            figure(left, merged.left),
            figure(merging, merged.merging),
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

/// A figure with this name.
pub fn figure(id: &'static str, value: f64) -> Figure {
    Figure { id, value }
}

/// Cost of pages that do not change: run time of the scanner's thread for each, in ns.
struct Steady {
    first_pass: f64,
    later_passes: f64,
    /// Size of the scanner's tables for each page, in bytes.
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
    // Read before the start: starting may take longer than a pass.
    let (start, first_pass) = (scanner.usage(), scanner.passes());
    // ksm_v pauses after the pass, so that it scans no page of the next one, which costs less.
    scanner.start_with_pauses(LONG_PAUSE);
    scanner.wait_until_passes(first_pass + 1);
    let after_first = scanner.usage();
    scanner.start();
    // In its first two passes a scanner enters pages into its tables for good, and finds different
    // places to sample.
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

/// Cost of merging copies.
struct Copies {
    /// For each page merged away, to convergence, in ns.
    merging: f64,
    /// Number of passes until convergence, including the last one.
    passes: f64,
    /// For each page in each later pass, in ns.
    merged: f64,
    /// The curve until convergence.
    points: Vec<Point>,
}

/// Each content exists `copies` times.
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

/// Lets it scan until `count` reaches `goal`; returns the curve.
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

/// Keeps a CPU busy forever, without a `pause`: for QEMU, `pause` is an exit from the guest, which
/// affects the guest's other CPUs.
pub fn compute() -> ! {
    let mut count = 0u64;
    loop {
        count = std::hint::black_box(count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_works_are_listed() {
        let lines = include_str!("../works").lines();
        let listed = lines.filter(|line| !line.starts_with('#'));
        let listed: Vec<_> = listed.filter_map(|line| line.split(' ').next()).collect();
        let works: Vec<_> = WORKS.iter().map(|work| work.name).collect();
        assert_eq!(listed, works);
    }
}
