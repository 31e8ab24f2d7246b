// SPDX-License-Identifier: GPL-2.0

//! One page table entry, found through the rmap, to be replaced.
//!
//! C headers: [`include/linux/rmap.h`](srctree/include/linux/rmap.h),
//! [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use crate::mm::page::LockedPage;
use crate::mm::vma::StableVma;
use crate::shim;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::types::NotThreadSafe;

/// Secondary MMUs (KVM) have been told to forget a page, and wait until this is dropped.
///
/// # Invariants
///
/// `range` was started.
pub(super) struct Invalidation<'a> {
    range: bindings::mmu_notifier_range,
    _vma: PhantomData<&'a ()>,
    _nts: NotThreadSafe,
}

impl<'a> Invalidation<'a> {
    /// Invalidates the page at `addr`. May sleep.
    pub(super) fn start(vma: &'a StableVma<'_>, addr: usize) -> Self {
        let mut range = MaybeUninit::uninit();
        // SAFETY: Initialises the range; the area keeps the mm in place.
        let range = unsafe {
            shim::ksm_v_mmu_notifier_range_init(
                range.as_mut_ptr(),
                vma.mm().as_raw(),
                addr,
                addr.saturating_add(PAGE_SIZE),
            );
            shim::ksm_v_mmu_notifier_invalidate_range_start(range.as_mut_ptr());
            range.assume_init()
        };
        // INVARIANT: It was just started. Moving it is fine: nothing points to it between the
        // calls.
        Invalidation {
            range,
            _vma: PhantomData,
            _nts: NotThreadSafe,
        }
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_mmu_notifier_invalidate_range_end(&mut self.range) };
    }
}

/// A page table entry that maps a page; the page table lock is held.
///
/// # Invariants
///
/// `walk` stopped at an entry of `vma` that maps the page, which is a folio of its own, and holds
/// the page table lock.
pub(super) struct MappedEntry<'a> {
    walk: shim::page_vma_mapped_walk,
    vma: &'a StableVma<'a>,
    page: &'a LockedPage<'a>,
}

/// An entry that was cleared and flushed: no CPU can write through it, nor find the page by it.
pub(super) struct Cleared(bindings::pte_t);

impl<'a> MappedEntry<'a> {
    /// Finds the entry of `vma` that maps `page` at `addr`, and locks its page table.
    ///
    /// The invalidation that the caller must have started covers what is done to the entry.
    pub(super) fn find(
        page: &'a LockedPage<'a>,
        vma: &'a StableVma<'a>,
        addr: usize,
        _invalidation: &Invalidation<'_>,
    ) -> Option<Self> {
        let mut walk = MaybeUninit::uninit();
        // SAFETY: Initialises the walk. The folio is locked and referenced, the area in place.
        let mut walk = unsafe {
            shim::ksm_v_folio_vma_walk_init(walk.as_mut_ptr(), page.folio(), vma.as_ptr(), addr);
            walk.assume_init()
        };
        // SAFETY: As above. When it returns false, it has cleaned up after itself.
        if !unsafe { shim::page_vma_mapped_walk(&mut walk) } {
            return None;
        }
        // INVARIANT: It stopped at an entry, its page table locked.
        let entry = MappedEntry { walk, vma, page };
        entry.is_plain().then_some(entry)
    }

    /// Whether the entry maps the page for the CPU, in the ordinary way.
    ///
    /// Not so: a huge mapping (the page was split before), an entry that only a device uses, and
    /// one whose writes user space wants to hear of.
    fn is_plain(&self) -> bool {
        if self.walk.pte.is_null() {
            return false;
        }
        // SAFETY: By the type invariant.
        unsafe {
            let pte = shim::ksm_v_ptep_get(self.walk.pte);
            shim::ksm_v_pte_present(pte) && !shim::ksm_v_pte_uffd(pte)
        }
    }

    /// Clears the entry and flushes it from all TLBs.
    ///
    /// From here until [`Self::restore`] or [`Self::map`], the CPUs fault on the address and wait
    /// for the page table lock; `get_user_pages_fast()`, which takes no lock, no longer finds the
    /// page, or had taken its reference before: see `is_pinned()` in [`super::merge`].
    pub(super) fn clear(&mut self) -> Cleared {
        // SAFETY: By the type invariant.
        Cleared(unsafe {
            shim::ptep_clear_flush(self.vma.as_ptr(), self.walk.address, self.walk.pte)
        })
    }

    /// Puts back what was cleared: as if nothing had happened.
    pub(super) fn restore(&mut self, old: Cleared) {
        self.set(old.0);
    }

    /// Makes the page non-exclusive, as sharing it demands, unless it may be pinned.
    pub(super) fn try_share(&self, _cleared: &Cleared) -> bool {
        let (folio, page) = (self.page.folio(), self.page.as_ptr());
        // SAFETY: By the type invariant; the entry is cleared and flushed, which the function
        // asks for.
        unsafe {
            !shim::ksm_v_page_anon_exclusive(page)
                || shim::ksm_v_folio_try_share_anon_rmap_pte(folio, page) == 0
        }
    }

    /// Maps `shared` in place of the page.
    pub(super) fn map(mut self, old: Cleared, shared: &LockedPage<'_>) {
        let (folio, page) = (shared.folio(), shared.as_ptr());
        // SAFETY: The shared page is referenced and locked, and the page table lock is held. The
        // new mapping gets a reference of its own.
        let pte = unsafe {
            shim::ksm_v_folio_get(folio);
            shim::folio_add_anon_rmap_ptes(
                folio,
                page,
                1,
                self.vma.as_ptr(),
                self.walk.address,
                0, // RMAP_NONE: not exclusive.
            );
            shim::ksm_v_mk_pte(page, self.vma.page_prot())
        };
        self.finish(old, pte);
    }

    /// Maps the zero page in place of the page, marked as `mm/ksm.c` marks it, so that the kernel
    /// counts it in `ksm_zero_pages`.
    pub(super) fn map_zero(mut self, old: Cleared) {
        let mm = self.vma.mm().as_raw();
        // SAFETY: The area keeps the mm in place. The zero page is no anonymous page.
        let pte = unsafe {
            shim::ksm_v_ksm_map_zero_page(mm);
            shim::ksm_v_dec_mm_counter(mm, bindings::MM_ANONPAGES as c_int);
            shim::ksm_v_mk_ksm_zero_pte(self.walk.address, self.vma.page_prot())
        };
        self.finish(old, pte);
    }

    /// Sets the new entry and takes the old page out of the mapping.
    fn finish(&mut self, old: Cleared, mut new: bindings::pte_t) {
        let folio = self.page.folio();
        // SAFETY: The folio is referenced (beyond the mapping's reference, which is dropped here)
        // and locked, and by the type invariant its page table lock is held.
        unsafe {
            if shim::ksm_v_pte_soft_dirty(old.0) {
                new = shim::ksm_v_pte_mksoft_dirty(new);
            }
            if shim::ksm_v_pte_dirty(old.0) {
                bindings::folio_mark_dirty(folio);
            }
            self.set(new);
            shim::folio_remove_rmap_ptes(folio, self.page.as_ptr(), 1, self.vma.as_ptr());
            shim::ksm_v_folio_put(folio);
        }
    }

    fn set(&mut self, pte: bindings::pte_t) {
        let mm = self.vma.mm().as_raw();
        // SAFETY: By the type invariant; the entry was cleared before.
        unsafe { shim::ksm_v_set_pte_at(mm, self.walk.address, self.walk.pte, pte) };
    }
}

impl Drop for MappedEntry<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the walk stopped at an entry.
        unsafe { shim::ksm_v_page_vma_mapped_walk_done(&mut self.walk) };
    }
}
