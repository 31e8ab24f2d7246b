// SPDX-License-Identifier: GPL-2.0

//! Page table entries that map a page to be replaced: a single entry found by the rmap, or several of one
//! page table.
//!
//! C headers: [`include/linux/rmap.h`](srctree/include/linux/rmap.h),
//! [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use crate::mm::page::frame_of;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::page::StillPage;
use crate::mm::shared::SharedPage;
use crate::mm::shared::Sharer;
use crate::mm::vma::StableVma;
use crate::shim;
use crate::trace;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;
use engine::Frame;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::ffi::c_uint;
use kernel::types::NotThreadSafe;

/// An invalidation of secondary MMUs (KVM): they have dropped the pages in a range, and do not map them
/// again until this is dropped.
///
/// # Invariants
///
/// `range` was started by `mmu_notifier_invalidate_range_start_nonblock()` and has not ended.
pub(super) struct Invalidation<'a> {
    range: bindings::mmu_notifier_range,
    _vma: PhantomData<&'a ()>,
    _nts: NotThreadSafe,
}

impl<'a> Invalidation<'a> {
    /// Invalidates the pages in `range`; `None` if a secondary MMU can't do that at once. Never sleeps: the
    /// driver of a GPU would wait until the user's jobs end.
    pub(super) fn try_start(vma: &'a StableVma<'_>, range: Range<usize>) -> Option<Self> {
        let mut notified = MaybeUninit::uninit();
        // SAFETY: The first call initialises the range, so that the second may use it and `assume_init`
        // holds. By the invariant of `StableVma` the VMA keeps the mm in place.
        let (range, error) = unsafe {
            shim::ksm_v_mmu_notifier_range_init(
                notified.as_mut_ptr(),
                vma.mm().as_raw(),
                range.start,
                range.end,
            );
            let range = notified.as_mut_ptr();
            let error = shim::ksm_v_mmu_notifier_invalidate_range_start_nonblock(range);
            (notified.assume_init(), error)
        };
        // INVARIANT: Without an error the range was just started; with one, the kernel has ended what had
        // started. The range may be moved, because nothing points to it between the calls.
        (error == 0).then(|| Invalidation {
            range,
            _vma: PhantomData,
            _nts: NotThreadSafe,
        })
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the range was started and has not ended.
        unsafe { shim::ksm_v_mmu_notifier_invalidate_range_end(&mut self.range) };
    }
}

/// The entry at `addr` of a VMA. It maps a page for the CPU and has no mark of userfaultfd.
///
/// # Invariants
///
/// For `'a` the lock of the page table is held that contains `entry`, which is the entry of `vma` at
/// `addr`. It mapped `page`, a folio of its own, when this was made.
pub(super) struct Entry<'a> {
    entry: NonNull<bindings::pte_t>,
    addr: usize,
    vma: &'a StableVma<'a>,
    page: &'a LockedPage<'a>,
}

/// The old value of an entry that was cleared. CPUs may still write to the page through their TLBs.
#[must_use]
pub(super) struct Unflushed(bindings::pte_t);

/// The old value of an entry that was cleared and flushed. No CPU can write to the page through the entry,
/// nor find the page by it.
///
/// Until the entry is set again, CPUs fault on the address and wait for the page table lock.
/// `get_user_pages_fast()`, which takes no lock, no longer finds the page, or took its reference before the
/// entry was cleared: see [`LockedPage::is_pinned`].
#[must_use]
pub(super) struct Cleared(bindings::pte_t);

/// Proof that the range of a [`LockedTable`] was flushed from the TLBs. Lives no longer than its lock is held.
pub(super) struct Flushed<'a>(PhantomData<&'a ()>);

impl Unflushed {
    /// The entry is flushed: `_flush` was made after the entry was cleared, of the table that contains it.
    pub(super) fn flushed(self, _flush: &Flushed<'_>) -> Cleared {
        Cleared(self.0)
    }
}

impl Entry<'_> {
    /// Whether the entry maps the page for the CPU, without a mark of userfaultfd.
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

    /// The page that the entry maps, or mapped before it was cleared.
    pub(super) fn page(&self) -> &LockedPage<'_> {
        self.page
    }

    /// The VMA that contains the entry.
    pub(super) fn vma(&self) -> &StableVma<'_> {
        self.vma
    }

    /// Clears the entry and flushes it from all TLBs.
    pub(super) fn clear(&mut self) -> Cleared {
        // SAFETY: By the type invariant `entry` is the entry of `vma` at `addr`, and its page table lock is
        // held.
        Cleared(unsafe {
            shim::ptep_clear_flush(self.vma.as_ptr(), self.addr, self.entry.as_ptr())
        })
    }

    /// Clears the entry. The caller must flush it.
    pub(super) fn clear_unflushed(&mut self) -> Unflushed {
        let mm = self.vma.mm().as_raw();
        // SAFETY: By the type invariant `entry` is the entry at `addr` of a VMA of `mm`, and its page table
        // lock is held.
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

    /// Makes the page non-exclusive, as sharing requires. Returns false if it may be pinned.
    pub(super) fn try_share(&self, _cleared: &Cleared) -> bool {
        let (folio, page) = (self.page.folio(), self.page.as_ptr());
        // SAFETY: By the type invariant the entry mapped `page`, and its page table lock is held. The entry
        // is cleared and flushed, which `folio_try_share_anon_rmap_pte()` requires.
        unsafe {
            !shim::ksm_v_page_anon_exclusive(page)
                || shim::ksm_v_folio_try_share_anon_rmap_pte(folio, page) == 0
        }
    }

    /// Maps the shared page instead of the page. `sharer` was recorded for this entry.
    pub(super) fn map(&mut self, old: Cleared, sharer: &Sharer<'_>) {
        sharer.keep();
        let shared = sharer.shared();
        let (folio, page) = (shared.folio(), shared.as_ptr());
        // SAFETY: `shared` owns a reference to the shared page, and its folio lock is held as long as the
        // sharer exists. By the type invariant the page table lock is held. The new mapping gets a
        // reference of its own.
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

    /// Maps the zero page instead of the page. Marks the entry as `mm/ksm.c` does, so that the kernel
    /// counts it in `ksm_zero_pages`.
    pub(super) fn map_zero(&mut self, old: Cleared) {
        let mm = self.vma.mm().as_raw();
        // SAFETY: By the invariant of `StableVma` the VMA keeps the mm in place. The mapping of an
        // anonymous page ends here, and the zero page is none, so the counter of anonymous pages is
        // decremented.
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

    fn set(&mut self, pte: bindings::pte_t) {
        let mm = self.vma.mm().as_raw();
        // SAFETY: By the type invariant `entry` is the entry at `addr` of a VMA of `mm`, and its page table
        // lock is held. The callers have cleared the entry, as `set_pte_at()` requires.
        unsafe { shim::ksm_v_set_pte_at(mm, self.addr, self.entry.as_ptr(), pte) };
    }
}

/// A mapping that the rmap led to, with its page table locked.
///
/// # Invariants
///
/// `walk` stopped at an entry of `vma` that maps `page`, and holds the lock of the entry's page table.
pub(super) struct Mapping<'a> {
    walk: shim::page_vma_mapped_walk,
    vma: &'a StableVma<'a>,
    page: &'a LockedPage<'a>,
}

impl<'a> Mapping<'a> {
    /// Finds where `vma` maps `page`, at the address `addr` that the rmap gives, and locks the page table.
    pub(super) fn find(
        page: &'a LockedPage<'a>,
        vma: &'a StableVma<'a>,
        addr: usize,
    ) -> Option<Self> {
        Self::find_by(page, vma, addr, 0)
    }

    /// As [`Self::find`], for a caller that must not miss a mapping: `find` misses an entry while it is
    /// being changed (`ptep_modify_prot_start()`).
    pub(super) fn find_surely(
        page: &'a LockedPage<'a>,
        vma: &'a StableVma<'a>,
        addr: usize,
    ) -> Option<Self> {
        Self::find_by(page, vma, addr, shim::KSM_V_PVMW_SYNC)
    }

    fn find_by(
        page: &'a LockedPage<'a>,
        vma: &'a StableVma<'a>,
        addr: usize,
        flags: c_uint,
    ) -> Option<Self> {
        let mut walk = MaybeUninit::uninit();
        // SAFETY: The function initialises the walk. The folio is locked and referenced by `page`, and by
        // the invariant of `StableVma` the VMA is in place.
        let mut walk = unsafe {
            let (folio, vma) = (page.folio(), vma.as_ptr());
            shim::ksm_v_folio_vma_walk_init(walk.as_mut_ptr(), folio, vma, addr, flags);
            walk.assume_init()
        };
        // SAFETY: The walk was just initialised, with a locked folio and a VMA that is in place. The lock
        // that keeps the VMA also keeps its page tables from being freed. If the function returns false, it
        // has unlocked.
        if !unsafe { shim::page_vma_mapped_walk(&mut walk) } {
            return None;
        }
        // INVARIANT: The function returned true: the walk stopped at an entry that maps the page, with its
        // page table locked.
        Some(Mapping { walk, vma, page })
    }

    /// The entry, to be replaced. The caller must have started an invalidation that covers it.
    ///
    /// `None` if the entry does not map the page for the CPU, or has a mark of userfaultfd; also if the
    /// mapping is a huge one, because the page was split before.
    pub(super) fn entry(&mut self, _invalidation: &Invalidation<'_>) -> Option<Entry<'_>> {
        let entry = NonNull::new(self.walk.pte)?;
        // SAFETY: By the type invariant the lock of the entry's page table is held.
        if !unsafe { Entry::is_plain(entry) } {
            return None;
        }
        // INVARIANT: By the invariant of `Mapping` the walk stopped at an entry of `vma` that maps `page`,
        // and its page table lock is held as long as `self` is borrowed.
        Some(Entry {
            entry,
            addr: self.walk.address,
            vma: self.vma,
            page: self.page,
        })
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the walk stopped at an entry and holds the lock that is released
        // here.
        unsafe { shim::ksm_v_page_vma_mapped_walk_done(&mut self.walk) };
    }
}

/// A summary of the pages that are mapped in a part of a page table.
#[derive(Clone, Copy, Default)]
pub(crate) struct Population {
    /// A hash of the pages: other pages give another digest, except for rare collisions.
    pub(crate) digest: u32,
    /// The number of pages.
    pub(crate) pages: u32,
}

/// The page table entry of a huge page, locked until this is dropped.
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
        // INVARIANT: `pmd_trans_huge_lock()` returned the lock it took: the entry maps a huge page, or is its
        // migration entry.
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
        // SAFETY: The page is mapped by the entry, whose lock is held.
        let frame = self.head().map_or(0, |head| unsafe { frame_of(head) }.0);
        Population {
            digest: frame as u32 ^ (frame >> u32::BITS) as u32,
            pages: (range.len() / PAGE_SIZE) as u32,
        }
    }
}

impl Drop for LockedHuge {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the lock is held, and this drops it once.
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
        let entries = self.range.len() / PAGE_SIZE;
        let mut pages = 0;
        // SAFETY: By the type invariant `entries` entries begin at `first`, and the page table lock is
        // held.
        let digest = unsafe { shim::ksm_v_ptes_digest(self.first.as_ptr(), entries, &mut pages) };
        Population { digest, pages }
    }

    /// Whether another thread waits for the lock.
    pub(super) fn is_contended(&self) -> bool {
        // SAFETY: By the type invariant the lock is held, so its page table is in place.
        unsafe { shim::ksm_v_spin_is_contended(self.lock) }
    }

    /// The address of the first entry.
    pub(super) fn start(&self) -> usize {
        self.range.start
    }

    /// The entries with their addresses, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, *mut bindings::pte_t)> + '_ {
        let first = self.first.as_ptr();
        let addresses = self.range.clone().step_by(PAGE_SIZE).enumerate();
        addresses.map(move |(index, addr)| (addr, first.wrapping_add(index)))
    }

    /// The entry at `addr`, if it maps `page`. The caller must have started an invalidation that covers it.
    pub(super) fn entry(
        &'a self,
        addr: usize,
        page: &'a LockedPage<'a>,
        _invalidation: &Invalidation<'_>,
    ) -> Option<Entry<'a>> {
        if !self.range.contains(&addr) {
            return None;
        }
        let index = (addr - self.range.start) / PAGE_SIZE;
        // SAFETY: By the type invariant the entries of `range` follow `first`, and `addr` is in `range`.
        let entry = unsafe { self.first.add(index) };
        // SAFETY: By the type invariant the page table lock is held.
        let maps_page = unsafe {
            Entry::is_plain(entry)
                && shim::ksm_v_pte_pfn(shim::ksm_v_ptep_get(entry.as_ptr())) as u64
                    == page.frame().0
        };
        // INVARIANT: By the type invariant the page table lock is held as long as `self` is borrowed, and
        // `entry` is the entry of `vma` at `addr`. It maps `page`, as just checked.
        maps_page.then_some(Entry {
            entry,
            addr,
            vma: self.vma,
            page,
        })
    }

    /// Maps `copy`, a new page, instead of `original`, if the first entry maps `original`; `None` is the
    /// zero page in place of a merged page. The process owns the copy afterwards. The caller must have
    /// started an invalidation that covers the first entry.
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

    /// Flushes all of this range from the TLBs.
    pub(super) fn flush(&self) -> Flushed<'_> {
        // SAFETY: By the invariant of `StableVma` the VMA is in place, and the range lies within it.
        unsafe {
            shim::ksm_v_flush_tlb_ptes(self.vma.as_ptr(), self.range.start, self.range.end);
        }
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
