// SPDX-License-Identifier: GPL-2.0

//! A page by its frame number: references, content, the folio lock.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h)

use crate::mm::compare;
use crate::mm::sharers::Token;
use crate::shim;
use core::cell::Cell;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use engine::content::WORDS;
use engine::Content;
use engine::Frame;
use kernel::bindings;
use kernel::prelude::*;

/// What kind of page a frame holds, as far as merging cares.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An anonymous page that is not merged.
    Anonymous,
    /// Merged by this module: a KSM page without a stable node. ksmd makes one for a moment, too.
    Merged,
    /// Anything else: page cache, hugetlb, device memory, a page merged by ksmd.
    Other,
}

/// The NUMA node of a frame; `None` where its memory is offline.
pub(super) fn node_of(frame: Frame) -> Option<i32> {
    let pfn = usize::try_from(frame.0).ok()?;
    // SAFETY: Any frame number may be asked for.
    let page = NonNull::new(unsafe { shim::ksm_v_pfn_to_online_page(pfn) })?;
    // SAFETY: An online page has a `struct page`.
    Some(unsafe { shim::ksm_v_page_to_nid(page.as_ptr()) })
}

/// A counted reference to a page.
///
/// # Invariants
///
/// `page` belongs to `folio`, to which this owns one reference. So nobody else can split that folio:
/// who does has to have the only such reference ([`LockedPage::split`]).
pub(crate) struct PageRef {
    page: NonNull<bindings::page>,
    folio: Cell<NonNull<bindings::folio>>,
}

// SAFETY: A reference to a folio may be dropped by any thread.
unsafe impl Send for PageRef {}

impl PageRef {
    /// Takes a reference to the page of frame `frame`, if one is in use there.
    ///
    /// Nothing keeps a frame number from being reused: what was known of the page has to be
    /// looked at anew.
    pub(crate) fn get(frame: Frame) -> Option<Self> {
        let pfn = usize::try_from(frame.0).ok()?;
        // SAFETY: Any frame number may be asked for.
        let page = NonNull::new(unsafe { shim::ksm_v_pfn_to_online_page(pfn) })?;
        // SAFETY: An online page has a `struct page`, and so a folio.
        let folio = unsafe { shim::ksm_v_page_folio(page.as_ptr()) };
        // SAFETY: As above; fails where the folio is free.
        if !unsafe { shim::ksm_v_folio_try_get(folio) } {
            return None;
        }
        // SAFETY: As above.
        if unsafe { shim::ksm_v_page_folio(page.as_ptr()) } != folio {
            // Freed, split or joined before the reference was taken.
            // SAFETY: The reference was just taken.
            unsafe { shim::ksm_v_folio_put(folio) };
            return None;
        }
        // INVARIANT: With the reference held, the page can't leave the folio.
        NonNull::new(folio).map(|folio| PageRef {
            page,
            folio: Cell::new(folio),
        })
    }

    /// As [`Self::get`], if the page could be merged.
    pub(crate) fn candidate(frame: Frame) -> Option<Self> {
        Self::get(frame).filter(|page| {
            page.kind() == Kind::Anonymous && !page.is_poisoned() && !page.is_tagged()
        })
    }

    /// Takes over a reference to a newly allocated folio of one page.
    ///
    /// # Safety
    ///
    /// The caller gives up its reference to `folio`.
    pub(super) unsafe fn from_new(folio: NonNull<bindings::folio>) -> Self {
        // SAFETY: A folio has a first page.
        let page = unsafe { shim::ksm_v_folio_page(folio.as_ptr(), 0) };
        // INVARIANT: The caller's reference becomes this one's.
        PageRef {
            // SAFETY: Part of a valid folio.
            page: unsafe { NonNull::new_unchecked(page) },
            folio: Cell::new(folio),
        }
    }

    /// Gives up some references: with less effort than one by one, where the pages are freed by that.
    pub(crate) fn put_all<const N: usize>(pages: impl Iterator<Item = PageRef>) {
        let mut given_up = [core::ptr::null_mut(); N];
        let mut count = 0;
        for (place, page) in given_up.iter_mut().zip(pages) {
            *place = ManuallyDrop::new(page).as_ptr();
            count += 1;
        }
        // SAFETY: By the type invariants one reference each is owned, and is not dropped otherwise.
        unsafe { shim::ksm_v_release_pages(given_up.as_mut_ptr(), count) };
    }

    /// The frame number.
    pub(crate) fn frame(&self) -> Frame {
        // SAFETY: By the type invariant.
        unsafe { frame_of(self.page) }
    }

    /// What kind of page it is now.
    pub(crate) fn kind(&self) -> Kind {
        // SAFETY: By the type invariant.
        unsafe { kind_of(self.folio.get()) }
    }

    /// What a merged page says of its set; `None` of any other page.
    pub(super) fn token(&self) -> Option<Token> {
        if self.kind() != Kind::Merged {
            return None;
        }
        // SAFETY: By the type invariant.
        Some(unsafe { token_of(self.folio.get()) })
    }

    /// Has it say another token from now on. Only for a merged page, or one that is becoming such.
    pub(super) fn set_token_index(&self, index: u64) {
        // SAFETY: By the type invariant. Nothing reads the index of a KSM folio.
        unsafe { shim::ksm_v_folio_set_index(self.folio(), index as usize) };
    }

    /// Whether its memory has failed: reading it may bring the machine down.
    pub(crate) fn is_poisoned(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_page_hwpoison(self.as_ptr()) }
    }

    /// Whether it has memory tags, which are not among its bytes.
    pub(crate) fn is_tagged(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { is_tagged(self.page) }
    }

    /// Whether it is part of a folio of several pages.
    pub(crate) fn is_large(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_folio_test_large(self.folio()) }
    }

    /// How many page table entries map its folio.
    pub(crate) fn mappings(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { mappings_of(self.folio.get()) }
    }

    /// Makes the content readable.
    #[inline]
    pub(crate) fn content(&self) -> MappedPage<'_> {
        // SAFETY: By the type invariant, for as long as this is borrowed.
        unsafe { MappedPage::at(shim::ksm_v_page_address(self.as_ptr()).cast()) }
    }

    /// Locks the folio if nobody else has; never waits.
    pub(crate) fn try_lock(&self) -> Option<LockedPage<'_>> {
        // SAFETY: By the type invariant.
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

    /// The folio it belongs to now.
    pub(super) fn folio(&self) -> *mut bindings::folio {
        self.folio.get().as_ptr()
    }
}

impl Drop for PageRef {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant this reference is owned.
        unsafe { shim::ksm_v_folio_put(self.folio()) };
    }
}

/// The frame number of `page`.
///
/// # Safety
///
/// `page` must be referenced, or mapped by a page table whose lock is held.
pub(super) unsafe fn frame_of(page: NonNull<bindings::page>) -> Frame {
    // SAFETY: Promised by the caller.
    Frame(unsafe { shim::ksm_v_page_to_pfn(page.as_ptr()) } as u64)
}

/// The frame number of a folio of one page.
///
/// # Safety
///
/// `folio` must be referenced.
pub(super) unsafe fn frame_of_folio(folio: NonNull<bindings::folio>) -> Frame {
    // SAFETY: A folio has a first page, which is referenced with it.
    unsafe {
        let page = shim::ksm_v_folio_page(folio.as_ptr(), 0);
        frame_of(NonNull::new_unchecked(page))
    }
}

/// What `folio`, a merged page, says of its set.
///
/// # Safety
///
/// As [`frame_of`].
unsafe fn token_of(folio: NonNull<bindings::folio>) -> Token {
    // SAFETY: Promised by the caller.
    Token::of_index(unsafe { shim::ksm_v_folio_index(folio.as_ptr()) } as u64)
}

/// Whether `page` has memory tags: only arm64 has such, and the kernel keeps account of the pages.
///
/// It does from when a page table first maps the page for a process that wants tags, until it is freed.
///
/// # Safety
///
/// As [`frame_of`].
#[inline]
pub(super) unsafe fn is_tagged(page: NonNull<bindings::page>) -> bool {
    // SAFETY: Promised by the caller.
    cfg!(CONFIG_ARM64_MTE) && unsafe { shim::ksm_v_page_mte_tagged(page.as_ptr()) }
}

/// How many page table entries map `folio`.
///
/// # Safety
///
/// As [`frame_of`].
unsafe fn mappings_of(folio: NonNull<bindings::folio>) -> u32 {
    // SAFETY: Promised by the caller.
    let count = unsafe { shim::ksm_v_folio_mapcount(folio.as_ptr()) };
    u32::try_from(count).unwrap_or(0)
}

/// What kind of page a folio with this `mapping` holds, as page tables of a process see it:
/// [`kind_of`] is stricter.
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

/// What kind of page `folio` holds.
///
/// # Safety
///
/// `folio` must be referenced, or mapped by a page table whose lock is held.
pub(super) unsafe fn kind_of(folio: NonNull<bindings::folio>) -> Kind {
    // SAFETY: Promised by the caller.
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

/// A page whose folio lock is held: its kind and its place in the swap cache can't change, and
/// nobody else can split it.
///
/// # Invariants
///
/// The folio lock is held.
pub(crate) struct LockedPage<'a> {
    page: &'a PageRef,
}

impl LockedPage<'_> {
    /// Makes the page a folio of its own, if it is part of a large one.
    ///
    /// # Errors
    ///
    /// `EBUSY`, `EAGAIN`: someone else has a reference to the folio, or it is under writeback.
    pub(super) fn split(&self) -> Result {
        if !self.is_large() {
            return Ok(());
        }
        // SAFETY: By the type invariants the folio is referenced and locked. The reference and the lock
        // move to the page's new folio.
        kernel::error::to_result(unsafe { shim::ksm_v_split_huge_page(self.as_ptr()) })?;
        // SAFETY: By the type invariant.
        let folio = NonNull::new(unsafe { shim::ksm_v_page_folio(self.as_ptr()) });
        // INVARIANT: The reference is to this folio now.
        folio.into_iter().for_each(|folio| self.folio.set(folio));
        Ok(())
    }

    /// Whether anything but its mappings, the swap cache and the owner of this refers to the page.
    ///
    /// As `write_protect_page()` in `mm/ksm.c`. To be asked while the mapping is cleared and
    /// flushed: that still counts, and nobody finds the page by it any more.
    pub(super) fn is_pinned(&self) -> bool {
        let folio = self.folio();
        // SAFETY: The folio is referenced, and its lock keeps it in or out of the swap cache.
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
            // SAFETY: By the type invariants the folio is referenced and locked. Does nothing
            // where it has no swap slot, or one that is still needed.
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
        // SAFETY: By the type invariant the lock is held.
        unsafe { bindings::folio_unlock(self.page.folio()) };
    }
}

/// The content of a page, which its owner may be writing to.
///
/// # Invariants
///
/// `words` points to the page, in the kernel's linear mapping, for as long as this exists.
pub(crate) struct MappedPage<'a> {
    words: *const u64,
    _page: PhantomData<&'a PageRef>,
}

// All memory is in the linear mapping: there is nothing to map for a moment, and to unmap.
const _: () = assert!(!cfg!(CONFIG_HIGHMEM));

impl MappedPage<'_> {
    /// # Safety
    ///
    /// There is a page, in the linear mapping, that is referenced for as long as this exists, or mapped
    /// by a page table whose lock is held.
    #[inline]
    pub(super) unsafe fn at(words: *const u64) -> Self {
        // INVARIANT: Promised by the caller.
        MappedPage {
            words,
            _page: PhantomData,
        }
    }

    #[cfg(CONFIG_X86_64)]
    #[inline]
    pub(super) fn as_ptr(&self) -> *const kernel::ffi::c_void {
        self.words.cast()
    }

    /// Whether all of it can be read, as far as the architecture can tell. To be asked before words are
    /// read that are many: a load from memory that has failed ends the machine.
    #[inline]
    pub(crate) fn is_readable(&self) -> bool {
        compare::is_readable(self)
    }

    /// The same page, to read a few words of: what fails is read as some number.
    #[inline]
    pub(super) fn sample(&self) -> SampledPage<'_> {
        SampledPage(self)
    }
}

/// A page of which a few words are read, whether its memory has failed or not.
pub(super) struct SampledPage<'a>(&'a MappedPage<'a>);

impl Content for SampledPage<'_> {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        if index >= WORDS {
            return 0;
        }
        // SAFETY: Within the page, by the invariant of its type.
        unsafe { compare::read(self.0.words, index) }
    }
}

impl Content for MappedPage<'_> {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        if index >= WORDS {
            return 0;
        }
        // SAFETY: Within the page, by the type invariant. Volatile: user space may write to it.
        unsafe { self.words.add(index).read_volatile() }
    }

    #[inline]
    fn is_zero(&self) -> bool {
        compare::is_zero(self)
    }
}

/// The content of a page that nobody writes to: what is found of it stays true.
///
/// # Invariants
///
/// Nobody writes to the page for as long as this exists.
pub(crate) struct StillPage<'a>(MappedPage<'a>);

impl<'a> StillPage<'a> {
    /// # Safety
    ///
    /// Nobody may write to the page for as long as this exists.
    pub(super) unsafe fn new(page: MappedPage<'a>) -> Self {
        // INVARIANT: Promised by the caller.
        StillPage(page)
    }
}

impl<'a> Deref for StillPage<'a> {
    type Target = MappedPage<'a>;

    fn deref(&self) -> &MappedPage<'a> {
        &self.0
    }
}
