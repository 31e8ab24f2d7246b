// SPDX-License-Identifier: GPL-2.0

//! When to drain the per-CPU batches in which the kernel gathers pages for its LRU lists.
//!
//! A batch references each of its up to 31 pages. The reference looks like a pin, so these pages can't
//! be merged. Draining all batches (`lru_add_drain_all()`) runs a worker on every CPU, which delays the
//! processes there: with one drain per pass, and 45 passes of 64 MiB a second, one page fault in a
//! hundred took 15% longer (`Documentation/performance`). So batches are drained only when that may
//! help.

/// Shortest time between two drains while no page is refused, in nanoseconds.
const PERIOD: u64 = 1_000_000_000;

/// Decides before each pass whether to drain the batches.
#[derive(Default)]
pub struct Drains {
    /// Time of the next drain at the latest, in nanoseconds.
    due: u64,
    /// Value of `refused` in the last call of [`Self::begin_pass`].
    refused: u64,
}

impl Drains {
    /// Returns whether to drain the batches before the pass that begins at `now`, in nanoseconds from
    /// any starting point: if the last drain was long ago, or a page was refused since the last call.
    /// `refused` is the total number of pages refused for a reference that may be a batch's.
    pub fn begin_pass(&mut self, now: u64, refused: u64) -> bool {
        let before = core::mem::replace(&mut self.refused, refused);
        let is_due = now >= self.due || refused != before;
        if is_due {
            self.due = now.saturating_add(PERIOD);
        }
        is_due
    }

    /// Requests a drain before the next pass.
    pub fn hurry(&mut self) {
        self.due = 0;
    }
}
