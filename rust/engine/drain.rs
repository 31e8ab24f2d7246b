// SPDX-License-Identifier: GPL-2.0

//! When to empty the per-CPU batches in which the kernel gathers pages for its LRU lists.
//!
//! A batch holds a reference to each of its pages, up to 31, which looks like a pin: they can't be
//! merged. Emptying all batches (`lru_add_drain_all()`) has a worker run on every CPU, which whoever
//! runs there notices: with one a pass, and 45 passes of 64 MiB a second, one fault of a hundred of a
//! process took 15% longer (`Documentation/performance`). So they are emptied where that may help.

/// As long as no page is refused, batches are emptied no sooner than after so many nanoseconds.
const PERIOD: u64 = 1_000_000_000;

/// When the batches are emptied, which is before a pass.
#[derive(Default)]
pub struct Drains {
    /// When to do it next at the latest, in nanoseconds.
    due: u64,
    /// Pages that had been refused when it was asked last.
    refused: u64,
}

impl Drains {
    /// Whether to empty them before the pass that begins `now`, in nanoseconds from any beginning: if
    /// that was long ago, or a page has been refused since the pass before for what may have been the
    /// reference of a batch. `refused` counts such pages, in all.
    pub fn begin_pass(&mut self, now: u64, refused: u64) -> bool {
        let before = core::mem::replace(&mut self.refused, refused);
        let is_due = now >= self.due || refused != before;
        if is_due {
            self.due = now.saturating_add(PERIOD);
        }
        is_due
    }

    /// Has them emptied before the next pass.
    pub fn hurry(&mut self) {
        self.due = 0;
    }
}
