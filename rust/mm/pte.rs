// SPDX-License-Identifier: GPL-2.0

//! Page table entries that map a page to be replaced: one that the rmap leads to, or several of
//! one page table.
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

/// Secondary MMUs (KVM) have been told to forget pages, and wait until this is dropped.
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
    /// Invalidates the pages in `range`; `None` where a secondary MMU can't do that at once. Never
    /// sleeps: the driver of a GPU waits for the user's jobs to end.
    pub(super) fn try_start(vma: &'a StableVma<'_>, range: Range<usize>) -> Option<Self> {
        let mut notified = MaybeUninit::uninit();
        // SAFETY: Initialises the range; the area keeps the mm in place.
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
        // INVARIANT: It was just started: where there is an error, the kernel has ended what had
        // started. Moving it is fine: nothing points to it between the calls.
        (error == 0).then(|| Invalidation {
            range,
            _vma: PhantomData,
            _nts: NotThreadSafe,
        })
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_mmu_notifier_invalidate_range_end(&mut self.range) };
    }
}

/// The entry at `addr` of an area, which maps a page for the CPU, in the ordinary way.
///
/// # Invariants
///
/// For `'a` the lock of the page table is held in which `entry` is, the entry of `vma` at `addr`.
/// It mapped `page`, a folio of its own, when this was made.
pub(super) struct Entry<'a> {
    entry: NonNull<bindings::pte_t>,
    addr: usize,
    vma: &'a StableVma<'a>,
    page: &'a LockedPage<'a>,
}

/// What an entry held that was cleared. CPUs may still write to the page, by what their TLBs know.
#[must_use]
pub(super) struct Unflushed(bindings::pte_t);

/// What an entry held that was cleared and flushed: no CPU can write to the page through it, nor
/// find the page by it.
///
/// From here until the entry is set again, the CPUs fault on the address and wait for the page
/// table lock; `get_user_pages_fast()`, which takes no lock, no longer finds the page, or had
/// taken its reference before: see [`LockedPage::is_pinned`].
#[must_use]
pub(super) struct Cleared(bindings::pte_t);

/// Proof that the TLBs were flushed after entries were cleared.
pub(super) struct Flushed(());

impl Unflushed {
    /// `_flush` was made after the entry was cleared, and included it.
    pub(super) fn flushed(self, _flush: &Flushed) -> Cleared {
        Cleared(self.0)
    }
}

impl Entry<'_> {
    /// Whether the entry maps the page for the CPU, in the ordinary way.
    ///
    /// Not so: one that only a device uses, and one whose writes user space wants to hear of.
    ///
    /// # Safety
    ///
    /// The lock of the page table must be held in which `entry` is.
    unsafe fn is_plain(entry: NonNull<bindings::pte_t>) -> bool {
        // SAFETY: Promised by the caller.
        unsafe {
            let pte = shim::ksm_v_ptep_get(entry.as_ptr());
            shim::ksm_v_pte_present(pte) && !shim::ksm_v_pte_uffd(pte)
        }
    }

    /// The page that it maps, or did before it was cleared.
    pub(super) fn page(&self) -> &LockedPage<'_> {
        self.page
    }

    /// The area in which it is.
    pub(super) fn vma(&self) -> &StableVma<'_> {
        self.vma
    }

    /// Clears the entry and flushes it from all TLBs.
    pub(super) fn clear(&mut self) -> Cleared {
        // SAFETY: By the type invariant.
        Cleared(unsafe {
            shim::ptep_clear_flush(self.vma.as_ptr(), self.addr, self.entry.as_ptr())
        })
    }

    /// Clears the entry, to be flushed later.
    pub(super) fn clear_unflushed(&mut self) -> Unflushed {
        let mm = self.vma.mm().as_raw();
        // SAFETY: By the type invariant.
        Unflushed(unsafe { shim::ksm_v_ptep_get_and_clear(mm, self.addr, self.entry.as_ptr()) })
    }

    /// Puts back what was cleared: as if nothing had happened.
    pub(super) fn restore(&mut self, old: Cleared) {
        self.set(old.0);
    }

    /// The content of the page, which nobody can change until the entry is set again.
    ///
    /// # Safety
    ///
    /// The page must not be pinned. It is then written to through a mapping only, and one of
    /// several is read-only.
    pub(super) unsafe fn still_content(&self, _cleared: &Cleared) -> StillPage<'_> {
        // SAFETY: Promised by the caller; this entry is cleared.
        unsafe { StillPage::new(self.page.content()) }
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

    /// Maps the shared page in place of the page, for a sharer that was recorded for this entry.
    pub(super) fn map(&mut self, old: Cleared, sharer: &Sharer<'_>) {
        sharer.keep();
        let shared = sharer.shared();
        let (folio, page) = (shared.folio(), shared.as_ptr());
        // SAFETY: The shared page is referenced, and the page table lock is held. The new mapping
        // gets a reference of its own.
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

    /// Maps the zero page in place of the page, marked as `mm/ksm.c` marks it, so that the kernel
    /// counts it in `ksm_zero_pages`.
    pub(super) fn map_zero(&mut self, old: Cleared) {
        let mm = self.vma.mm().as_raw();
        // SAFETY: The area keeps the mm in place. The zero page is no anonymous page.
        let pte = unsafe {
            shim::ksm_v_ksm_map_zero_page(mm);
            shim::ksm_v_dec_mm_counter(mm, bindings::MM_ANONPAGES as c_int);
            shim::ksm_v_mk_ksm_zero_pte(self.addr, self.vma.page_prot())
        };
        self.finish(old, pte);
        trace::merge_zero(self.vma.mm(), self.addr, self.page);
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
        unsafe { shim::ksm_v_set_pte_at(mm, self.addr, self.entry.as_ptr(), pte) };
    }
}

/// A mapping that the rmap led to, its page table locked.
///
/// # Invariants
///
/// `walk` stopped at an entry of `vma` that maps `page`, and holds its page table's lock.
pub(super) struct Mapping<'a> {
    walk: shim::page_vma_mapped_walk,
    vma: &'a StableVma<'a>,
    page: &'a LockedPage<'a>,
}

impl<'a> Mapping<'a> {
    /// Finds where `vma` maps `page`, for which the rmap says `addr`, and locks the page table.
    pub(super) fn find(
        page: &'a LockedPage<'a>,
        vma: &'a StableVma<'a>,
        addr: usize,
    ) -> Option<Self> {
        Self::find_by(page, vma, addr, 0)
    }

    /// As [`Self::find`], for who has to know for certain that there is none: an entry that is being changed
    /// (`ptep_modify_prot_start()`) is missed there, for a moment.
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
        // SAFETY: Initialises the walk. The folio is locked and referenced, the area in place.
        let mut walk = unsafe {
            let (folio, vma) = (page.folio(), vma.as_ptr());
            shim::ksm_v_folio_vma_walk_init(walk.as_mut_ptr(), folio, vma, addr, flags);
            walk.assume_init()
        };
        // SAFETY: As above. When it returns false, it has cleaned up after itself.
        if !unsafe { shim::page_vma_mapped_walk(&mut walk) } {
            return None;
        }
        // INVARIANT: It stopped at an entry, its page table locked.
        Some(Mapping { walk, vma, page })
    }

    /// The entry, to be replaced: the invalidation that the caller must have started covers that.
    ///
    /// `None` where it does not map the page in the ordinary way. That may be a huge mapping, too:
    /// the page was split before.
    pub(super) fn entry(&mut self, _invalidation: &Invalidation<'_>) -> Option<Entry<'_>> {
        let entry = NonNull::new(self.walk.pte)?;
        // SAFETY: By the type invariant.
        if !unsafe { Entry::is_plain(entry) } {
            return None;
        }
        // INVARIANT: By that of this type.
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
        // SAFETY: By the type invariant the walk stopped at an entry.
        unsafe { shim::ksm_v_page_vma_mapped_walk_done(&mut self.walk) };
    }
}

/// Which pages are mapped in a part of a page table.
#[derive(Clone, Copy, Default)]
pub(crate) struct Population {
    /// Other pages give another number, with rare exceptions.
    pub(crate) digest: u32,
    /// How many they are.
    pub(crate) pages: u32,
}

/// The entry of a huge page, locked until this is dropped.
///
/// # Invariants
///
/// `lock`, that of `pmd`, is held, and the entry is that of a huge page, or of one that is being
/// migrated.
pub(super) struct LockedHuge {
    pmd: *mut bindings::pmd_t,
    lock: NonNull<bindings::spinlock_t>,
}

impl LockedHuge {
    /// Locks the entry `pmd`; `None` where it is not that of a huge page.
    ///
    /// # Safety
    ///
    /// `pmd` must be an entry of `vma`, and what keeps page tables of the area from being freed must
    /// be locked for as long as this exists.
    pub(super) unsafe fn lock(
        vma: *mut bindings::vm_area_struct,
        pmd: *mut bindings::pmd_t,
    ) -> Option<Self> {
        // SAFETY: Promised by the caller.
        let lock = NonNull::new(unsafe { shim::ksm_v_pmd_trans_huge_lock(pmd, vma) })?;
        // INVARIANT: It was just locked.
        Some(LockedHuge { pmd, lock })
    }

    /// The first page; `None` while it is being migrated.
    pub(super) fn head(&self) -> Option<NonNull<bindings::page>> {
        // SAFETY: By the type invariant: the entry can't change.
        unsafe {
            if !shim::ksm_v_pmd_trans_huge(self.pmd) {
                return None;
            }
            NonNull::new(shim::ksm_v_pmd_page(self.pmd))
        }
    }

    /// Which pages are mapped in a part of it.
    pub(super) fn population(&self, range: &Range<usize>) -> Population {
        // SAFETY: It is mapped, and locked.
        let frame = self.head().map_or(0, |head| unsafe { frame_of(head) }.0);
        Population {
            digest: frame as u32 ^ (frame >> u32::BITS) as u32,
            pages: (range.len() / PAGE_SIZE) as u32,
        }
    }
}

impl Drop for LockedHuge {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_spin_unlock(self.lock.as_ptr()) };
    }
}

/// A part of a page table, locked until this is dropped.
///
/// # Invariants
///
/// `lock`, that of the page table, is held. `first` is the entry of `vma` at `range.start`; the
/// others of `range` follow it.
pub(super) struct LockedTable<'a> {
    first: NonNull<bindings::pte_t>,
    range: Range<usize>,
    lock: *mut bindings::spinlock_t,
    vma: &'a StableVma<'a>,
}

impl<'a> LockedTable<'a> {
    /// Locks the page table that `pmd` refers to; `None` where it has gone, or become a huge page.
    ///
    /// # Safety
    ///
    /// `pmd` must be the entry for `range` of `vma`, which lies within one page table, and what keeps
    /// page tables of the area from being freed must be locked for `'a`.
    pub(super) unsafe fn lock(
        vma: &'a StableVma<'a>,
        pmd: *mut bindings::pmd_t,
        range: Range<usize>,
    ) -> Option<Self> {
        let (mm, mut lock) = (vma.mm().as_raw(), core::ptr::null_mut());
        // SAFETY: Promised by the caller.
        let first = unsafe { shim::pte_offset_map_lock(mm, pmd, range.start, &mut lock) };
        // INVARIANT: It was just locked.
        NonNull::new(first).map(|first| LockedTable {
            first,
            range,
            lock,
            vma,
        })
    }

    /// Which pages are mapped.
    pub(super) fn population(&self) -> Population {
        let entries = self.range.len() / PAGE_SIZE;
        let mut pages = 0;
        // SAFETY: By the type invariant there are so many entries, and they are locked.
        let digest = unsafe { shim::ksm_v_ptes_digest(self.first.as_ptr(), entries, &mut pages) };
        Population { digest, pages }
    }

    /// Whether someone else waits for the lock.
    pub(super) fn is_contended(&self) -> bool {
        // SAFETY: By the type invariant the lock is that of a page table that is in place.
        unsafe { shim::ksm_v_spin_is_contended(self.lock) }
    }

    /// The address of the first entry.
    pub(super) fn start(&self) -> usize {
        self.range.start
    }

    /// The entries, each with its address, from the first on.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, *mut bindings::pte_t)> + '_ {
        let first = self.first.as_ptr();
        let addresses = self.range.clone().step_by(PAGE_SIZE).enumerate();
        addresses.map(move |(index, addr)| (addr, first.wrapping_add(index)))
    }

    /// The entry at `addr`, if it maps `page`; the invalidation that the caller must have started
    /// covers what is done to it.
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
        // SAFETY: By the type invariant.
        let entry = unsafe { self.first.add(index) };
        // SAFETY: As above.
        let maps_page = unsafe {
            Entry::is_plain(entry)
                && shim::ksm_v_pte_pfn(shim::ksm_v_ptep_get(entry.as_ptr())) as u64
                    == page.frame().0
        };
        // INVARIANT: By that of this type, and as just seen.
        maps_page.then_some(Entry {
            entry,
            addr,
            vma: self.vma,
            page,
        })
    }

    /// Maps `copy`, which is new, in place of `original` (`None`: of the zero page that stands for a merged
    /// page), if the first entry maps that. The process owns it then. The invalidation that the caller must
    /// have started covers that.
    pub(super) fn map_copy(
        &self,
        original: Option<&SharedPage>,
        copy: &PageRef,
        _invalidation: &Invalidation<'_>,
    ) -> bool {
        let (vma, mm) = (self.vma.as_ptr(), self.vma.mm().as_raw());
        let (entry, addr) = (self.first.as_ptr(), self.range.start);
        // SAFETY: By the type invariant.
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
        // SAFETY: The page table lock is held. The new page is referenced, charged, and known to nobody
        // else; the mapping gets a reference of its own, and that to the old page is given up, which the
        // caller refers to.
        unsafe {
            // Flushed before it is set: all CPUs see either page, never both.
            shim::ptep_clear_flush(vma, addr, entry);
            shim::ksm_v_folio_get(copy.folio());
            let exclusive = shim::KSM_V_RMAP_EXCLUSIVE;
            shim::folio_add_new_anon_rmap(copy.folio(), vma, addr, exclusive);
            // In a locked area, too: reclaim moves it to where it belongs, and not to swap.
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

    /// Flushes all of this part from the TLBs.
    pub(super) fn flush(&self) -> Flushed {
        // SAFETY: By the type invariant the area is in place.
        unsafe {
            shim::ksm_v_flush_tlb_ptes(self.vma.as_ptr(), self.range.start, self.range.end);
        }
        Flushed(())
    }
}

impl Drop for LockedTable<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_pte_unmap_unlock(self.first.as_ptr(), self.lock) };
    }
}
