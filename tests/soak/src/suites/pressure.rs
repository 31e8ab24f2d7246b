// SPDX-License-Identifier: GPL-2.0

//! Memory is short: cgroups have low limits, pages are swapped out and in, caches are dropped,
//! memory is compacted, processes are killed, and allocations of the module fail.
//!
//! A worker's part depends on its index. The charges of shared pages must stay with the cgroups
//! that were charged for them, and must go with the last mapping.

use guest::memory::swap::Swap;
use guest::process::peer::memory;
use guest::process::peer::User;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod books;
mod faults;
mod limited;
mod machine;
mod victim;

/// The suite.
pub const SUITE: Suite = Suite {
    crew: &[User::Root, User::Root, User::Root, User::Alice],
    lacks: || Swap::load_driver().err(),
    direct: machine::press,
    ..Suite::new(
        "pressure",
        "cgroup limits, swap, compaction, kills, failing allocations; charges are kept",
        work,
    )
};

/// The worker in a cgroup with a memory limit.
const LIMITED: usize = 0;
/// The worker whose children are killed.
const VICTIMS: usize = 1;
/// The worker that audits charges.
const BOOKS: usize = 2;

/// Pages of a worker: more than a cgroup's limit.
const PAGES: u64 = 256;

const STEPS: &[Step<Region>] = &[
    ("fill a page", 20, steps::fill),
    ("write a word", 10, steps::poke),
    ("verify a page", 30, steps::verify),
    ("MADV_PAGEOUT", 3, |region, worker| {
        advise(region, worker, libc::MADV_PAGEOUT)
    }),
    ("MADV_COLD", 1, |region, worker| {
        advise(region, worker, libc::MADV_COLD)
    }),
    ("MADV_WILLNEED", 1, |region, worker| {
        advise(region, worker, libc::MADV_WILLNEED)
    }),
];

fn work(worker: &mut Worker) -> Result {
    match worker.index {
        LIMITED => limited::work(worker),
        VICTIMS => victim::work(worker),
        BOOKS => books::work(worker),
        _ => work_on_memory(worker),
    }
}

/// A worker's operations on its memory, until the end of the suite.
fn work_on_memory(worker: &mut Worker) -> Result {
    let mut region = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
    worker.work(&mut region, STEPS)?;
    worker.finish([&region])
}

fn advise(region: &mut Region, worker: &mut Worker, advice: i32) -> Result {
    let (first, count) = region.some(&mut worker.rng, 64);
    let span = region.span().part(first, count);
    memory::advise(span, advice as u64).context(|| format!("madvise {advice}"))
}
