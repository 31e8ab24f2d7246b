// SPDX-License-Identifier: GPL-2.0

//! A page table entry (PTE) that maps a page to be replaced, under its page table lock: cleared and flushed
//! first, then set to map the replacement, or restored.
//!
//! The rmap finds a single entry ([`Mapping`]); a locked page table has several ([`LockedTable`]).
//!
//! C headers: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h),
//! [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::mm::content::StillPage;
use crate::mm::mmu_notifier::Invalidation;
use crate::mm::page::LockedPage;
use crate::mm::page_table::Flushed;
use crate::mm::page_table::LockedTable;
use crate::mm::rmap::Mapping;
use crate::mm::shared::Sharer;
use crate::mm::vma::StableVma;
use crate::shim;
use crate::trace;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::ffi::c_int;

/// The entry at `addr` of a VMA. It maps a page for the CPU and has no mark of userfaultfd.
///
/// # Invariants
///
/// For `'a` the lock of the page table is held that contains `entry`, which is the entry of `vma` at
/// `addr`. It mapped `page`, a folio of its own, when this was made.
pub(super) struct LockedEntry<'a> {
    entry: NonNull<bindings::pte_t>,
    addr: usize,
    vma: &'a StableVma<'a>,
    page: &'a LockedPage<'a>,
}

/// The old value of an entry that was cleared. CPUs may still write to the page through their TLBs.
///
/// # Invariants
///
/// The entry is clear, and its page table was locked the whole time since.
#[must_use]
pub(super) struct Unflushed(bindings::pte_t);

/// The old value of an entry that was cleared and flushed. No CPU can write to the page through the entry,
/// nor find the page by it.
///
/// Until the entry is set again, CPUs fault on the address and wait for the page table lock.
/// `get_user_pages_fast()`, which takes no lock, no longer finds the page, or took its reference before the
/// entry was cleared: see [`LockedPage::is_pinned`].
///
/// # Invariants
///
/// The entry is clear, its page table was locked the whole time since, and TLBs were flushed after it was cleared.
#[must_use]
pub(super) struct Cleared(bindings::pte_t);

impl Unflushed {
    /// The entry is flushed: `_flush` was made after the entry was cleared, of the table that contains it.
    pub(super) fn flushed(self, _flush: &Flushed<'_>) -> Cleared {
        // INVARIANT: By the type invariant the entry is clear, and `_flush` shows that it was flushed afterwards.
        Cleared(self.0)
    }
}

/// Whether an entry maps a page for the CPU, without a mark of userfaultfd.
///
/// This excludes entries that only a device uses, and entries whose writes user space wants to hear of.
///
/// # Safety
///
/// The lock of the page table that contains `entry` must be held.
unsafe fn is_plain(entry: NonNull<bindings::pte_t>) -> bool {
    // SAFETY: The caller holds the page table lock, so the entry is in place and may be read.
    unsafe {
        let pte = shim::ksm_v_ptep_get(entry.as_ptr());
        shim::ksm_v_pte_present(pte) && !shim::ksm_v_pte_uffd(pte)
    }
}

impl<'a> LockedEntry<'a> {
    /// The entry of `mapping`, to be replaced. The caller must have started an invalidation that covers it.
    ///
    /// `None` if the entry does not map the page for the CPU, or has a mark of userfaultfd; also if the
    /// mapping is a huge one, because the page was split before.
    pub(super) fn of_mapping(
        mapping: &'a mut Mapping<'_>,
        _invalidation: &Invalidation<'_>,
    ) -> Option<Self> {
        let entry = mapping.entry()?;
        // SAFETY: By the invariant of `Mapping` the lock of the entry's page table is held.
        if !unsafe { is_plain(entry) } {
            return None;
        }
        // INVARIANT: By the invariant of `Mapping` this is the entry of its VMA that maps its page, and the page
        // table lock is held as long as `mapping` is borrowed.
        Some(LockedEntry {
            entry,
            addr: mapping.addr(),
            vma: mapping.vma(),
            page: mapping.page(),
        })
    }

    /// The entry of `table` at `addr`, if it maps `page`. The caller must have started an invalidation that
    /// covers it.
    pub(super) fn in_table(
        table: &'a LockedTable<'_>,
        addr: usize,
        page: &'a LockedPage<'a>,
        _invalidation: &Invalidation<'_>,
    ) -> Option<Self> {
        let entry = table.entry(addr)?;
        // SAFETY: By the invariant of `LockedTable` the page table lock is held.
        let maps_page = unsafe {
            is_plain(entry)
                && shim::ksm_v_pte_pfn(shim::ksm_v_ptep_get(entry.as_ptr())) as u64
                    == page.frame().0
        };
        // INVARIANT: The page table lock is held as long as `table` is borrowed, and `entry` is the entry of its
        // VMA at `addr`. It maps `page`, as just checked.
        maps_page.then(|| LockedEntry {
            entry,
            addr,
            vma: table.vma(),
            page,
        })
    }
}

impl LockedEntry<'_> {
    /// The page that the entry maps, or mapped before it was cleared.
    pub(super) fn page(&self) -> &LockedPage<'_> {
        self.page
    }

    /// The VMA that contains the entry.
    pub(super) fn vma(&self) -> &StableVma<'_> {
        self.vma
    }

    /// Clears the entry and flushes it from all TLBs, as `write_protect_page()` in `mm/ksm.c` does.
    pub(super) fn clear(&mut self) -> Cleared {
        // SAFETY: By the type invariant `entry` is the entry of `vma` at `addr`, and its page table lock is
        // held.
        // INVARIANT: The function clears the entry and flushes it.
        Cleared(unsafe {
            shim::ptep_clear_flush(self.vma.as_ptr(), self.addr, self.entry.as_ptr())
        })
    }

    /// Clears the entry. The caller must flush it.
    pub(super) fn clear_unflushed(&mut self) -> Unflushed {
        let mm = self.vma.mm().as_raw();
        // SAFETY: By the type invariant `entry` is the entry at `addr` of a VMA of `mm`, and its page table
        // lock is held.
        // INVARIANT: The function clears the entry.
        Unflushed(unsafe { shim::ksm_v_ptep_get_and_clear(mm, self.addr, self.entry.as_ptr()) })
    }

    /// Sets the entry to its old value, as if nothing had happened.
    pub(super) fn restore(&mut self, old: Cleared) {
        self.set(old.0);
    }

    /// The content of the page, which nobody can change until the entry is set again.
    ///
    /// # Safety
    ///
    /// The page must not be pinned. Then it is written to only through a mapping; and if it has several
    /// mappings, all are read-only.
    pub(super) unsafe fn still_content(&self, _cleared: &Cleared) -> StillPage<'_> {
        // SAFETY: The caller promises that the page is not pinned, so only a mapping can be written
        // through. This entry is cleared and flushed, and if there are others, they are read-only.
        unsafe { StillPage::new(self.page.content()) }
    }

    /// Makes the page non-exclusive, as sharing requires and as `write_protect_page()` in `mm/ksm.c` does.
    /// Returns false if the page may be pinned.
    pub(super) fn try_share(&self, _cleared: &Cleared) -> bool {
        let (folio, page) = (self.page.folio(), self.page.as_ptr());
        // SAFETY: By the type invariant the entry mapped `page`, and its page table lock is held. `_cleared`
        // shows that the entry is cleared and flushed, as `folio_try_share_anon_rmap_pte()` requires.
        unsafe {
            !shim::ksm_v_page_anon_exclusive(page)
                || shim::ksm_v_folio_try_share_anon_rmap_pte(folio, page) == 0
        }
    }

    /// Maps the shared page instead of the page, as `replace_page()` in `mm/ksm.c` does. `sharer` was recorded
    /// for this entry.
    pub(super) fn map(&mut self, old: Cleared, sharer: &Sharer<'_>) {
        sharer.keep();
        let shared = sharer.shared();
        let (folio, page) = (shared.folio(), shared.as_ptr());
        // SAFETY: `shared` owns a reference to the shared page, and its folio lock is held as long as the
        // sharer exists. By the type invariant the page table lock is held, and `addr` is in `vma`. The new
        // mapping gets a reference of its own.
        let pte = unsafe {
            shim::ksm_v_folio_get(folio);
            shim::folio_add_anon_rmap_ptes(
                folio,
                page,
                1,
                self.vma.as_ptr(),
                self.addr,
                0, // RMAP_NONE: not exclusive.
            );
            shim::ksm_v_mk_pte(page, self.vma.page_prot())
        };
        self.finish(old, pte);
        trace::merge(self.vma.mm(), self.addr, self.page, shared);
    }

    /// Maps the zero page instead of the page. Marks the entry as `replace_page()` in `mm/ksm.c` does, so that
    /// the kernel counts it in `ksm_zero_pages`.
    pub(super) fn map_zero(&mut self, old: Cleared) {
        let mm = self.vma.mm().as_raw();
        // SAFETY: By the invariant of `StableVma` the VMA keeps the mm in place. The counter of anonymous pages
        // is decremented, because the entry mapped an anonymous page, and the zero page is not anonymous.
        let pte = unsafe {
            shim::ksm_v_ksm_map_zero_page(mm);
            shim::ksm_v_dec_mm_counter(mm, bindings::MM_ANONPAGES as c_int);
            shim::ksm_v_mk_ksm_zero_pte(self.addr, self.vma.page_prot())
        };
        self.finish(old, pte);
        trace::merge_zero(self.vma.mm(), self.addr, self.page);
    }

    /// Sets the new entry and removes the mapping of the old page.
    fn finish(&mut self, old: Cleared, mut new: bindings::pte_t) {
        let folio = self.page.folio();
        // SAFETY: `page` owns a reference to the folio besides the mapping's, which is dropped here, and
        // the folio is locked. By the type invariant the page table lock is held, and the entry mapped this
        // page.
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

    /// Sets the entry, which was cleared.
    fn set(&mut self, pte: bindings::pte_t) {
        let mm = self.vma.mm().as_raw();
        // SAFETY: By the type invariant `entry` is the entry at `addr` of a VMA of `mm`, and its page table
        // lock is held. The callers have cleared the entry, as `set_pte_at()` requires.
        unsafe { shim::ksm_v_set_pte_at(mm, self.addr, self.entry.as_ptr(), pte) };
    }
}
