// SPDX-License-Identifier: GPL-2.0

//! Protections and locks, which split mappings and exclude some of them from merging.

use std::time::Duration;

use guest::process::peer::memory;
use guest::Context;
use guest::Result;

use super::Space;
use crate::region::Region;
use crate::worker::Worker;

/// Does `there` to some pages, gives the scanner time, verifies, and does `back`.
pub(super) fn for_a_moment(
    region: &Region,
    worker: &mut Worker,
    there: impl FnOnce(guest::Span) -> Result,
    back: impl FnOnce(guest::Span) -> Result,
    readable: bool,
) -> Result {
    let (first, count) = region.some(&mut worker.rng, 16);
    let span = region.span().part(first, count);
    there(span)?;
    std::thread::sleep(Duration::from_micros(worker.rng.below(4_000)));
    if readable {
        region.verify_some(first, count, &worker.tally)?;
    }
    back(span)?;
    region.verify_some(first, count, &worker.tally)
}

fn protect(span: guest::Span, protection: i32) -> Result {
    memory::protect(span, protection as u64).context(|| "mprotect")
}

pub(super) fn read_only(space: &mut Space, worker: &mut Worker) -> Result {
    with_protection(space, worker, libc::PROT_READ)
}

pub(super) fn none(space: &mut Space, worker: &mut Worker) -> Result {
    with_protection(space, worker, libc::PROT_NONE)
}

fn with_protection(space: &mut Space, worker: &mut Worker, protection: i32) -> Result {
    let there = |span| protect(span, protection);
    let back = |span| protect(span, libc::PROT_READ | libc::PROT_WRITE);
    let readable = protection & libc::PROT_READ != 0;
    for_a_moment(space.any(worker), worker, there, back, readable)
}

pub(super) fn lock(space: &mut Space, worker: &mut Worker) -> Result {
    let on_fault = worker.rng.below(2) == 0;
    let there = |span| {
        if on_fault {
            memory::lock_on_fault(span).context(|| "mlock2")
        } else {
            memory::lock(span).context(|| "mlock")
        }
    };
    let back = |span| memory::unlock(span).context(|| "munlock");
    for_a_moment(space.any(worker), worker, there, back, true)
}
