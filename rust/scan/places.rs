// SPDX-License-Identifier: GPL-2.0

//! How far a pass has come: the processes still to come, and the parts of address spaces that were begun.

use crate::mm::process::Cursor;
use crate::scan::regions::RegionVisit;
use core::mem::replace;
use core::ops::Range;
use engine::delay::Delays;
use engine::knobs::MOST_THREADS;
use engine::region;
use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

/// Capacity of [`Places::begun`]: one place for each thread, and one for each waiting thread.
const MOST_PLACES: usize = 2 * MOST_THREADS as usize;

/// Capacity of [`Places::put_off`]. Further places are not put off.
const MOST_PUT_OFF: usize = 64;

/// A range of an address space to scan in this pass; the unit of work of one thread.
pub(crate) struct Place {
    /// A reference that does not keep the memory of an exiting process.
    pub(crate) mm: ARef<Mm>,
    pub(crate) range: Range<usize>,
    /// The region at the start of the range, if its visit has begun.
    pub(crate) visit: Option<RegionVisit>,
    /// Number of PIDs passed to find the address space, if it has just been found.
    pub(crate) passed: Option<u32>,
    /// How often this place was put off because its next VMA was locked.
    pub(crate) times_put_off: u8,
    /// Pause before this place is scanned, in milliseconds. `None`: do not wait; skip VMAs that are
    /// still locked.
    pub(crate) wait_ms: Option<u32>,
}

impl Place {
    /// Makes a place that was not scanned yet.
    fn new(mm: ARef<Mm>, range: Range<usize>, passed: Option<u32>) -> Self {
        Place {
            mm,
            range,
            visit: None,
            passed,
            times_put_off: 0,
            wait_ms: Some(0),
        }
    }
}

/// The places of a pass.
pub(crate) struct Places {
    cursor: Cursor,
    /// Unfinished ranges that no thread is scanning now.
    begun: KVec<Place>,
    /// Places that were put off because a VMA was locked there.
    put_off: KVec<Place>,
    delays: Delays,
    /// Number of threads that sleep until there is a place for them.
    waiting: usize,
    at_start: bool,
    /// Whether the cursor has passed the last process.
    at_end: bool,
}

impl Places {
    /// Begins with the first process.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Places {
            cursor: Cursor::default(),
            begun: KVec::with_capacity(MOST_PLACES, GFP_KERNEL)?,
            put_off: KVec::with_capacity(MOST_PUT_OFF, GFP_KERNEL)?,
            delays: Delays::default(),
            waiting: 0,
            at_start: true,
            at_end: false,
        })
    }

    /// The next place to scan; `None` if no place is left that no thread is scanning.
    pub(super) fn next(&mut self) -> Option<Place> {
        let begun = self.begun.pop();
        begun
            .or_else(|| self.next_process())
            .or_else(|| self.put_off.remove(0).ok())
    }

    fn next_process(&mut self) -> Option<Place> {
        if self.at_end {
            return None;
        }
        let mm = self.cursor.next();
        self.at_end = mm.is_none();
        // PIDs above the last address space are counted for the first one of the next pass.
        mm.map(|mm| Place::new(mm, 0..usize::MAX, Some(self.cursor.take_passed())))
    }

    /// Returns the unfinished `place` of a step, to be continued in this pass. If a thread is waiting
    /// for work, the place is split in the middle of what is left of the current VMA, which ends at
    /// `area_end`.
    pub(crate) fn put_back(&mut self, mut place: Place, area_end: usize) {
        place.wait_ms = place.wait_ms.map(|_| 0);
        if self.waiting > self.begun.len() {
            let rest = place.range.start..area_end.min(place.range.end);
            if let Some(middle) = region::middle(&rest) {
                let rest = middle..place.range.end;
                place.range.end = middle;
                self.begin(Place::new(place.mm.clone(), rest, None));
            }
        }
        self.begin(place);
    }

    /// Puts `place` off until nothing else is left of this pass. After too many vain attempts it is
    /// continued at once instead, skipping locked VMAs.
    pub(crate) fn put_off(&mut self, mut place: Place) {
        let has_room = self.put_off.len() < self.put_off.capacity();
        place.wait_ms = has_room
            .then(|| self.delays.put_off(place.times_put_off))
            .flatten();
        place.times_put_off = place.times_put_off.saturating_add(1);
        if place.wait_ms.is_some() {
            let _ = self.put_off.push_within_capacity(place);
        } else {
            self.begin(place);
        }
    }

    fn begin(&mut self, place: Place) {
        // This does not fail: there is room for one place of each thread and one of each waiting
        // thread.
        let _ = self.begun.push_within_capacity(place);
    }

    /// Starts over with the first process.
    pub(super) fn rewind(&mut self) {
        self.begun.clear();
        self.put_off.clear();
        self.cursor = Cursor::default();
        self.end_pass();
    }

    /// Whether a pass begins here: true once for each.
    pub(super) fn begins_pass(&mut self) -> bool {
        let begins = replace(&mut self.at_start, false);
        if begins {
            self.delays = Delays::default();
        }
        begins
    }

    /// Ends a pass.
    pub(super) fn end_pass(&mut self) {
        self.at_start = true;
        self.at_end = false;
    }

    /// Counts a thread that waits for a place.
    pub(super) fn begin_wait(&mut self) {
        self.waiting = self.waiting.saturating_add(1);
    }

    /// Counts one that has ended its wait.
    pub(super) fn end_wait(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Whether there is an unfinished place for a thread that waits. The current thread, which has just put one
    /// back, takes one itself.
    pub(super) fn has_some_for_others(&self) -> bool {
        self.waiting > 0 && self.begun.len() > 1
    }

    /// Whether no place is unfinished.
    pub(super) fn has_none_begun(&self) -> bool {
        self.begun.is_empty()
    }
}
