// SPDX-License-Identifier: GPL-2.0

//! The content of a page, in the kernel's linear mapping: who may be writing to it. [`crate::mm::compare`] reads it.
//!
//! - [`MappedPage`]: its owner may write to it at the same time.
//! - [`SampledPage`]: a few words of it, which may be read even if its memory has failed.
//! - [`StillPage`]: nobody writes to it, so that the result of a comparison stays valid.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h) (`page_address()`)

use core::marker::PhantomData;
use core::ops::Deref;

/// The content of a page. Its owner may be writing to it at the same time.
///
/// # Invariants
///
/// `words` points to the page in the kernel's linear mapping. The page is valid as long as this exists.
pub(crate) struct MappedPage<'a> {
    words: *const u64,
    _page: PhantomData<&'a ()>,
}

// All memory is in the linear mapping, so no page has to be mapped temporarily.
const _: () = assert!(!cfg!(CONFIG_HIGHMEM));

impl MappedPage<'_> {
    /// The page at `words`.
    ///
    /// # Safety
    ///
    /// `words` must point to a page in the linear mapping. While this exists, the page must be referenced,
    /// or mapped by a page table whose lock is held.
    #[inline]
    pub(super) unsafe fn at(words: *const u64) -> Self {
        // INVARIANT: The caller promises that `words` points to a page that is valid as long as this
        // exists.
        MappedPage {
            words,
            _page: PhantomData,
        }
    }

    /// The first word of the page. The page is valid as long as `self` exists.
    #[inline]
    pub(super) fn words(&self) -> *const u64 {
        self.words
    }

    /// The same page, to read a few words. A word whose memory has failed reads as an arbitrary number.
    #[inline]
    pub(super) fn sample(&self) -> SampledPage<'_> {
        SampledPage(self)
    }
}

/// A page from which a few words are read, even if its memory has failed.
pub(super) struct SampledPage<'a>(pub(super) &'a MappedPage<'a>);

/// The content of a page that nobody writes to, so that a comparison stays valid.
///
/// # Invariants
///
/// Nobody writes to the page while this exists.
pub(crate) struct StillPage<'a>(MappedPage<'a>);

impl<'a> StillPage<'a> {
    /// The page, which is still.
    ///
    /// # Safety
    ///
    /// Nobody may write to the page while this exists.
    pub(super) unsafe fn new(page: MappedPage<'a>) -> Self {
        // INVARIANT: The caller promises that nobody writes to the page while this exists.
        StillPage(page)
    }
}

impl<'a> Deref for StillPage<'a> {
    type Target = MappedPage<'a>;

    fn deref(&self) -> &MappedPage<'a> {
        &self.0
    }
}
