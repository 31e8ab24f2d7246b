// SPDX-License-Identifier: GPL-2.0

//! Spare frames, from which those of shared pages are drawn at random.
//!
//! The kernel hands out the frame that was freed last. Whoever frees a frame in which Rowhammer
//! flips a bit could therefore be quite sure that the next shared page is on it (Flip Feng Shui;
//! Razavi et al., USENIX Security 2016). Here it is one of [`SPARE`], and nobody can tell which:
//! the way out that VUsion took (Oliverio et al., SOSP 2017), with a smaller pool.

use crate::mm::page::PageRef;
use crate::mm::random;
use crate::shim;
use core::ops::Range;
use core::ptr::NonNull;
use engine::Frame;
use kernel::prelude::*;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Frames in a full pool: 1 MiB. A power of two, so that a draw is fair.
const SPARE: usize = 256;
/// Frames below which nothing is drawn: with too few, one could tell.
const FEWEST: usize = SPARE / 2;
/// Frames of a barred range that an allocation may meet before it gives up.
const BARRED_TRIES: usize = 64;

/// How long frames stay barred: time enough to try again to take their memory offline. Merging may
/// come to rest meanwhile, as what was just freed there is what the kernel hands out first.
const BARRED_FOR: Delta = Delta::from_millis(10_000);

/// The pool. Empty until the first draw.
pub(crate) struct Pool {
    /// Allocated, and known to nobody else.
    spare: KVec<PageRef>,
    barred: Barred,
}

impl Pool {
    /// Makes an empty pool.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Pool {
            spare: KVec::with_capacity(SPARE, GFP_KERNEL)?,
            barred: Barred::none(),
        })
    }

    /// Takes a frame out of the pool, at random. Nobody else knows it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory to fill the pool, at least by half.
    pub(crate) fn draw(&mut self) -> Result<PageRef> {
        self.fill();
        if self.spare.len() < FEWEST {
            return Err(ENOMEM);
        }
        // The last one takes the place of the one that is drawn.
        let index = random() as usize % self.spare.len();
        let last = self.spare.pop().ok_or(ENOMEM)?;
        Ok(match self.spare.get_mut(index) {
            Some(place) => core::mem::replace(place, last),
            None => last,
        })
    }

    /// Gives all spare frames back.
    pub(crate) fn clear(&mut self) {
        self.spare.clear();
    }

    /// Gives the spare frames of `frames` back, and takes none of them for a while: their memory
    /// is to go offline.
    pub(crate) fn bar(&mut self, frames: Range<u64>) {
        self.spare.retain(|page| !frames.contains(&page.frame().0));
        self.barred = Barred {
            frames,
            since: Instant::now(),
        };
    }

    fn fill(&mut self) {
        while self.spare.len() < SPARE {
            let Some(page) = self.allocate() else {
                return;
            };
            // There is room: the capacity is that of a full pool.
            let _ = self.spare.push_within_capacity(page);
        }
    }

    /// Allocates a frame that is not barred.
    fn allocate(&self) -> Option<PageRef> {
        // Kept meanwhile, or the next allocation would bring them again.
        let mut unwanted = KVec::new();
        loop {
            let page = allocate()?;
            if !self.barred.includes(page.frame()) {
                return Some(page);
            }
            if unwanted.len() == BARRED_TRIES {
                return None;
            }
            unwanted.push(page, GFP_KERNEL).ok()?;
        }
    }
}

/// Frames that are not to be taken.
struct Barred {
    frames: Range<u64>,
    since: Instant<Monotonic>,
}

impl Barred {
    fn none() -> Self {
        Barred {
            frames: 0..0,
            since: Instant::now(),
        }
    }

    /// Not for ever: memory that could not go offline after all, or is online again, is as good
    /// as any.
    fn includes(&self, frame: Frame) -> bool {
        self.frames.contains(&frame.0) && self.since.elapsed() < BARRED_FOR
    }
}

/// Allocates a page: unmovable, since nothing could move a shared page.
fn allocate() -> Option<PageRef> {
    // SAFETY: The scanner thread may sleep.
    let folio = unsafe { shim::ksm_v_folio_alloc(shim::KSM_V_GFP_SHARED, 0) };
    // SAFETY: Just allocated, and its reference is given up.
    NonNull::new(folio).map(|folio| unsafe { PageRef::from_new(folio) })
}
