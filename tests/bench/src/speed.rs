// SPDX-License-Identifier: GPL-2.0

//! How fast one thread of the scanner, and how fast two, look at memory.

use crate::memory::Content;
use crate::memory::Workers;
use crate::scanner::Scanner;
use crate::work::MIB;
use std::time::Duration;
use std::time::Instant;

/// Enough that neither thread has to wait for the other for long at the end of a pass.
const PROCESSES: usize = 16;
/// For how long pages are counted.
const TIME: Duration = Duration::from_secs(5);

/// Real time for each page, in ns, of unique memory that has been looked at before.
pub fn measure(scanner: &Scanner, mib: usize, threads: usize) -> f64 {
    let workers = Workers::spawn(PROCESSES, mib * MIB, Content::Unique);
    scanner.set_threads(threads);
    scanner.start();
    scanner.wait_for_passes(3);
    let (start, before) = (Instant::now(), scanner.pages_scanned());
    std::thread::sleep(TIME);
    let (time, after) = (start.elapsed(), scanner.pages_scanned());
    scanner.stop();
    scanner.set_threads(1);
    drop(workers);
    time.as_nanos() as f64 / (after - before).max(1) as f64
}
