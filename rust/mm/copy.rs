// SPDX-License-Identifier: GPL-2.0

//! Gives a process its own copy of a merged page, as `wp_page_copy()` in `mm/memory.c` does. The counterpart of
//! `break_ksm()` in `mm/ksm.c`.
//!
//! Unlike `break_ksm()`, this does not use a fault. If the process discards the page just before, a
//! fault reads the file that the VMA maps, and its file system may not answer (FUSE). Or user space has to
//! handle the fault (userfaultfd), and it fails. Nothing here waits for another process.
//!
//! The VMA lock is held for reading, so the VMA and its page tables stay. What if, at this moment, the
//! process …
//!
//! - writes to the page, or discards it? Both take the page table lock to change the entry. If they come
//!   first, the entry no longer maps the merged page; if they come after us, they work on the copy.
//! - gets another merged page there, on the same frame? We hold a reference to the merged page, so its
//!   frame is not reused, and the content of a merged page does not change.
//! - pins the page? A merged page is never exclusive, so a long-term pin unshares it first, and pins the
//!   copy.
//! - reads through a device (secondary MMU)? The secondary MMU has dropped the page, and waits until the
//!   entry is set.
//!
//! C headers: [`include/linux/rmap.h`](srctree/include/linux/rmap.h),
//! [`include/linux/gfp.h`](srctree/include/linux/gfp.h)

use crate::mm::mmu_notifier::Invalidation;
use crate::mm::page::PageRef;
use crate::mm::room::NoKill;
use crate::mm::shared::SharedPage;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::with_table;
use crate::shim;
use core::ptr::NonNull;
use engine::Frame;
use engine::PAGE_SIZE;
use kernel::prelude::*;

/// What a page table entry maps now, instead of a page of the process's own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MergedPage {
    /// The shared page on this frame.
    On(Frame),
    /// The zero page, which replaced a page that was merged with it.
    Zero,
}

/// The result of a copy.
pub(super) enum Copied {
    /// The process has a page of its own.
    Done,
    /// Nothing changed: the process has discarded or replaced the page.
    Gone,
    /// Nothing changed: a secondary MMU can't drop the page at once.
    Busy,
    /// Nothing changed: the memory of the page has failed.
    MemoryFailed,
}

/// Gives the process of `vma` its own copy of `merged`, which was seen at `addr`. Uses no more memory than
/// [`crate::mm::room::Room`] was asked for. May sleep, but only briefly.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn copy(vma: &VmaReadGuard<'_>, addr: usize, merged: MergedPage) -> Result<Copied> {
    let original = match merged {
        MergedPage::Zero => None,
        MergedPage::On(frame) => match SharedPage::on(frame).filter(|page| !page.is_poisoned()) {
            Some(page) => Some(page),
            None => return Ok(Copied::Gone),
        },
    };
    let copy = new_page(vma, addr, merged)?;
    if let Some(original) = &original {
        // SAFETY: `copy` and `original` own references to their pages, and nobody else knows the new page.
        if unsafe { shim::ksm_v_copy_mc_highpage(copy.as_ptr(), original.as_ptr()) } != 0 {
            return Ok(Copied::MemoryFailed);
        }
    }
    // SAFETY: The new folio is referenced and nobody else knows it. Its content is complete before an entry
    // maps it.
    unsafe { shim::ksm_v_folio_mark_uptodate(copy.folio()) };
    let range = addr..addr.saturating_add(PAGE_SIZE);
    let Some(invalidation) = Invalidation::try_start(vma, range.clone()) else {
        return Ok(Copied::Busy);
    };
    let mut is_mapped = false;
    with_table(vma, range, |table| {
        is_mapped = table.map_copy(original.as_ref(), &copy, &invalidation);
    });
    Ok(if is_mapped {
        Copied::Done
    } else {
        Copied::Gone
    })
}

/// Allocates a page by the memory policy of the VMA, and charges it to the process.
fn new_page(vma: &VmaReadGuard<'_>, addr: usize, merged: MergedPage) -> Result<PageRef> {
    let gfp = match merged {
        MergedPage::Zero => shim::KSM_V_GFP_ASK_ZEROED,
        MergedPage::On(_) => shim::KSM_V_GFP_ASK,
    };
    let _scope = NoKill::begin();
    // SAFETY: The VMA lock is held, so the VMA is in place, and the address is in it.
    let folio = unsafe { shim::ksm_v_vma_alloc_folio(gfp, vma.as_ptr(), addr) };
    let folio = NonNull::new(folio).ok_or(ENOMEM)?;
    // SAFETY: The folio was just allocated, and its reference is given to the `PageRef`.
    let page = unsafe { PageRef::from_new(folio) };
    // SAFETY: The folio is new and referenced. The mm stays while its VMA is locked.
    let charged = unsafe { shim::ksm_v_mem_cgroup_charge(folio.as_ptr(), vma.mm().as_raw(), gfp) };
    if charged == 0 {
        Ok(page)
    } else {
        Err(ENOMEM)
    }
}
