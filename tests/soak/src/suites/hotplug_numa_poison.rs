// SPDX-License-Identifier: GPL-2.0

//! Memory that goes offline and comes back, pages moved between nodes, frames that fail.

use guest::content::WORDS;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::shadow::Content;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod blocks;
mod nodes;
mod poison;

/// The suite.
pub const SUITE: Suite = Suite {
    lacks: blocks::lacking,
    direct: blocks::off_and_on,
    ..Suite::new(
        "hotplug_numa_poison",
        "memory goes offline and comes back, pages move between nodes, frames fail",
        work,
    )
};

/// Pages of a worker.
const PAGES: u64 = 384;
/// The worker of root, who alone may say that memory fails.
const ROOT: usize = 3;

const STEPS: &[Step<Region>] = &[
    ("fill a page", 20, fill),
    ("write a word", 10, poke),
    ("verify a page", 30, verify),
    ("move_pages", 4, nodes::move_some),
];

const STEPS_OF_ROOT: &[Step<Region>] = &[
    STEPS[0],
    STEPS[1],
    STEPS[2],
    STEPS[3],
    ("MADV_SOFT_OFFLINE", 1, poison::soft),
    ("MADV_HWPOISON", 1, poison::hard),
];

fn work(worker: &mut Worker) -> Result {
    let mut region = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
    let steps = if worker.index == ROOT {
        STEPS_OF_ROOT
    } else {
        STEPS
    };
    worker.work(&mut region, steps)?;
    worker.finish([&region])
}

fn fill(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(PAGES);
    region.fill(index, Content::any(&mut worker.rng));
    Ok(())
}

fn poke(region: &mut Region, worker: &mut Worker) -> Result {
    let (index, word) = (worker.rng.below(PAGES), worker.rng.below(WORDS as u64));
    region.poke(index, word as usize, worker.rng.number());
    Ok(())
}

fn verify(region: &mut Region, worker: &mut Worker) -> Result {
    region.verify(worker.rng.below(PAGES), &worker.tally)
}
