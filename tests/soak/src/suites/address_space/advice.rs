// SPDX-License-Identifier: GPL-2.0

//! All advice of `madvise` (include/uapi/asm-generic/mman-common.h), except memory failures.

use guest::process::peer::memory;
use guest::Context;
use guest::Result;
use guest::Span;

use super::protection::for_a_moment;
use super::Space;
use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

const MADV_DONTNEED_LOCKED: i32 = 24;
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// Advice that keeps contents.
const KEEPS: [i32; 13] = [
    libc::MADV_NORMAL,
    libc::MADV_RANDOM,
    libc::MADV_SEQUENTIAL,
    libc::MADV_WILLNEED,
    libc::MADV_MERGEABLE,
    libc::MADV_UNMERGEABLE,
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
    libc::MADV_COLD,
    libc::MADV_PAGEOUT,
    libc::MADV_POPULATE_READ,
    libc::MADV_POPULATE_WRITE,
    libc::MADV_COLLAPSE,
];

/// Advice that other advice reverts.
const THERE_AND_BACK: [(i32, i32); 3] = [
    (libc::MADV_DONTFORK, libc::MADV_DOFORK),
    (libc::MADV_DONTDUMP, libc::MADV_DODUMP),
    (libc::MADV_WIPEONFORK, libc::MADV_KEEPONFORK),
];

/// Gives advice; returns false if the kernel refuses it for this memory, or for now.
fn advise(span: Span, advice: i32) -> Result<bool> {
    match memory::advise(span, advice as u64) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(false),
            _ => Err(error).context(|| format!("madvise, {advice}")),
        },
    }
}

pub(super) fn keeps(space: &mut Space, worker: &mut Worker) -> Result {
    let region = space.any(worker);
    let (first, count) = region.some(&mut worker.rng, 32);
    let advice = *worker.rng.pick(&KEEPS);
    if !advise(region.span().part(first, count), advice)? {
        worker.tally.add("advice that was not taken", 1);
    }
    region.verify_some(first, count, &worker.tally)
}

pub(super) fn there_and_back(space: &mut Space, worker: &mut Worker) -> Result {
    let (there, back) = *worker.rng.pick(&THERE_AND_BACK);
    let give = |advice| move |span| advise(span, advice).map(drop);
    for_a_moment(space.any(worker), worker, give(there), give(back), true)
}

pub(super) fn discards(space: &mut Space, worker: &mut Worker) -> Result {
    let region = space.any(worker);
    let (first, count) = region.some(&mut worker.rng, 16);
    let advice = *worker
        .rng
        .pick(&[libc::MADV_DONTNEED, MADV_DONTNEED_LOCKED]);
    discard(region, first, count, advice)?;
    region.verify_some(first, count, &worker.tally)
}

fn discard(region: &mut Region, first: u64, count: u64, advice: i32) -> Result {
    if advise(region.span().part(first, count), advice)? {
        region.expect_discarded(first, count);
    }
    Ok(())
}

/// Freed pages (`MADV_FREE`) keep their contents or become new pages; writes end that.
pub(super) fn free(space: &mut Space, worker: &mut Worker) -> Result {
    let region = space.any(worker);
    let (first, count) = region.some(&mut worker.rng, 16);
    advise(region.span().part(first, count), libc::MADV_FREE)?;
    for index in first..first + count {
        region.fill(index, Content::any(&mut worker.rng));
    }
    region.verify_some(first, count, &worker.tally)
}

/// Guard pages replace the contents, for a while.
pub(super) fn guard(space: &mut Space, worker: &mut Worker) -> Result {
    let region = space.any(worker);
    let (first, count) = region.some(&mut worker.rng, 16);
    let span = region.span().part(first, count);
    discard(region, first, count, MADV_GUARD_INSTALL)?;
    std::thread::sleep(std::time::Duration::from_micros(worker.rng.below(2_000)));
    advise(span, MADV_GUARD_REMOVE)?;
    region.verify_some(first, count, &worker.tally)
}
