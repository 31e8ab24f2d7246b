// SPDX-License-Identifier: GPL-2.0

//! Freezes all tasks during merging, as before suspend to idle.

use guest::kernel::freezer;
use guest::ksm_v::scanner;
use guest::Context;
use guest::Result;

use super::writers;
use crate::region::Region;
use crate::stage::Stage;
use crate::suite::Suite;
use crate::worker::Worker;

/// The suite.
pub const SUITE: Suite = Suite {
    direct,
    lacks: || (!freezer::is_there()).then(|| "the kernel can't suspend to idle".to_owned()),
    ..Suite::new(
        "suspend",
        "all tasks frozen and thawed in the midst of merging",
        work,
    )
};

/// Pages of a worker.
const PAGES: u64 = 128;

fn work(worker: &mut Worker) -> Result {
    let mut region = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
    worker.work(&mut region, writers::STEPS)?;
    worker.finish([&region])
}

/// The scanner continues after each freeze.
fn direct(stage: &Stage) -> Result {
    while stage.has_time() {
        scanner::wait_passes(1)?;
        freezer::freeze()?;
        stage.tally.count("freeze and thaw");
    }
    scanner::wait_passes(1)
}
