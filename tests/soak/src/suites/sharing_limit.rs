// SPDX-License-Identifier: GPL-2.0

//! No frame has more mappings than `max_page_sharing` allows, while pages come and go, plus one for
//! each further thread.

use std::path::Path;

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::process::peer::User;
use guest::Context;
use guest::Result;

use crate::frames;
use crate::region::Region;
use crate::shadow::Content;
use crate::stage::Stage;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

/// The suite. Its workers do not fork: the module cannot limit the mappings that fork adds.
pub const SUITE: Suite = Suite {
    crew: &[User::Alice, User::Alice, User::Alice, User::Bob],
    direct,
    lacks,
    ..Suite::new(
        "sharing_limit",
        "no frame is mapped more often than max_page_sharing says",
        work,
    )
};

/// Pages of a worker.
const PAGES: u64 = 512;
/// The knob.
const LIMIT: &str = "max_page_sharing";

const STEPS: &[Step<Region>] = &[
    ("verify pages", 8, steps::verify_some),
    ("write a word, and restore the page", 4, write_and_restore),
    ("exchange the content of pages", 4, exchange),
];

fn lacks() -> Option<String> {
    let is_there = Path::new(&knob::path(LIMIT)).exists();
    (!is_there).then(|| format!("the module has no file {LIMIT}"))
}

/// Few contents, so that each has more pages than may share a frame.
fn content(worker: &mut Worker) -> Content {
    Content::Letter(1 + worker.rng.below(2))
}

fn work(worker: &mut Worker) -> Result {
    let mut region = Region::map(PAGES).context(|| "mmap")?;
    for index in 0..PAGES {
        region.fill(index, content(worker));
    }
    worker.work(&mut region, STEPS)?;
    worker.finish([&region])
}

fn write_and_restore(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    region.poke(index, 100, worker.rng.number());
    region.verify(index, &worker.tally)?;
    region.fill(index, region.page(index).content());
    Ok(())
}

fn exchange(region: &mut Region, worker: &mut Worker) -> Result {
    let (first, count) = region.some(&mut worker.rng, 4);
    for index in first..first + count {
        region.fill(index, content(worker));
    }
    Ok(())
}

/// Sets one limit after the other, and merges everything again for each.
fn direct(stage: &Stage) -> Result {
    let mut rng = stage.rng();
    let mut limit = 2;
    loop {
        scanner::unmerge()?;
        knob::set(LIMIT, limit)?;
        scanner::start()?;
        scanner::wait_passes(scanner::ENOUGH_PASSES)?;
        expect_kept(stage, limit)?;
        limit = 2 + rng.below(60);
        if !stage.has_time() {
            return Ok(());
        }
    }
}

fn expect_kept(stage: &Stage, limit: u64) -> Result {
    let mappings = frames::mappings_of_merged()?;
    let most = mappings.first().copied().unwrap_or(0);
    stage
        .tally
        .add("frames checked for their mappings", mappings.len() as u64);
    stage.tally.count("set max_page_sharing");
    let threads = knob::number("threads")?;
    expect::within(
        format!("most mappings of a frame, {LIMIT} {limit}, {threads} threads"),
        2..=limit + threads - 1,
        most,
    )
}
