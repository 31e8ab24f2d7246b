// SPDX-License-Identifier: GPL-2.0

//! Decides whether a page is merged: compares its bytes with those of its replacement, once nobody can write to
//! it any more. Every merge ends here ([`verify_and_replace`]), whether [`crate::mm::merge`] or
//! [`crate::mm::neighbours`] has cleared the entry.
//!
//! [`crate::mm::compare`] reads the bytes.

use crate::mm::compare;
use crate::mm::content::MappedPage;
use crate::mm::content::StillPage;
use crate::mm::entry::Cleared;
use crate::mm::entry::LockedEntry;
use crate::mm::movers;
use crate::mm::page::PageRef;
use crate::mm::refusal::Refusal;
use crate::mm::shared::NewShared;
use crate::mm::shared::Sharer;
use crate::mm::terms::Terms;
use crate::mm::vma::StableVma;

/// The page that is to be mapped instead of a page.
pub(super) enum Replacement<'a> {
    /// A shared page of equal content.
    Shared(&'a Sharer<'a>),
    /// A new shared page, which gets the content of the page if the closure accepts that content.
    New(
        &'a Sharer<'a>,
        &'a NewShared,
        &'a dyn Fn(&MappedPage<'_>) -> bool,
    ),
    /// The zero page.
    Zero,
}

impl Replacement<'_> {
    /// Whether this replacement must not be mapped in `vma`, as [`forbids_zero`] says of the zero page.
    pub(super) fn is_forbidden_in(&self, vma: &StableVma<'_>) -> bool {
        matches!(self, Replacement::Zero) && forbids_zero(vma)
    }

    /// Compares `content`, the content of `page`, with this replacement, byte for byte, as `pages_identical()`
    /// does for `try_to_merge_one_page()` in `mm/ksm.c`. A new shared page gets the content instead.
    ///
    /// # Errors
    ///
    /// [`Refusal::Different`]; [`Refusal::Changed`], [`Refusal::Failed`]: the content is not what a new shared
    /// page is for, or can't be read.
    fn verify_content(&self, page: &PageRef, content: &StillPage<'_>) -> Result<(), Refusal> {
        match self {
            Replacement::Shared(sharer) => expect_same(content, &sharer.shared().still_content()),
            Replacement::New(_, shared, is_expected) => {
                shared.fill(page)?;
                if is_expected(&shared.content()) {
                    Ok(())
                } else {
                    Err(Refusal::Changed)
                }
            }
            Replacement::Zero => expect_zero(content),
        }
    }
}

/// Whether marked mappings of the zero page must not be made in `vma`: the kernel forbids the zero page there, or
/// would move such a mapping without its mark (`move_zeropage_pte()`).
pub(crate) fn forbids_zero(vma: &StableVma<'_>) -> bool {
    vma.forbids_zero_page() || movers::includes(vma.mm())
}

/// Replaces a mapping whose entry was cleared, or restores the entry if the page must not be merged.
///
/// Like the second half of `try_to_merge_one_page()` in `mm/ksm.c`: `pages_identical()`, then `replace_page()`.
pub(super) fn verify_and_replace(
    terms: &Terms<'_>,
    entry: &mut LockedEntry<'_>,
    old: Cleared,
    replacement: &Replacement<'_>,
) -> Result<(), Refusal> {
    if let Err(refusal) = verify(terms, entry, &old, replacement) {
        entry.restore(old);
        return Err(refusal);
    }
    match replacement {
        Replacement::Shared(sharer) | Replacement::New(sharer, ..) => entry.map(old, sharer),
        Replacement::Zero => entry.map_zero(old),
    }
    Ok(())
}

/// Decides whether a page is merged, when nobody can write to it through this entry any more. Requires that
/// only page tables refer to the page, that it has no memory tags, that it equals its replacement in every
/// byte, and that it can be made shared.
///
/// `write_protect_page()` in `mm/ksm.c` checks the references, too. The owner of the entry was checked before
/// ([`Terms::allows`]).
fn verify(
    terms: &Terms<'_>,
    entry: &LockedEntry<'_>,
    cleared: &Cleared,
    replacement: &Replacement<'_>,
) -> Result<(), Refusal> {
    let page = entry.page();
    if page.is_pinned() {
        return Err(Refusal::Pinned);
    }
    expect_untagged(page)?;
    if replacement.is_forbidden_in(entry.vma()) {
        return Err(Refusal::LeftAlone);
    }
    if let Replacement::Shared(sharer) = replacement {
        let shared = sharer.shared();
        terms.check_room(shared)?;
        expect_untagged(shared).map_err(Refusal::of_target)?;
    }
    // SAFETY: `is_pinned` returned false above, with this entry cleared and flushed: nothing but page
    // tables, the swap cache and our own reference refers to the page. Nobody can write through its other
    // mappings, if there are any: fork has write-protected them, and the callers have excluded a child in the
    // middle of fork, for which that is not yet true (`Terms::allows`, see `crate::mm::merge`).
    let content = unsafe { entry.still_content(cleared) };
    replacement.verify_content(page, &content)?;
    // Last, because it can't be undone.
    if !entry.try_share(cleared) {
        return Err(Refusal::Pinned);
    }
    Ok(())
}

/// Checks that two pages are equal, byte for byte. If somebody may write to them, the result is only a hint.
///
/// # Errors
///
/// [`Refusal::Different`].
pub(super) fn expect_same(one: &MappedPage<'_>, other: &MappedPage<'_>) -> Result<(), Refusal> {
    if compare::same(one, other) {
        Ok(())
    } else {
        Err(Refusal::Different)
    }
}

/// Checks that a page has no memory tags. `memcmp_pages()` of arm64 does the same: no page with tags equals
/// another.
///
/// # Errors
///
/// [`Refusal::Tagged`].
fn expect_untagged(page: &PageRef) -> Result<(), Refusal> {
    if page.is_tagged() {
        Err(Refusal::Tagged)
    } else {
        Ok(())
    }
}

/// Checks that a page is full of zeroes.
///
/// # Errors
///
/// [`Refusal::Different`].
pub(super) fn expect_zero(content: &MappedPage<'_>) -> Result<(), Refusal> {
    if compare::is_zero(content) {
        Ok(())
    } else {
        Err(Refusal::Different)
    }
}
