// SPDX-License-Identifier: GPL-2.0

//! Writes to merged pages, all the time. No write is lost, and no neighbour sees one.
//!
//! One thread of a worker writes and verifies whole pages. The others ([`togglers`]) share a few
//! pages, in which each owns some words.

use guest::content::WORDS;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::shadow::Content;
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

/// Pages of the thread that has them for itself.
const PAGES: u64 = 64;

/// What a thread does to a region that it has for itself.
pub const STEPS: &[Step<Region>] = &[
    ("fill a page", 10, fill),
    ("write a word", 40, poke),
    ("verify a page", 30, verify),
];

fn work(worker: &mut Worker) -> Result {
    let mut own = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
    let shared = togglers::work_beside(worker, |worker| worker.work(&mut own, STEPS))?;
    worker.finish([&own, &shared])
}

/// Fills a page with a content that others may have.
fn fill(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    region.fill(index, Content::any(&mut worker.rng));
    Ok(())
}

/// Writes a random word to a page.
pub fn poke(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    let word = worker.rng.below(WORDS as u64) as usize;
    region.poke(index, word, worker.rng.number());
    Ok(())
}

/// Compares a page with what it has to hold.
fn verify(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    region.verify(index, &worker.tally)
}
