// SPDX-License-Identifier: GPL-2.0

//! Injected memory failures, predicted (soft offline) and real.
//!
//! The kernel cannot find the sharers of a merged frame. It returns `EBUSY` and leaves the frame to
//! them, but no further page may be merged with it.

use std::process;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::scanner;
use guest::memory::pagemap;
use guest::memory::pagemap::Frame;
use guest::process::peer::memory;
use guest::Context;
use guest::Result;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::child;
use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

/// Most frames that a run may lose for good: 1 MiB.
const MOST: u64 = 256;
/// The name of their count.
const LOST: &str = "frames said to fail";

const MADV_HWPOISON: u64 = 100;
const MADV_SOFT_OFFLINE: u64 = 101;

/// Soft-offlines the frame of a page: the kernel moves the page elsewhere, if it can.
pub fn soft(region: &mut Region, worker: &mut Worker) -> Result {
    if worker.tally.sum(LOST) >= MOST {
        return Ok(());
    }
    let index = worker.rng.below(region.len());
    let merged = frame(region, index)?.is_some_and(is_merged);
    match memory::advise(region.span().page(index), MADV_SOFT_OFFLINE) {
        Ok(()) => worker.tally.add(LOST, 1),
        // Another user holds the page at the moment, or it is merged.
        Err(_) if merged => worker.tally.add("merged frames that were kept", 1),
        Err(_) => worker.tally.add("frames that were kept", 1),
    }
    region.verify(index, &worker.tally)
}

/// Injects a failure of a child's frame. Only a user of the frame may be killed, and only if the
/// kernel took the frame away.
pub fn hard(region: &mut Region, worker: &mut Worker) -> Result {
    if worker.tally.sum(LOST) >= MOST {
        return Ok(());
    }
    worker.tally.add(LOST, 1);
    let mut own = worker.fork();
    let child = child::fork(|| fail_one(&mut own))?;
    match child.wait_any()? {
        WaitStatus::Exited(_, 0) => worker.tally.add("failed frames that killed nobody", 1),
        WaitStatus::Signaled(_, Signal::SIGBUS, _) => worker.tally.add("killed by SIGBUS", 1),
        other => return Err(format!("the user of a failed frame ended with {other:?}").into()),
    }
    region.verify(worker.rng.below(region.len()), &worker.tally)
}

/// Number of the child's pages.
const PAGES: u64 = 16;
/// The page whose frame fails.
const VICTIM: u64 = 5;
/// Longest time for merging, in milliseconds.
const MERGE_TIME: u64 = 150;

/// The child: injects a failure of a page's frame, maybe a merged one, and uses all pages.
fn fail_one(worker: &mut Worker) -> Result {
    let mut region = Region::map(PAGES).context(|| "mmap")?;
    // A content of its own: the kernel takes a failed movable frame from all its sharers.
    let content = Content::unique(&mut worker.rng);
    (0..PAGES).for_each(|index| region.fill(index, content));
    std::thread::sleep(Duration::from_millis(worker.rng.below(MERGE_TIME)));
    let Some(failing) = frame(&region, VICTIM)? else {
        return Ok(());
    };
    let advised = memory::advise(region.span().page(VICTIM), MADV_HWPOISON);
    if advised.is_err() && failing.flags()?.poisoned() && is_merged(failing) {
        return expect_kept(&mut region, failing);
    }
    // First the other pages: their contents must be unchanged, even if they were merged with it.
    for index in (0..PAGES).filter(|&index| index != VICTIM) {
        region.verify(index, &worker.tally)?;
    }
    // Kills this process if the kernel took the frame away.
    region.verify(VICTIM, &worker.tally)?;
    expect::that(advised.is_err(), || {
        "a page can be read whose frame has failed"
    })
}

/// Expects that no page is merged with a failed frame whose sharers the kernel could not find.
fn expect_kept(region: &mut Region, failing: Frame) -> Result {
    let content = region.page(VICTIM).content();
    let mut newcomer = Region::map(PAGES).context(|| "mmap")?;
    (0..PAGES).for_each(|index| newcomer.fill(index, content));
    scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    for index in 0..PAGES {
        expect::ne(
            "the frame of a new page with the content of a failed one",
            Some(failing),
            frame(&newcomer, index)?,
        )?;
    }
    Ok(())
}

fn frame(region: &Region, index: u64) -> Result<Option<Frame>> {
    let entries = pagemap::entries(process::id() as i32, region.span().page(index))?;
    Ok(entries[0].frame())
}

fn is_merged(frame: Frame) -> bool {
    frame.flags().is_ok_and(|flags| flags.ksm())
}
