// SPDX-License-Identifier: GPL-2.0

//! The shared page: a KSM page without a stable node.
//!
//! Mainline itself uses that state for a moment in `try_to_merge_one_page()`, and everything that
//! handles KSM pages copes with it: a write always copies, a long-term pin unshares, the rmap
//! finds nothing (so the page is neither reclaimed nor moved). Nothing in it points to this
//! module, which can therefore be unloaded at any time.
//!
//! It is always on a frame drawn from the [pool](crate::mm::pool), never on a candidate's own: so nobody can
//! prepare the frame on which others' data will end up (Flip Feng Shui).

use crate::mm::page::Kind;
use crate::mm::page::PageRef;
use crate::mm::page::StillPage;
use crate::mm::refusal::Refusal;
use crate::shim;
use core::ops::Deref;
use engine::Frame;
use kernel::bindings;
use kernel::error::to_result;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

/// A reference to a shared page.
///
/// # Invariants
///
/// The page is a KSM page without a stable node, and stays one until it is freed: only ksmd sets
/// stable nodes, and only of pages that it is just merging itself.
pub(crate) struct SharedPage(PageRef);

impl SharedPage {
    /// Takes a reference to the shared page on `frame`, if there is one.
    fn get(frame: Frame) -> Option<Self> {
        let page = PageRef::get(frame)?;
        // INVARIANT: Checked here, with the reference held.
        (page.kind() == Kind::Merged).then_some(SharedPage(page))
    }

    /// As [`Self::get`], unless its memory has failed. The kernel can't take such a page from its
    /// sharers, so it may be met.
    pub(crate) fn readable(frame: Frame) -> Option<Self> {
        Self::get(frame).filter(|page| !page.is_poisoned())
    }

    /// Makes a new shared page of `page`, drawn from the [pool](crate::mm::pool) and mapped nowhere yet, whose content
    /// is to come.
    ///
    /// It is charged to the memory cgroup of `mm`, as any anonymous page of it, and on no LRU list.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the cgroup has reached its limit.
    pub(crate) fn new(mm: &MmWithUser, page: PageRef) -> Result<Self> {
        let folio = page.folio();
        // SAFETY: The folio is referenced and known to nobody else, the mm in use.
        unsafe {
            to_result(shim::ksm_v_mem_cgroup_charge(
                folio,
                mm.as_raw(),
                shim::KSM_V_GFP_SHARED,
            ))?;
            shim::ksm_v_folio_mark_uptodate(folio);
            shim::ksm_v_folio_set_swapbacked(folio);
            shim::ksm_v_folio_set_raw_mapping(folio, shim::KSM_V_FOLIO_MAPPING_KSM);
            // Its content is nowhere else: as `try_to_merge_one_page()` does.
            bindings::folio_mark_dirty(folio);
        }
        // INVARIANT: So it was made.
        Ok(SharedPage(page))
    }

    /// The content, which nobody can change any more.
    pub(super) fn still_content(&self) -> StillPage<'_> {
        // SAFETY: Whoever writes to a KSM page copies it first; this module has filled it before,
        // being the only one who knew it.
        unsafe { StillPage::new(self.content()) }
    }

    /// Copies the content of `original` to this page, which must not be mapped anywhere.
    ///
    /// # Errors
    ///
    /// [`Refusal::Failed`]: the memory of `original` can't be read, and this page is not to be used.
    /// The kernel takes the frame out of use soon; it must not be read again before.
    pub(super) fn fill(&self, original: &PageRef) -> Result<(), Refusal> {
        // SAFETY: Both pages are referenced.
        match unsafe { shim::ksm_v_copy_mc_highpage(self.as_ptr(), original.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Refusal::Failed),
        }
    }
}

impl Deref for SharedPage {
    type Target = PageRef;

    fn deref(&self) -> &PageRef {
        &self.0
    }
}

impl From<SharedPage> for PageRef {
    fn from(shared: SharedPage) -> PageRef {
        shared.0
    }
}

/// How many page table entries map the shared page on `frame`; `None` where there is none.
pub(crate) fn mappings(frame: Frame) -> Option<u32> {
    SharedPage::get(frame).map(|page| page.mappings())
}
