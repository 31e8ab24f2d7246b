// SPDX-License-Identifier: GPL-2.0

//! Spare frames, from which those of shared pages are drawn at random.
//!
//! The kernel hands out the frame that was freed last. Whoever frees a frame in which Rowhammer
//! flips a bit could therefore be quite sure that the next shared page is on it (Flip Feng Shui;
//! Razavi et al., USENIX Security 2016). Here it is one of [`SPARE`], and nobody can tell which:
//! the way out that VUsion took (Oliverio et al., SOSP 2017), with a smaller pool.

use crate::mm::page::PageRef;
use crate::mm::random;
use crate::mm::shared::is_movable;
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
    spares: KVec<Spares>,
    barred: Barred,
}

/// Spare frames of one node, or of any.
struct Spares {
    node: Option<i32>,
    /// Allocated, and known to nobody else.
    pages: KVec<PageRef>,
}

impl Spares {
    fn new(node: Option<i32>) -> Result<Self> {
        let pages = KVec::with_capacity(SPARE, GFP_KERNEL)?;
        Ok(Spares { node, pages })
    }

    fn fill(&mut self, barred: &Barred) {
        while self.pages.len() < SPARE {
            let Some(page) = allocate_allowed(self.node, barred) else {
                return;
            };
            // There is room: the capacity is that of a full pool.
            let _ = self.pages.push_within_capacity(page);
        }
    }

    fn draw(&mut self) -> Option<PageRef> {
        if self.pages.len() < FEWEST {
            return None;
        }
        // The last one takes the place of the one that is drawn.
        let index = random() as usize % self.pages.len();
        let last = self.pages.pop()?;
        Some(match self.pages.get_mut(index) {
            Some(place) => core::mem::replace(place, last),
            None => last,
        })
    }
}

impl Pool {
    /// Makes an empty pool.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        let mut spares = KVec::new();
        spares.push(Spares::new(None)?, GFP_KERNEL)?;
        Ok(Pool {
            spares,
            barred: Barred::none(),
        })
    }

    /// Takes a frame of this node (`None`: of any) out of the pool, at random. Nobody else knows it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory to fill the pool, at least by half.
    pub(crate) fn draw(&mut self, node: Option<i32>) -> Result<PageRef> {
        if !self.spares.iter().any(|spares| spares.node == node) {
            self.spares.push(Spares::new(node)?, GFP_KERNEL)?;
        }
        let mut of_all = self.spares.iter_mut();
        let spares = of_all.find(|spares| spares.node == node).ok_or(ENOMEM)?;
        spares.fill(&self.barred);
        spares.draw().ok_or(ENOMEM)
    }

    /// Gives all spare frames back.
    pub(crate) fn clear(&mut self) {
        for spares in self.spares.iter_mut() {
            spares.pages.clear();
        }
    }

    /// Gives the spare frames of `frames` back, and takes none of them for a while: their memory
    /// is to go offline.
    pub(crate) fn bar(&mut self, frames: Range<u64>) {
        for spares in self.spares.iter_mut() {
            spares
                .pages
                .retain(|page| !frames.contains(&page.frame().0));
        }
        self.barred = Barred {
            frames,
            since: Instant::now(),
        };
    }
}

/// Allocates a frame that is not barred.
fn allocate_allowed(node: Option<i32>, barred: &Barred) -> Option<PageRef> {
    // Kept meanwhile, or the next allocation would bring them again.
    let mut unwanted = KVec::new();
    loop {
        let page = allocate(node)?;
        if !barred.includes(page.frame()) {
            return Some(page);
        }
        if unwanted.len() == BARRED_TRIES {
            return None;
        }
        unwanted.push(page, GFP_KERNEL).ok()?;
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

/// Allocates a page: out of a movable block, where shared pages are.
fn allocate(node: Option<i32>) -> Option<PageRef> {
    let gfp = if is_movable() {
        shim::KSM_V_GFP_SHARED | shim::KSM_V_GFP_MOVABLE
    } else {
        shim::KSM_V_GFP_SHARED
    };
    // SAFETY: The scanner thread may sleep; a page was met on the node.
    let folio = unsafe {
        match node {
            None => shim::ksm_v_folio_alloc(gfp, 0),
            Some(node) => shim::ksm_v_folio_alloc_node(gfp | shim::KSM_V_GFP_THISNODE, 0, node),
        }
    };
    // SAFETY: Just allocated, and its reference is given up.
    NonNull::new(folio).map(|folio| unsafe { PageRef::from_new(folio) })
}
