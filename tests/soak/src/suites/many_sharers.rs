// SPDX-License-Identifier: GPL-2.0

//! One content in thousands of pages. All of them end up on one frame. Exit, unmerging and
//! unloading must not take longer for that.

use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::ksm_v::scanner;
use guest::process::peer::memory;
use guest::process::peer::User;
use guest::process::task;
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

/// The suite.
pub const SUITE: Suite = Suite {
    crew: &[User::Alice; WORKERS],
    direct,
    kills_workers: true,
    knobs: &[("max_page_sharing", 65_536)],
    ..Suite::new(
        "many_sharers",
        "thousands of mappings of one frame; exit and unmerging are bounded in time",
        work,
    )
};

const WORKERS: usize = 25;
/// Pages of a worker: each needs a seat of its own (`rust/engine/seats.rs`).
const PAGES: u64 = 120;
/// One of this many pages is in a mapping of its own.
const STRIDE: u64 = 16;
/// How long merging all pages may take after the workers' deadline.
const MERGE_TIME: Duration = Duration::from_secs(300);
/// How long the exit of a process may take that has all its pages on that frame.
const EXIT_TIME: Duration = Duration::from_secs(10);

/// No step writes: a page that is merged again takes another seat.
const STEPS: &[Step<Region>] = &[("verify pages", 1, steps::verify_some)];

/// The content of all pages.
fn content() -> Content {
    Content::Letter(1)
}

fn work(worker: &mut Worker) -> Result {
    let mut region = fill(worker)?;
    for index in (0..region.len()).step_by(STRIDE as usize) {
        let page = region.span().page(index);
        memory::protect(page, libc::PROT_READ as u64).context(|| "mprotect")?;
    }
    worker.work(&mut region, STEPS)?;
    worker.finish([&region])
}

/// Maps memory and fills all pages with that content.
fn fill(worker: &Worker) -> Result<Region> {
    let mut region = Region::map(PAGES).context(|| "mmap")?;
    (0..PAGES).for_each(|index| region.fill(index, content()));
    worker.tally.add("pages with one content", PAGES);
    Ok(region)
}

fn direct(stage: &Stage) -> Result {
    stage.wait();
    let all = WORKERS as u64 * PAGES;
    wait_for_one_frame(stage, all)?;
    let start = Instant::now();
    (0..WORKERS / 2).try_for_each(|index| stage.kill_worker(index))?;
    let took = start.elapsed() / (WORKERS / 2) as u32;
    let milliseconds = took.as_millis() as u64;
    stage
        .tally
        .peak("ms to exit with many sharers", milliseconds);
    expect::within("exit of a sharer", Duration::ZERO..=EXIT_TIME, took)
}

/// Waits until nearly all pages are on one frame.
fn wait_for_one_frame(stage: &Stage, all: u64) -> Result {
    let (goal, mut found) = (all - WORKERS as u64, 0);
    let merged = task::wait_until(MERGE_TIME, || {
        // The workers still fill their memory, or the scanner has not reached it yet.
        let _ = scanner::wait_passes(1);
        found = most_mappings().unwrap_or(0);
        found >= goal
    });
    stage.tally.peak("most mappings of a frame", found);
    expect::that(merged, || {
        format!("mappings of one frame: expected {goal} or more of {all}, found {found}")
    })
}

fn most_mappings() -> Result<u64> {
    Ok(frames::mappings_of_merged()?.first().copied().unwrap_or(0))
}
