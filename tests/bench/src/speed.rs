// SPDX-License-Identifier: GPL-2.0

//! Scan speed of one thread and of two threads of the scanner.

use crate::memory::Content;
use crate::memory::Workers;
use crate::report::median;
use crate::scanner::Scanner;
use crate::work::MIB;
use std::time::Duration;
use std::time::Instant;

const PROCESSES: usize = 16;
/// Number of turns of each: other load on the host slows both equally.
const TURNS: usize = 12;
/// How long pages are counted in a turn.
const TIME: Duration = Duration::from_millis(500);

/// Real time for each page, in ns, of unique memory that was scanned before. For one thread: the
/// median of its turns; for two: that times the median ratio of pairs of turns.
pub fn measure(scanner: &Scanner, mib: usize) -> [f64; 2] {
    let workers = Workers::spawn(PROCESSES, mib * MIB, Content::Unique);
    scanner.start();
    scanner.wait_for_passes(3);
    let turns: Vec<[f64; 2]> = (0..TURNS)
        .map(|_| [1, 2].map(|threads| turn(scanner, threads)))
        .collect();
    scanner.stop();
    scanner.set_threads(1);
    drop(workers);
    let median = |of: fn(&[f64; 2]) -> f64| median(turns.iter().map(of).collect());
    let one = median(|[one, _]| *one).expect("there are turns");
    let part = median(|[one, two]| two / one).expect("there are turns");
    [one, one * part]
}

/// Real time for each page, in ns.
fn turn(scanner: &Scanner, threads: usize) -> f64 {
    scanner.set_threads(threads);
    scanner.wait_for_passes(1);
    let (start, before) = (Instant::now(), scanner.pages_scanned());
    std::thread::sleep(TIME);
    let (time, after) = (start.elapsed(), scanner.pages_scanned());
    time.as_nanos() as f64 / (after - before).max(1) as f64
}
