// SPDX-License-Identifier: GPL-2.0

//! Memory hotplug, migration between nodes, and failing frames.

use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::steps;
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
    fails_memory: true,
    ..Suite::new(
        "hotplug_numa_poison",
        "memory goes offline and comes back, pages move between nodes, frames fail",
        work,
    )
};

/// Pages of a worker.
const PAGES: u64 = 384;
/// Root's worker: only root may inject memory failures.
const ROOT: usize = 3;

const STEPS: &[Step<Region>] = &[
    ("fill a page", 20, steps::fill),
    ("write a word", 10, steps::poke),
    ("verify a page", 30, steps::verify),
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
