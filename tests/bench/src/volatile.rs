// SPDX-License-Identifier: GPL-2.0

//! The part of merging that is in vain because some pages are written to all the time.

use crate::memory::Content;
use crate::memory::Worker;
use crate::memory::Workers;
use crate::scanner::Scanner;
use crate::work::MIB;
use crate::work::PROCESSES;
use std::time::Duration;

/// One of this many pages is rewritten between passes, always the same ones.
const INTERVAL: usize = 4;
const PASSES: u64 = 8;
/// Longer than the rewriting takes.
const PAUSE: Duration = Duration::from_secs(2);

/// Merged pages that the next rewriting broke, divided by all merged pages: each content exists
/// `copies` times, also the contents that are rewritten.
pub fn measure(scanner: &Scanner, mib: usize, copies: usize) -> f64 {
    let mut workers = Workers::spawn_with(PROCESSES, mib * MIB, Content::Copies(copies), rewrite);
    let (mut merged, mut broken, mut left) = (0, 0, 0);
    // Read before the start: starting may take longer than a pass.
    let first_pass = scanner.passes();
    scanner.start_with_pauses(PAUSE);
    for pass in 1..=PASSES {
        scanner.wait_until_passes(first_pass + pass);
        let found = workers.merged_pages();
        merged += found - left;
        workers.ask::<1>();
        left = workers.merged_pages();
        broken += found - left;
        let passes = scanner.passes() - first_pass;
        assert_eq!(
            passes,
            pass,
            "{} did not wait for the rewriting",
            scanner.name()
        );
    }
    scanner.stop();
    assert_ne!(merged, 0, "{} merged nothing", scanner.name());
    broken as f64 / merged as f64
}

fn rewrite(worker: &mut Worker) {
    let mut round = 0;
    while worker.is_asked() {
        round += 1;
        let pages = worker.rewrite(INTERVAL, round);
        worker.answer(&[pages]);
    }
}
