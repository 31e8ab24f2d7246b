// SPDX-License-Identifier: GPL-2.0

//! What an entry of a page middle directory (PMD) refers to, locked: a page table or a huge page.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/huge_mm.h`](srctree/include/linux/huge_mm.h);
//! document: [`Documentation/mm/split_page_table_lock.rst`](srctree/Documentation/mm/split_page_table_lock.rst)

use crate::mm::mmu_notifier::Invalidation;
use crate::mm::page::frame_of;
use crate::mm::page::PageRef;
use crate::mm::shared::SharedPage;
use crate::mm::vma::StableVma;
use crate::shim;
use crate::trace;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;
use engine::Frame;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::ffi::c_int;

/// A summary of the pages that are mapped in the range of a PMD entry.
#[derive(Clone, Copy, Default)]
pub(crate) struct Population {
    /// A hash of the pages: other pages give another digest, except for rare collisions.
    pub(crate) digest: u32,
    /// The number of pages.
    pub(crate) pages: u32,
}

impl Population {
    /// The pages that are mapped in `range`, at some moment. Empty if the page table is being replaced.
    ///
    /// # Safety
    ///
    /// `pmd` must be the entry for `range` in `vma`, and `range` must lie within one page table. The VMA lock
    /// or the mmap lock must be held, which keeps the VMA and its page tables.
    pub(super) unsafe fn of(
        pmd: *mut bindings::pmd_t,
        range: Range<usize>,
        vma: *mut bindings::vm_area_struct,
    ) -> Self {
        // SAFETY: The caller promises that `pmd` is an entry of `vma`, and holds a lock that keeps the page
        // tables of the VMA.
        if let Some(huge) = unsafe { LockedHuge::lock(vma, pmd) } {
            return huge.population(&range);
        }
        let Some(vma) = NonNull::new(vma) else {
            return Self::default();
        };
        // SAFETY: The caller holds the VMA lock or the mmap lock, which keeps the VMA in place.
        let vma = unsafe { StableVma::from_raw(vma) };
        // SAFETY: The caller promises that `pmd` is the entry for `range`, which is within one page table, and
        // holds a lock that keeps page tables from being freed.
        let table = unsafe { LockedTable::lock(&vma, pmd, range) };
        table.map_or_else(Self::default, |table| table.population())
    }
}

/// A PMD entry that maps a huge page, locked until this is dropped.
///
/// # Invariants
///
/// `lock`, which protects `pmd`, is held. The entry is present and huge, or the migration entry of a huge
/// page.
pub(super) struct LockedHuge {
    pmd: *mut bindings::pmd_t,
    lock: NonNull<bindings::spinlock_t>,
}

impl LockedHuge {
    /// Locks the entry `pmd`; `None` if it is not the entry of a huge page.
    ///
    /// # Safety
    ///
    /// `pmd` must be an entry of `vma`. A lock that keeps page tables of the VMA from being freed must be
    /// held while this exists.
    pub(super) unsafe fn lock(
        vma: *mut bindings::vm_area_struct,
        pmd: *mut bindings::pmd_t,
    ) -> Option<Self> {
        // SAFETY: The caller promises that `pmd` is an entry of `vma`, whose page tables stay.
        let lock = NonNull::new(unsafe { shim::ksm_v_pmd_trans_huge_lock(pmd, vma) })?;
        // INVARIANT: `pmd_trans_huge_lock()` returned the lock that it took, so the entry maps a huge page, or
        // is its migration entry.
        Some(LockedHuge { pmd, lock })
    }

    /// The first page of the huge page; `None` while the huge page is being migrated.
    pub(super) fn head(&self) -> Option<NonNull<bindings::page>> {
        // SAFETY: By the type invariant the lock is held, so the entry can't change between the two calls.
        unsafe {
            if !shim::ksm_v_pmd_trans_huge(self.pmd) {
                return None;
            }
            NonNull::new(shim::ksm_v_pmd_page(self.pmd))
        }
    }

    /// The pages that are mapped in `range`, a part of the huge page.
    pub(super) fn population(&self, range: &Range<usize>) -> Population {
        // SAFETY: By the type invariant the lock of the entry is held, and the entry maps `head`.
        let frame = self.head().map_or(0, |head| unsafe { frame_of(head) }.0);
        Population {
            digest: frame as u32 ^ (frame >> u32::BITS) as u32,
            pages: (range.len() / PAGE_SIZE) as u32,
        }
    }
}

impl Drop for LockedHuge {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the lock is held, and it is released once.
        unsafe { shim::ksm_v_spin_unlock(self.lock.as_ptr()) };
    }
}

/// A part of a page table, locked until this is dropped.
///
/// # Invariants
///
/// `lock`, the lock of the page table, is held. `first` is the entry of `vma` at `range.start`; the other
/// entries of `range` follow it.
pub(super) struct LockedTable<'a> {
    first: NonNull<bindings::pte_t>,
    range: Range<usize>,
    lock: *mut bindings::spinlock_t,
    vma: &'a StableVma<'a>,
}

impl<'a> LockedTable<'a> {
    /// Locks the page table that `pmd` refers to; `None` if it is gone, or was replaced by a huge page.
    ///
    /// # Safety
    ///
    /// `pmd` must be the entry for `range` of `vma`, and `range` must lie within one page table. A lock
    /// that keeps page tables of the VMA from being freed must be held for `'a`.
    pub(super) unsafe fn lock(
        vma: &'a StableVma<'a>,
        pmd: *mut bindings::pmd_t,
        range: Range<usize>,
    ) -> Option<Self> {
        let (mm, mut lock) = (vma.mm().as_raw(), core::ptr::null_mut());
        // SAFETY: The caller promises that `pmd` is the entry for `range` of `vma`, whose page tables stay.
        let first = unsafe { shim::pte_offset_map_lock(mm, pmd, range.start, &mut lock) };
        // INVARIANT: `pte_offset_map_lock()` returned the entry at `range.start`, with the page table
        // locked. The range lies within this page table, so that its other entries follow.
        NonNull::new(first).map(|first| LockedTable {
            first,
            range,
            lock,
            vma,
        })
    }

    /// The pages that are mapped.
    pub(super) fn population(&self) -> Population {
        let mut pages = 0;
        // SAFETY: By the type invariant as many entries begin at `first`, and the page table lock is held.
        let digest = unsafe { shim::ksm_v_ptes_digest(self.first(), self.len(), &mut pages) };
        Population { digest, pages }
    }

    /// Whether another thread waits for the lock.
    pub(super) fn is_contended(&self) -> bool {
        // SAFETY: By the type invariant the lock is held, so the page table that contains it is in place.
        unsafe { shim::ksm_v_spin_is_contended(self.lock) }
    }

    /// The address of the first entry.
    pub(super) fn start(&self) -> usize {
        self.range.start
    }

    /// The first entry.
    pub(super) fn first(&self) -> *mut bindings::pte_t {
        self.first.as_ptr()
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.range.len() / PAGE_SIZE
    }

    /// The entries with their addresses, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, *mut bindings::pte_t)> + '_ {
        let first = self.first.as_ptr();
        let addresses = self.range.clone().step_by(PAGE_SIZE).enumerate();
        addresses.map(move |(index, addr)| (addr, first.wrapping_add(index)))
    }

    /// The entry at `addr`.
    pub(super) fn entry(&self, addr: usize) -> Option<NonNull<bindings::pte_t>> {
        if !self.range.contains(&addr) {
            return None;
        }
        let index = (addr - self.range.start) / PAGE_SIZE;
        // SAFETY: By the type invariant the entries of `range` follow `first`, and `addr` is in `range`.
        Some(unsafe { self.first.add(index) })
    }

    /// The VMA whose page table this is.
    pub(super) fn vma(&self) -> &'a StableVma<'a> {
        self.vma
    }

    /// Maps `copy`, a new page, instead of `original`, if the first entry maps `original`; `None` is the
    /// zero page in place of a merged page. The process owns the copy afterwards. The caller must have
    /// started an invalidation that covers the first entry.
    ///
    /// As `wp_page_copy()` in `mm/memory.c`, which `break_ksm()` in `mm/ksm.c` gets to by a fault.
    pub(super) fn map_copy(
        &self,
        original: Option<&SharedPage>,
        copy: &PageRef,
        _invalidation: &Invalidation<'_>,
    ) -> bool {
        let (vma, mm) = (self.vma.as_ptr(), self.vma.mm().as_raw());
        let (entry, addr) = (self.first.as_ptr(), self.range.start);
        // SAFETY: By the type invariant `first` is an entry whose page table lock is held.
        let (old, is_zero, pfn) = unsafe {
            let old = shim::ksm_v_ptep_get(entry);
            let pfn = shim::ksm_v_pte_present(old).then(|| shim::ksm_v_pte_pfn(old) as u64);
            (old, shim::ksm_v_is_ksm_zero_pte(old), pfn)
        };
        let is_mapped = match original {
            Some(original) => pfn == Some(original.frame().0),
            None => is_zero,
        };
        let Some(frame) = pfn.filter(|_| is_mapped).map(Frame) else {
            return false;
        };
        // SAFETY: By the type invariant the page table lock is held, and `first` is the entry of `vma` at
        // `addr`. `copy` is referenced, charged, and known to nobody else; the mapping gets a reference of
        // its own. The mapping's reference to the old page is dropped, and the caller still owns one.
        unsafe {
            // Flushed before the new entry is set, so that no two CPUs see different pages.
            shim::ptep_clear_flush(vma, addr, entry);
            shim::ksm_v_folio_get(copy.folio());
            let exclusive = shim::KSM_V_RMAP_EXCLUSIVE;
            shim::folio_add_new_anon_rmap(copy.folio(), vma, addr, exclusive);
            // Also for a locked VMA: reclaim moves the page to the unevictable list, and does not swap it
            // out.
            shim::folio_add_lru(copy.folio());
            let new = shim::ksm_v_mk_copied_pte(old, copy.as_ptr(), self.vma.page_prot());
            shim::ksm_v_set_pte_at(mm, addr, entry, new);
            match original {
                Some(page) => {
                    shim::folio_remove_rmap_ptes(page.folio(), page.as_ptr(), 1, vma);
                    shim::ksm_v_folio_put(page.folio());
                }
                None => {
                    shim::ksm_v_ksm_might_unmap_zero_page(mm, old);
                    shim::ksm_v_inc_mm_counter(mm, bindings::MM_ANONPAGES as c_int);
                }
            }
        }
        trace::break_apart(self.vma.mm(), addr, frame, is_zero, false);
        true
    }

    /// Flushes the whole range from the TLBs.
    pub(super) fn flush(&self) -> Flushed<'_> {
        // SAFETY: By the invariant of `StableVma` the VMA is in place, and the range lies within it.
        unsafe {
            shim::ksm_v_flush_tlb_ptes(self.vma.as_ptr(), self.range.start, self.range.end);
        }
        // INVARIANT: The range was just flushed, and the lock is held while `self` is borrowed.
        Flushed(PhantomData)
    }
}

impl Drop for LockedTable<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant `first` is mapped and the lock is held, as `pte_offset_map_lock()`
        // returned them.
        unsafe { shim::ksm_v_pte_unmap_unlock(self.first.as_ptr(), self.lock) };
    }
}

/// Proof that the range of a [`LockedTable`] was flushed from the TLBs, made by [`LockedTable::flush`]. Lives no
/// longer than the page table lock is held.
///
/// # Invariants
///
/// The range was flushed before this was made, under the page table lock, which is held for `'a`.
pub(super) struct Flushed<'a>(PhantomData<&'a ()>);
