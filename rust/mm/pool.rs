// SPDX-License-Identifier: GPL-2.0

//! Spare frames, from which the frames of shared pages are drawn at random.
//!
//! The kernel allocates the frame that was freed last. So an attacker who frees a frame in which Rowhammer
//! flips a bit could be quite sure that the next shared page is placed on it (Flip Feng Shui; Razavi et
//! al., USENIX Security 2016). Here the frame is one of [`SPARE`], and nobody can tell which. VUsion does
//! the same (Oliverio et al., SOSP 2017), with a larger pool.

use crate::mm::movable::is_movable;
use crate::mm::page::PageRef;
use crate::shim;
use crate::sys::random::get_random_u64;
use core::ops::Range;
use core::ptr::NonNull;
use engine::Frame;
use kernel::prelude::*;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Frames in a full pool: 1 MiB. A power of two, so that a draw is fair.
const SPARE: usize = 256;
/// Fewest frames in the pool for a draw: with fewer frames, the result could be guessed.
const FEWEST: usize = SPARE / 2;
/// Most frames of a barred range that an allocation gets before it gives up.
const BARRED_TRIES: usize = 64;

/// Time for which frames stay barred: long enough for another attempt to take their memory offline. Merging
/// may stop in that time, because the kernel allocates first what was just freed there.
const BARRED_FOR: Delta = Delta::from_millis(10_000);

/// The pool. Empty until the first draw.
pub(crate) struct Pool {
    spares: KVec<Spares>,
    barred: Barred,
}

/// Spare frames of one node, or of any node.
struct Spares {
    node: Option<i32>,
    /// Allocated pages that nobody else knows.
    pages: KVec<PageRef>,
}

impl Spares {
    /// Makes an empty pool for this node.
    fn new(node: Option<i32>) -> Result<Self> {
        let pages = KVec::with_capacity(SPARE, GFP_KERNEL)?;
        Ok(Spares { node, pages })
    }

    /// Fills the pool with frames that are not barred, while there is memory.
    fn fill(&mut self, barred: &Barred) {
        while self.pages.len() < SPARE {
            let Some(page) = allocate_allowed(self.node, barred) else {
                return;
            };
            // The push can't fail: the capacity is the size of a full pool.
            let _ = self.pages.push_within_capacity(page);
        }
    }

    /// Draws a page at random; `None` if too few are left.
    fn draw(&mut self) -> Option<PageRef> {
        if self.pages.len() < FEWEST {
            return None;
        }
        // The last page takes the place of the page that is drawn.
        let index = get_random_u64() as usize % self.pages.len();
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

    /// Draws a frame of this node (`None`: of any node) at random. Nobody else knows it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory to fill at least half of the pool.
    pub(crate) fn draw(&mut self, node: Option<i32>) -> Result<PageRef> {
        if !self.spares.iter().any(|spares| spares.node == node) {
            self.spares.push(Spares::new(node)?, GFP_KERNEL)?;
        }
        let mut of_all = self.spares.iter_mut();
        let spares = of_all.find(|spares| spares.node == node).ok_or(ENOMEM)?;
        spares.fill(&self.barred);
        spares.draw().ok_or(ENOMEM)
    }

    /// Frees all spare frames.
    pub(crate) fn clear(&mut self) {
        for spares in self.spares.iter_mut() {
            spares.pages.clear();
        }
    }

    /// Frees the spare frames in `frames`, and takes none of them for a while, because their memory is to
    /// go offline.
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
    // Kept until this returns, so that the next allocation does not return them again.
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

/// Frames that must not be taken.
struct Barred {
    frames: Range<u64>,
    since: Instant<Monotonic>,
}

impl Barred {
    /// Bars no frame.
    fn none() -> Self {
        Barred {
            frames: 0..0,
            since: Instant::now(),
        }
    }

    /// Whether `frame` is barred. The bar expires: memory that could not go offline, or is online again,
    /// may be used again.
    fn includes(&self, frame: Frame) -> bool {
        self.frames.contains(&frame.0) && self.since.elapsed() < BARRED_FOR
    }
}

/// Allocates a page. If shared pages are movable, it is taken from a movable block.
fn allocate(node: Option<i32>) -> Option<PageRef> {
    let gfp = if is_movable() {
        shim::KSM_V_GFP_SHARED | shim::KSM_V_GFP_MOVABLE
    } else {
        shim::KSM_V_GFP_SHARED
    };
    // SAFETY: The scanner thread may sleep. The node exists, because a page was found on it.
    let folio = unsafe {
        match node {
            None => shim::ksm_v_folio_alloc(gfp, 0),
            Some(node) => shim::ksm_v_folio_alloc_node(gfp | shim::KSM_V_GFP_THISNODE, 0, node),
        }
    };
    // SAFETY: The folio was just allocated, and its reference is given to the `PageRef`.
    NonNull::new(folio).map(|folio| unsafe { PageRef::from_new(folio) })
}
