// SPDX-License-Identifier: GPL-2.0

//! The index as a cache that the kernel can shrink: the unstable set can be rebuilt, at the price of
//! another pass.
//!
//! The shrinker must not wait for the mutex of the sets, and must not allocate. The end of the next step
//! does the rest.

use crate::scan::sets::LockedSets;
use crate::scan::sets::Sets;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

/// Number of index segments to thin out at the end of the next step.
pub(super) struct Backlog(Atomic<usize>);

impl Backlog {
    pub(super) fn new() -> Self {
        Backlog(Atomic::new(0))
    }

    /// Thins out up to `parts` segments, for the shrinker. Returns how many freed memory; `None` if none
    /// did, and the end of the next step is to do it.
    pub(super) fn shrink(&self, sets: &LockedSets, parts: usize) -> Option<usize> {
        // If the sets are locked, the current thread itself may hold the lock and be allocating. If no
        // segment could be freed, that takes an allocation.
        let mut sets = sets.try_lock();
        let forgotten = sets.as_mut().map_or(0, |sets| forget(sets, parts));
        if forgotten == 0 {
            self.0.store(parts, Relaxed);
            return None;
        }
        Some(forgotten)
    }

    /// Thins out the segments that the shrinker left, at the end of a step.
    pub(super) fn catch_up(&self, sets: &LockedSets) {
        let parts = self.0.xchg(0, Relaxed);
        if parts > 0 {
            let mut sets = sets.lock();
            forget(&mut sets, parts);
            sets.engine.shrink_index();
        }
    }
}

/// Thins out `parts` segments of the index, or as many as are worth it. Returns how many of them freed
/// memory; the memory of the others is freed by a caller that may allocate.
fn forget(sets: &mut Sets, parts: usize) -> usize {
    let parts = parts.min(sets.engine.forgettable_parts());
    (0..parts).filter(|_| sets.engine.forget_some()).count()
}
