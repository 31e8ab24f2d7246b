// SPDX-License-Identifier: GPL-2.0

//! Huge pages with some equal parts: a scanner splits them to merge the parts, and khugepaged
//! collapses merged pages to huge pages again.
//!
//! There are two sets of processes, whose ranges of 512 pages have few or many equal pages:
//! khugepaged collapses a range with up to 256 shared pages (`max_ptes_shared`). All ranges are
//! huge pages at first. Nothing is written to them.

use crate::memory::Content;
use crate::memory::Workers;
use crate::memory::HUGE_PAGES;
use crate::scanner::Scanner;
use crate::work::figure;
use crate::work::Outcome;
use crate::work::Point;
use guest::kernel::procfs;
use guest::process::task;
use std::thread::sleep;
use std::time::Duration;

const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage";
/// Processes of each set.
const PROCESSES: usize = 4;
/// Huge pages of each process.
const RANGES: usize = 4;
/// Number of equal pages of each range, in the two sets.
const FEW: usize = 100;
const MANY: usize = 400;
/// Interval between two readings of the counts: merges that break in between are missed.
const INTERVAL: Duration = Duration::from_secs(1);
/// One of this many readings is a point of the plot.
const POINTS: usize = 10;

/// khugepaged's settings.
#[derive(Clone, Copy)]
pub enum Khugepaged {
    /// The kernel's defaults: 4096 pages every 10 seconds.
    Default,
    /// As above, but ranges with a shared page are not collapsed.
    Yielding,
    /// 4096 pages every 100 ms.
    Eager,
}

impl Khugepaged {
    fn settings(self) -> [(&'static str, &'static str); 4] {
        let (pause, most_shared) = match self {
            Khugepaged::Default => ("10000", "256"),
            Khugepaged::Yielding => ("10000", "0"),
            Khugepaged::Eager => ("100", "256"),
        };
        [
            ("scan_sleep_millisecs", pause),
            ("alloc_sleep_millisecs", "60000"),
            ("pages_to_scan", "4096"),
            ("max_ptes_shared", most_shared),
        ]
    }

    fn set(self) {
        for (name, value) in self.settings() {
            write(&format!("khugepaged/{name}"), value);
        }
    }
}

/// The duration of a work, and the names of its figures and plots.
pub struct Names {
    seconds: usize,
    figures: [&'static str; 10],
    plots: [&'static str; 4],
}

macro_rules! names {
    ($work:literal, $seconds:literal) => {
        Names {
            seconds: $seconds,
            figures: [
                concat!($work, "/merged-100"),
                concat!($work, "/huge-100"),
                concat!($work, "/merged-400"),
                concat!($work, "/huge-400"),
                concat!($work, "/collapses"),
                concat!($work, "/splits"),
                concat!($work, "/merges"),
                concat!($work, "/scanner"),
                concat!($work, "/khugepaged"),
                concat!($work, "/late-collapses"),
            ],
            plots: [
                concat!($work, "-merged-100"),
                concat!($work, "-huge-100"),
                concat!($work, "-merged-400"),
                concat!($work, "-huge-400"),
            ],
        }
    };
}

/// Both have their defaults.
pub const DEFAULTS: Names = names!("khugepaged-defaults", 600);
/// As above, but khugepaged does not collapse shared pages.
pub const YIELDING: Names = names!("khugepaged-yielding", 600);
/// A scanner set for a server, with passes of 160 ms here, and khugepaged with its defaults.
pub const SERVER: Names = names!("khugepaged-server", 300);
/// As above, and khugepaged with passes of 400 ms.
pub const EAGER: Names = names!("khugepaged-eager", 20);

/// Counts since boot.
struct Counts {
    collapses: u64,
    splits: u64,
    scanner_ns: u64,
    khugepaged_ns: u64,
}

impl Counts {
    fn read(scanner: &Scanner) -> Self {
        let vmstat = |name| procfs::number_in("/proc/vmstat", name).expect("a count of the kernel");
        Counts {
            collapses: vmstat("thp_collapse_alloc"),
            splits: vmstat("thp_split_page"),
            scanner_ns: scanner.cpu_ns(),
            khugepaged_ns: khugepaged_ns(),
        }
    }
}

fn khugepaged_ns() -> u64 {
    match task::named("khugepaged")[..] {
        [id] => task::run_time_ns(id).expect("run time of khugepaged"),
        ref found => panic!("expected one thread khugepaged, found {found:?}"),
    }
}

/// Lets a scanner and khugepaged work on the same memory.
pub fn measure(scanner: &Scanner, khugepaged: Khugepaged, names: &Names) -> Outcome {
    write("enabled", "always");
    let sets = [FEW, MANY].map(spawn);
    khugepaged.set();
    let before = Counts::read(scanner);
    scanner.start_with_own_pauses();
    let (mut sums, mut merges, mut last, mut points) = ([0.0; 4], 0, [0; 2], Vec::new());
    let mut late = before.collapses;
    for second in 1..=names.seconds {
        sleep(INTERVAL);
        let merged = [0, 1].map(|set: usize| sets[set].merged_pages());
        merges += [0, 1]
            .map(|set| merged[set].saturating_sub(last[set]))
            .iter()
            .sum::<u64>();
        last = merged;
        let now = percentages(&sets, merged);
        sums.iter_mut().zip(now).for_each(|(sum, now)| *sum += now);
        if second % POINTS == 0 {
            points.extend(names.plots.into_iter().zip(now).map(|(plot, y)| Point {
                plot,
                x: second as f64,
                y,
            }));
        }
        if second == names.seconds * 2 / 3 {
            late = Counts::read(scanner).collapses;
        }
    }
    let after = Counts::read(scanner);
    scanner.stop();
    Khugepaged::Default.set();
    drop(sets);
    let [few_merged, few_huge, many_merged, many_huge] = sums.map(|sum| sum / names.seconds as f64);
    let values = [
        few_merged,
        few_huge,
        many_merged,
        many_huge,
        (after.collapses - before.collapses) as f64,
        (after.splits - before.splits) as f64,
        merges as f64,
        (after.scanner_ns - before.scanner_ns) as f64 / 1e6,
        (after.khugepaged_ns - before.khugepaged_ns) as f64 / 1e6,
        (after.collapses - late) as f64,
    ];
    let figures = names.figures.into_iter().zip(values);
    figures
        .clone()
        .for_each(|(id, value)| eprintln!("{}: {id} {value:.1}", scanner.name()));
    Outcome {
        figures: figures.map(|(id, value)| figure(id, value)).collect(),
        points,
    }
}

/// The merged part of the equal pages, and the huge part of all pages, for each set.
fn percentages(sets: &[Workers; 2], merged: [u64; 2]) -> [f64; 4] {
    let equal = |pages: usize| (pages * RANGES * PROCESSES) as f64;
    let percent = |part: u64, of: usize| 100.0 * part as f64 / equal(of);
    let huge = [0, 1].map(|set: usize| percent(sets[set].huge_pages(), HUGE_PAGES));
    [
        percent(merged[0], FEW),
        huge[0],
        percent(merged[1], MANY),
        huge[1],
    ]
}

fn spawn(equal: usize) -> Workers {
    let each = RANGES * HUGE_PAGES;
    let set = Workers::spawn(PROCESSES, PROCESSES * each, Content::Parts { equal, each });
    let huge = set.huge_pages();
    assert_eq!(
        huge,
        (PROCESSES * each) as u64,
        "pages that are parts of huge ones"
    );
    set
}

fn write(name: &str, value: &str) {
    procfs::write(&format!("{DIRECTORY}/{name}"), value).expect("a setting of huge pages");
}
