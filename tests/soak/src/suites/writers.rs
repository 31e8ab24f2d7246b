// SPDX-License-Identifier: GPL-2.0

//! Writes to merged pages, all the time. No write is lost, and no neighbour sees one.

use guest::content::WORDS;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::shadow::Content;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

/// The suite.
pub const SUITE: Suite = Suite::new(
    "writers",
    "pages written while they are merged; no write is lost or seen by a neighbour",
    work,
);

/// Pages of a worker.
const PAGES: u64 = 384;

const STEPS: &[Step<Region>] = &[
    ("fill a page", 10, fill),
    ("write a word", 40, poke),
    ("verify a page", 30, verify),
];

fn work(worker: &mut Worker) -> Result {
    let mut region = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
    worker.work(&mut region, STEPS)?;
    worker.finish([&region])
}

fn fill(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    region.fill(index, Content::any(&mut worker.rng));
    Ok(())
}

fn poke(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    let word = worker.rng.below(WORDS as u64) as usize;
    region.poke(index, word, worker.rng.number());
    Ok(())
}

fn verify(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    region.verify(index, &worker.tally)
}
