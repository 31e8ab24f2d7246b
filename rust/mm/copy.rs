// SPDX-License-Identifier: GPL-2.0

//! Gives a process its own copy of a merged page, as `wp_page_copy()` in `mm/memory.c` does.
//!
//! Not by a fault (`break_ksm()` in `mm/ksm.c`): if the process discards the page just before, a fault reads
//! what the area is of, and its file system may be one that does not answer (FUSE); or it is one
//! for user space to handle (userfaultfd), which fails. Nothing here waits for anybody.
//!
//! The VMA lock is held for reading: the area stays as it is, and so do its page tables. What if right now
//! the process …
//!
//! - writes to the page, or discards it? Each takes the page table lock to change the entry: before us, and
//!   the entry does not map the merged page any more; or after us, and it is about the copy.
//! - gets another merged page there, on the same frame? The reference to the merged page keeps its frame.
//!   Of a merged page the content does not change.
//! - pins the page? A merged page is never exclusive, so what wants to stay with it has unshared it before.
//! - reads through a device (secondary MMU)? That has been told to forget the page, and waits until the entry
//!   is set.
//!
//! C headers: [`include/linux/rmap.h`](srctree/include/linux/rmap.h),
//! [`include/linux/gfp.h`](srctree/include/linux/gfp.h)

use crate::mm::page::PageRef;
use crate::mm::pte::Invalidation;
use crate::mm::room::NoKill;
use crate::mm::shared::SharedPage;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::with_table;
use crate::shim;
use core::ptr::NonNull;
use engine::Frame;
use engine::PAGE_SIZE;
use kernel::prelude::*;

/// What an entry of a page table maps that is to become a process's own page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Merged {
    /// The shared page on this frame.
    On(Frame),
    /// The zero page, in place of a page that was merged with it.
    Zero,
}

/// What came of it.
pub(super) enum Copied {
    /// The process has a page of its own.
    Done,
    /// Nothing: it has discarded or replaced the page meanwhile.
    Gone,
    /// Nothing: a secondary MMU can't forget the page at once.
    Busy,
    /// Nothing: the memory of the page has failed.
    MemoryFailed,
}

/// Gives the process of `vma` its own copy of `merged`, which was seen at `addr`. Takes no more memory than
/// [`crate::mm::room::Room`] was asked for. May sleep, for a moment.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn copy(vma: &VmaReadGuard<'_>, addr: usize, merged: Merged) -> Result<Copied> {
    let original = match merged {
        Merged::Zero => None,
        Merged::On(frame) => match SharedPage::on(frame).filter(|page| !page.is_poisoned()) {
            Some(page) => Some(page),
            None => return Ok(Copied::Gone),
        },
    };
    let copy = new_page(vma, addr, merged)?;
    if let Some(original) = &original {
        // SAFETY: Both pages are referenced, and the new one is nobody else's.
        if unsafe { shim::ksm_v_copy_mc_highpage(copy.as_ptr(), original.as_ptr()) } != 0 {
            return Ok(Copied::MemoryFailed);
        }
    }
    // SAFETY: As above. Whoever finds the page by the entry finds its content, too.
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

/// Allocates a page by the memory policy of the area, charged to its process.
fn new_page(vma: &VmaReadGuard<'_>, addr: usize, merged: Merged) -> Result<PageRef> {
    let gfp = match merged {
        Merged::Zero => shim::KSM_V_GFP_ASK_ZEROED,
        Merged::On(_) => shim::KSM_V_GFP_ASK,
    };
    let _scope = NoKill::begin();
    // SAFETY: The VMA lock is held, and the address is in the area.
    let folio = unsafe { shim::ksm_v_vma_alloc_folio(gfp, vma.as_ptr(), addr) };
    let folio = NonNull::new(folio).ok_or(ENOMEM)?;
    // SAFETY: The folio was just allocated, and is nobody else's.
    let page = unsafe { PageRef::from_new(folio) };
    // SAFETY: As above; the mm is in use.
    let charged = unsafe { shim::ksm_v_mem_cgroup_charge(folio.as_ptr(), vma.mm().as_raw(), gfp) };
    if charged == 0 {
        Ok(page)
    } else {
        Err(ENOMEM)
    }
}
