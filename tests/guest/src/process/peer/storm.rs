// SPDX-License-Identifier: GPL-2.0

//! Short-lived child processes that write pages with contents that other processes have, too.

use std::time::Duration;
use std::time::Instant;

use super::memory;
use super::spawn::check;
use crate::memory::content::Ids;
use crate::rng::Rng;
use crate::Span;

/// The number of contents that children write.
const CONTENTS: u64 = 16;
/// The number of children that live at the same time.
const CHILDREN: usize = 4;
/// A child lives for less than this many microseconds.
const LIFE: u64 = 4000;

/// The minimum number of children, however slow the machine is.
const LEAST_CHILDREN: u64 = 50;

/// Forks children for `milliseconds`. Each child writes to a span, which gives it its own copies of
/// the pages, waits a moment and ends. Returns the number of children.
pub(super) fn run(span: Span, seed: u64, milliseconds: u64) -> Result<u64, String> {
    let (start, time) = (Instant::now(), Duration::from_millis(milliseconds));
    let (mut rng, mut living, mut count) = (Rng::new(seed), 0, 0);
    while start.elapsed() < time || count < LEAST_CHILDREN {
        let (id, life) = (1 + rng.below(CONTENTS), rng.below(LIFE));
        begin(span, id, Duration::from_micros(life))?;
        (living, count) = (living + 1, count + 1);
        if living == CHILDREN {
            wait()?;
            living -= 1;
        }
    }
    (0..living).try_for_each(|_| wait())?;
    Ok(count)
}

fn begin(span: Span, id: u64, life: Duration) -> Result<(), String> {
    // SAFETY: This process has a single thread, so its child may run any code.
    let pid = check(unsafe { libc::fork() }.into()).map_err(|error| format!("fork: {error}"))?;
    if pid == 0 {
        memory::fill(span, Ids::same(id));
        std::thread::sleep(life);
        // SAFETY: Only ends the child.
        unsafe { libc::_exit(0) };
    }
    Ok(())
}

fn wait() -> Result<(), String> {
    let mut status = 0;
    // SAFETY: `status` has room for the status.
    let waited = check(unsafe { libc::wait(&mut status) }.into());
    waited.map_err(|error| format!("wait: {error}"))?;
    match status {
        0 => Ok(()),
        _ => Err(format!("a child ended with wait status {status:#x}")),
    }
}
