// SPDX-License-Identifier: GPL-2.0

//! A page, identified by its frame number: references, and the folio lock.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h)

use crate::mm::content::MappedPage;
use crate::mm::sharers::Token;
use crate::shim;
use core::cell::Cell;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ops::Range;
use core::ptr::NonNull;
use engine::content::PAGE_SIZE;
use engine::Frame;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

/// The kind of page that a frame holds, as far as merging is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An anonymous page that was not merged.
    Anonymous,
    /// A KSM page without a stable node: merged by this module, or by ksmd for a moment.
    Merged,
    /// Any other page: page cache, hugetlb, device memory, or a page merged by ksmd.
    Other,
}

/// The NUMA node of a frame; `None` if its memory is offline.
pub(super) fn node_of(frame: Frame) -> Option<i32> {
    let pfn = usize::try_from(frame.0).ok()?;
    // SAFETY: The function accepts any frame number, and returns null if it is not online.
    let page = NonNull::new(unsafe { shim::ksm_v_pfn_to_online_page(pfn) })?;
    // SAFETY: The frame is online, so its `struct page` exists.
    Some(unsafe { shim::ksm_v_page_to_nid(page.as_ptr()) })
}

/// Whether the page on `frame` is part of a large page at this moment.
pub(crate) fn is_in_large_page(frame: Frame) -> bool {
    // SAFETY: The function accepts any frame number.
    usize::try_from(frame.0).is_ok_and(|pfn| unsafe { shim::ksm_v_pfn_is_large(pfn) })
}

/// A counted reference to a page.
///
/// # Invariants
///
/// `page` belongs to `folio`, to which this owns one reference. So nobody else can split the folio:
/// splitting requires that there is no other such reference ([`LockedPage::split`]).
pub(crate) struct PageRef {
    page: NonNull<bindings::page>,
    folio: Cell<NonNull<bindings::folio>>,
}

// SAFETY: Any thread may drop a reference to a folio, and a `PageRef` has no other tie to its thread.
unsafe impl Send for PageRef {}

impl PageRef {
    /// Takes a reference to the page of frame `frame`, if the frame is in use.
    ///
    /// The frame may have been reused at any time. The caller must check again what it knew about the page.
    pub(crate) fn get(frame: Frame) -> Option<Self> {
        let pfn = usize::try_from(frame.0).ok()?;
        // SAFETY: The function accepts any frame number, and returns null if it is not online.
        let page = NonNull::new(unsafe { shim::ksm_v_pfn_to_online_page(pfn) })?;
        // SAFETY: The frame is online, so its `struct page` exists, and `page_folio()` returns the folio
        // that it belongs to or belonged to.
        let folio = unsafe { shim::ksm_v_page_folio(page.as_ptr()) };
        // SAFETY: The folio's `struct page` is online. `folio_try_get()` fails if the folio is free.
        if !unsafe { shim::ksm_v_folio_try_get(folio) } {
            return None;
        }
        // SAFETY: The frame is online, so its `struct page` exists.
        if unsafe { shim::ksm_v_page_folio(page.as_ptr()) } != folio {
            // The folio was freed, split or made part of a larger one before the reference was taken.
            // SAFETY: The reference was just taken, and is given up once.
            unsafe { shim::ksm_v_folio_put(folio) };
            return None;
        }
        // INVARIANT: A reference to the folio was taken, and the page belonged to the folio afterwards. It
        // can't leave the folio while the reference is held.
        NonNull::new(folio).map(|folio| PageRef {
            page,
            folio: Cell::new(folio),
        })
    }

    /// As [`Self::get`], but only for a page that could be merged.
    pub(crate) fn candidate(frame: Frame) -> Option<Self> {
        Self::get(frame).filter(|page| {
            page.kind() == Kind::Anonymous && !page.is_poisoned() && !page.is_tagged()
        })
    }

    /// Takes over a reference to a newly allocated folio of one page.
    ///
    /// # Safety
    ///
    /// The caller must own a reference to `folio`, and gives it up.
    pub(super) unsafe fn from_new(folio: NonNull<bindings::folio>) -> Self {
        // SAFETY: The caller owns a reference to the folio, and a folio has a first page.
        let page = unsafe { shim::ksm_v_folio_page(folio.as_ptr(), 0) };
        // INVARIANT: The caller gives its reference to this `PageRef`, and the page is the first of the folio.
        PageRef {
            // SAFETY: The first page of a valid folio is not null.
            page: unsafe { NonNull::new_unchecked(page) },
            folio: Cell::new(folio),
        }
    }

    /// Drops up to `N` references together, which is cheaper if the pages are freed by that.
    pub(crate) fn put_all<const N: usize>(pages: impl Iterator<Item = PageRef>) {
        let mut given_up = [core::ptr::null_mut(); N];
        let mut count = 0;
        for (place, page) in given_up.iter_mut().zip(pages) {
            *place = ManuallyDrop::new(page).as_ptr();
            count += 1;
        }
        // SAFETY: By the type invariant each of the first `count` elements stands for an owned reference.
        // `ManuallyDrop` keeps them from being dropped a second time.
        unsafe { shim::ksm_v_release_pages(given_up.as_mut_ptr(), count) };
    }

    /// The frame number.
    pub(crate) fn frame(&self) -> Frame {
        // SAFETY: By the type invariant the page is referenced.
        unsafe { frame_of(self.page) }
    }

    /// The current kind of the page.
    pub(crate) fn kind(&self) -> Kind {
        // SAFETY: By the type invariant the folio is referenced.
        unsafe { kind_of(self.folio.get()) }
    }

    /// The token of a merged page, which identifies its set; `None` for any other page.
    pub(super) fn token(&self) -> Option<Token> {
        if self.kind() != Kind::Merged {
            return None;
        }
        // SAFETY: By the type invariant the folio is referenced.
        Some(unsafe { token_of(self.folio.get()) })
    }

    /// Sets the index of the folio, and so its token. Only for a merged page, or for one that is becoming a
    /// merged page.
    pub(super) fn set_token_index(&self, index: u64) {
        // SAFETY: By the type invariant the folio is referenced. The kernel does not read the index of a
        // KSM folio.
        unsafe { shim::ksm_v_folio_set_index(self.folio(), index as usize) };
    }

    /// Whether the page's memory has failed. Reading it may crash the machine.
    pub(crate) fn is_poisoned(&self) -> bool {
        // SAFETY: By the type invariant the page is referenced.
        unsafe { shim::ksm_v_page_hwpoison(self.as_ptr()) }
    }

    /// Whether the page has memory tags, which are not among its bytes.
    pub(crate) fn is_tagged(&self) -> bool {
        // SAFETY: By the type invariant the page is referenced.
        unsafe { is_tagged(self.page) }
    }

    /// Whether the page is part of a folio of several pages.
    pub(crate) fn is_large(&self) -> bool {
        // SAFETY: By the type invariant the folio is referenced.
        unsafe { shim::ksm_v_folio_test_large(self.folio()) }
    }

    /// The number of pages in the folio.
    pub(crate) fn parts(&self) -> u32 {
        // SAFETY: By the type invariant the folio is referenced.
        unsafe { shim::ksm_v_folio_nr_pages(self.folio()) }
    }

    /// The number of pages of the folio before this one.
    pub(crate) fn part(&self) -> u64 {
        // The first frame of a folio is a multiple of the number of its pages.
        let part = self.frame().0.checked_rem(self.parts().into());
        part.unwrap_or(0)
    }

    /// The addresses at which the large page is mapped that this page, mapped at `addr`, is part of. `None` if it is
    /// not large, or if some of its parts are mapped no more.
    pub(crate) fn large_at(&self, addr: usize) -> Option<Range<usize>> {
        if !self.is_large() || self.is_partially_mapped() {
            return None;
        }
        let before = (self.part() as usize).checked_mul(PAGE_SIZE)?;
        let start = addr.checked_sub(before)?;
        let bytes = (self.parts() as usize).checked_mul(PAGE_SIZE)?;
        Some(start..start.checked_add(bytes)?)
    }

    /// Whether some pages of the folio are mapped no more. Racy: the kernel sets the mark when it unmaps them.
    pub(crate) fn is_partially_mapped(&self) -> bool {
        // SAFETY: By the type invariant the folio is referenced, so it stays large if it is.
        self.is_large() && unsafe { shim::ksm_v_folio_test_partially_mapped(self.folio()) }
    }

    /// The number of page table entries that map the folio.
    pub(crate) fn mappings(&self) -> u32 {
        // SAFETY: By the type invariant the folio is referenced.
        unsafe { mappings_of(self.folio.get()) }
    }

    /// The content of the page, to be read.
    #[inline]
    pub(crate) fn content(&self) -> MappedPage<'_> {
        // SAFETY: By the type invariant the page is referenced while `self` is borrowed. All memory is in
        // the linear mapping, see `crate::mm::content`.
        unsafe { MappedPage::at(shim::ksm_v_page_address(self.as_ptr()).cast()) }
    }

    /// Locks the folio if nobody else holds its lock. Never waits.
    pub(crate) fn try_lock(&self) -> Option<LockedPage<'_>> {
        // SAFETY: By the type invariant the folio is referenced.
        if unsafe { shim::ksm_v_folio_trylock(self.folio()) } {
            // INVARIANT: The lock was just taken.
            Some(LockedPage { page: self })
        } else {
            None
        }
    }

    /// The page.
    pub(super) fn as_ptr(&self) -> *mut bindings::page {
        self.page.as_ptr()
    }

    /// The folio that the page belongs to now.
    pub(super) fn folio(&self) -> *mut bindings::folio {
        self.folio.get().as_ptr()
    }
}

impl Drop for PageRef {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant this owns the reference, which nothing else drops.
        unsafe { shim::ksm_v_folio_put(self.folio()) };
    }
}

/// Number of large pages that were split since the module was loaded.
static SPLITS: Atomic<u64> = Atomic::new(0);

/// Number of large pages that were split since the module was loaded, huge pages and smaller ones.
pub(crate) fn splits() -> u64 {
    SPLITS.load(Relaxed)
}

/// The frame number of `page`.
///
/// # Safety
///
/// `page` must be referenced, or mapped by a page table whose lock is held.
pub(super) unsafe fn frame_of(page: NonNull<bindings::page>) -> Frame {
    // SAFETY: The caller promises that the page is referenced or mapped, so its `struct page` is valid.
    Frame(unsafe { shim::ksm_v_page_to_pfn(page.as_ptr()) } as u64)
}

/// The frame number of a folio's first page.
///
/// # Safety
///
/// `folio` must be referenced.
pub(super) unsafe fn frame_of_folio(folio: NonNull<bindings::folio>) -> Frame {
    // SAFETY: The caller promises that the folio is referenced. Its first page is not null, and is
    // referenced with it.
    unsafe {
        let page = shim::ksm_v_folio_page(folio.as_ptr(), 0);
        frame_of(NonNull::new_unchecked(page))
    }
}

/// The token of `folio`, a merged page.
///
/// # Safety
///
/// `folio` must be referenced, or mapped by a page table whose lock is held.
unsafe fn token_of(folio: NonNull<bindings::folio>) -> Token {
    // SAFETY: The caller promises that the folio is referenced or mapped, so it is valid.
    Token::of_index(unsafe { shim::ksm_v_folio_index(folio.as_ptr()) } as u64)
}

/// Whether `page` has memory tags. Only arm64 has such tags; the kernel marks the pages that have them.
///
/// A page is marked when it is first mapped for a process that wants tags, and stays marked until it is
/// freed.
///
/// # Safety
///
/// `page` must be referenced, or mapped by a page table whose lock is held.
#[inline]
pub(super) unsafe fn is_tagged(page: NonNull<bindings::page>) -> bool {
    // SAFETY: The caller promises that the page is referenced or mapped, so its `struct page` is valid.
    cfg!(CONFIG_ARM64_MTE) && unsafe { shim::ksm_v_page_mte_tagged(page.as_ptr()) }
}

/// The number of page table entries that map `folio`.
///
/// # Safety
///
/// `folio` must be referenced, or mapped by a page table whose lock is held.
unsafe fn mappings_of(folio: NonNull<bindings::folio>) -> u32 {
    // SAFETY: The caller promises that the folio is referenced or mapped, so it is valid.
    let count = unsafe { shim::ksm_v_folio_mapcount(folio.as_ptr()) };
    u32::try_from(count).unwrap_or(0)
}

/// The kind of page that a folio with this `mapping` holds, if a page table of a process maps it. Other
/// folios need [`kind_of`], which checks more.
#[inline]
pub(super) fn kind_of_mapping(mapping: usize) -> Kind {
    if mapping == shim::KSM_V_FOLIO_MAPPING_KSM {
        Kind::Merged
    } else if mapping & shim::KSM_V_FOLIO_MAPPING_FLAGS == shim::KSM_V_FOLIO_MAPPING_ANON {
        Kind::Anonymous
    } else {
        Kind::Other
    }
}

/// The kind of page that `folio` holds.
///
/// # Safety
///
/// `folio` must be referenced, or mapped by a page table whose lock is held.
pub(super) unsafe fn kind_of(folio: NonNull<bindings::folio>) -> Kind {
    // SAFETY: The caller promises that the folio is referenced or mapped, so it is valid.
    unsafe {
        if shim::ksm_v_folio_test_hugetlb(folio.as_ptr())
            || shim::ksm_v_folio_is_zone_device(folio.as_ptr())
        {
            Kind::Other
        } else {
            kind_of_mapping(shim::ksm_v_folio_raw_mapping(folio.as_ptr()))
        }
    }
}

/// A page whose folio lock is held. Its kind can't change, it can't enter or leave the swap cache, and
/// nobody else can split it.
///
/// # Invariants
///
/// The folio lock is held.
pub(crate) struct LockedPage<'a> {
    page: &'a PageRef,
}

impl LockedPage<'_> {
    /// Makes the page a folio of its own, if it is part of a large folio.
    ///
    /// # Errors
    ///
    /// `EBUSY`, `EAGAIN`: somebody else has a reference to the folio, or it is under writeback.
    pub(super) fn split(&self) -> Result {
        if !self.is_large() {
            return Ok(());
        }
        // SAFETY: By the type invariants the folio is referenced and locked. The reference and the lock
        // move to the page's new folio.
        kernel::error::to_result(unsafe { shim::ksm_v_split_huge_page(self.as_ptr()) })?;
        SPLITS.fetch_add(1, Relaxed);
        // SAFETY: By the type invariant of `PageRef` the page is still referenced.
        let folio = NonNull::new(unsafe { shim::ksm_v_page_folio(self.as_ptr()) });
        // INVARIANT: The reference is now to this folio, and the page belongs to it.
        folio.into_iter().for_each(|folio| self.folio.set(folio));
        Ok(())
    }

    /// Whether anything else refers to the page than its mappings, the swap cache and this reference.
    ///
    /// As in `write_protect_page()` in `mm/ksm.c`. Must be called while the mapping is cleared and flushed:
    /// the mapping and its reference still count then, and nobody finds the page through the entry any
    /// more.
    pub(super) fn is_pinned(&self) -> bool {
        let folio = self.folio();
        // SAFETY: By the type invariants the folio is referenced and locked. The lock keeps it in the swap
        // cache or out of it.
        unsafe {
            let swapcache = i32::from(shim::ksm_v_folio_test_swapcache(folio));
            let expected = shim::ksm_v_folio_mapcount(folio)
                .wrapping_add(1)
                .wrapping_add(swapcache);
            expected != shim::ksm_v_folio_ref_count(folio)
        }
    }

    /// Frees the swap slot of a page that nothing maps any more.
    pub(super) fn free_swap_if_unmapped(&self) {
        if self.mappings() == 0 {
            // SAFETY: By the type invariants the folio is referenced and locked. The function does nothing
            // if there is no swap slot, or if the slot is still needed.
            unsafe { shim::folio_free_swap(self.folio()) };
        }
    }
}

impl Deref for LockedPage<'_> {
    type Target = PageRef;

    fn deref(&self) -> &PageRef {
        self.page
    }
}

impl Drop for LockedPage<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the lock is held, and it is released once.
        unsafe { bindings::folio_unlock(self.page.folio()) };
    }
}
