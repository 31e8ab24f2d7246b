// SPDX-License-Identifier: GPL-2.0

//! Continuous writes to merged pages. No write is lost, and no neighbour sees one.
//!
//! One thread of a worker writes and verifies whole pages. The others ([`togglers`]) share a few
//! pages, in which each owns some words.

use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod togglers;

/// The suite.
pub const SUITE: Suite = Suite::new(
    "writers",
    "threads write merged pages all the time; no write is lost or seen by a neighbour",
    work,
);

/// Pages of the first thread.
const PAGES: u64 = 64;

/// Operations on the first thread's own region.
pub const STEPS: &[Step<Region>] = &[
    ("fill a page", 10, steps::fill),
    ("write a word", 40, steps::poke),
    ("verify a page", 30, steps::verify),
];

fn work(worker: &mut Worker) -> Result {
    let mut own = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
    let shared = togglers::work_beside(worker, |worker| worker.work(&mut own, STEPS))?;
    worker.finish([&own, &shared])
}
