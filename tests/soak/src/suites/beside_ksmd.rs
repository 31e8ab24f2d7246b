// SPDX-License-Identifier: GPL-2.0

//! Mainline's ksmd and the module's thread scan the same memory, both at full speed. Alice's
//! workers register and unregister theirs with ksmd; the others do not.
//!
//! ksmd merges all registered memory, across users: so only one user's workers register.

use guest::process::peer::memory;
use guest::process::peer::spawn::check;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod ksmd;

/// The suite.
pub const SUITE: Suite = Suite {
    direct: ksmd::run,
    ..Suite::new(
        "beside_ksmd",
        "ksmd over the same memory; MADV_MERGEABLE, MADV_UNMERGEABLE, prctl back and forth",
        work,
    )
};

/// Pages of a worker.
const PAGES: u64 = 256;
/// Number of Alice's workers.
const REGISTERING: std::ops::Range<usize> = 0..2;

const MEMORY: &[Step<Region>] = &[
    ("fill a page", 20, steps::fill),
    ("write a word", 20, steps::poke),
    ("verify a page", 30, steps::verify),
];

const REGISTERED_MEMORY: &[Step<Region>] = &[
    MEMORY[0],
    MEMORY[1],
    MEMORY[2],
    ("MADV_MERGEABLE", 4, |region, worker| {
        advise(region, worker, libc::MADV_MERGEABLE)
    }),
    ("MADV_UNMERGEABLE", 2, |region, worker| {
        advise(region, worker, libc::MADV_UNMERGEABLE)
    }),
    ("PR_SET_MEMORY_MERGE 1", 1, |_, _| merge_any(true)),
    ("PR_SET_MEMORY_MERGE 0", 1, |_, _| merge_any(false)),
];

fn work(worker: &mut Worker) -> Result {
    let mut region = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
    if REGISTERING.contains(&worker.index) {
        let mergeable = libc::MADV_MERGEABLE as u64;
        memory::advise(region.span(), mergeable).context(|| "MADV_MERGEABLE")?;
        worker.work(&mut region, REGISTERED_MEMORY)?;
    } else {
        worker.work(&mut region, MEMORY)?;
    }
    worker.finish([&region])
}

fn advise(region: &mut Region, worker: &mut Worker, advice: i32) -> Result {
    let (first, count) = region.some(&mut worker.rng, PAGES);
    let span = region.span().part(first, count);
    memory::advise(span, advice as u64).context(|| format!("madvise {advice}"))?;
    let index = first + worker.rng.below(count);
    region.verify(index, &worker.tally)
}

/// Registers or unregisters all memory of this process with ksmd.
fn merge_any(wanted: bool) -> Result {
    /// From include/uapi/linux/prctl.h.
    const PR_SET_MEMORY_MERGE: libc::c_int = 67;
    // SAFETY: Takes only numbers.
    let result = unsafe { libc::prctl(PR_SET_MEMORY_MERGE, u64::from(wanted), 0, 0, 0) };
    check(result.into())
        .map(drop)
        .context(|| "PR_SET_MEMORY_MERGE")
}
