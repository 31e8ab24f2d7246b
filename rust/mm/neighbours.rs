// SPDX-License-Identifier: GPL-2.0

//! Replaces pages that are mapped near each other, and once each, with a single flush of the TLBs.
//!
//! First the replacement of each page is prepared ([`Neighbour`]), with no lock of the address space held.
//! Then the VMA lock is taken. The rmap is not needed: a page whose only mapping is in this page table has
//! no other mapping. For each page: what if, at this moment, …
//!
//! - the process unmaps, moves, changes or forks the VMA? Each of these takes the VMA lock for writing, and
//!   so waits for us. It exits? The address space stays until we drop our reference.
//! - it discards the page, for which the VMA lock for reading suffices? That takes the page table lock. If
//!   it comes first, the entry no longer maps the page; if it comes after us, it removes our new mapping.
//! - another process maps the page out of the swap cache? That takes the folio lock, which we hold.
//! - a thread writes to the page, or the kernel or a device does? As in [`super::merge`]: all entries are
//!   cleared first, then flushed together, and only then are the contents compared. The page table lock is
//!   held until each entry is set again.

use crate::mm::content::MappedPage;
use crate::mm::entry::Cleared;
use crate::mm::entry::LockedEntry;
use crate::mm::mmu_notifier::Invalidation;
use crate::mm::page::Kind;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::page_table::LockedTable;
use crate::mm::refusal::Refusal;
use crate::mm::shared;
use crate::mm::shared::LockedShared;
use crate::mm::shared::NewShared;
use crate::mm::shared::SharedPage;
use crate::mm::shared::Sharer;
use crate::mm::sharers::Base;
use crate::mm::terms::Terms;
use crate::mm::twin::Twin;
use crate::mm::verify::expect_same;
use crate::mm::verify::expect_zero;
use crate::mm::verify::verify_and_replace;
use crate::mm::verify::Replacement;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::with_table;
use core::array::from_fn;
use engine::region::REGION_BYTES;
use engine::Frame;
use engine::PAGE_SIZE;
use kernel::prelude::*;

/// Most pages that are replaced under one page table lock: few, so that no fault waits long for it.
pub(crate) const MOST: usize = 32;
/// Number of pages after which we check whether a fault waits for the lock; if so, the others are left as
/// they are until the next pass.
const PATIENCE: usize = 8;
/// Most bytes between two of the pages: secondary MMUs drop what is in between, too.
const LONGEST_GAP: usize = 16 * PAGE_SIZE;

/// The replacement of a page, prepared before the VMA is locked.
enum Prepared {
    /// A shared page.
    Shared(SharedPage),
    /// A new shared page, which gets the page's content, and the twin, which becomes another sharer.
    New(NewShared, Twin),
    /// The zero page.
    Zero,
}

/// A page to be replaced. It seems to be mapped once, at `addr`.
pub(crate) struct Neighbour {
    addr: usize,
    page: PageRef,
    by: Prepared,
}

impl Neighbour {
    /// The page on `frame`, which was seen at `addr`, to be replaced by the zero page. No lock of the
    /// address space may be held, because a large page may be split, and memory may be allocated and
    /// charged.
    ///
    /// # Errors
    ///
    /// [`Refusal::Gone`]; [`Refusal::Involved`]: the page must be replaced on its own.
    /// [`Refusal::Different`], [`Refusal::Busy`]: it was not split out of its large page.
    pub(crate) fn by_zero(addr: usize, frame: Frame, terms: &Terms<'_>) -> Result<Self, Refusal> {
        let page = with_one_mapping(terms, frame, |page| expect_zero(&page.content()))?;
        let by = Prepared::Zero;
        Ok(Neighbour { addr, page, by })
    }

    /// As [`Self::by_zero`], but the page is to be replaced by `shared`, a shared page of the same domain.
    pub(crate) fn by_shared(
        addr: usize,
        frame: Frame,
        shared: SharedPage,
        terms: &Terms<'_>,
    ) -> Result<Self, Refusal> {
        let page = with_one_mapping(terms, frame, |page| {
            expect_same(&page.content(), &shared.content())
        })?;
        let by = Prepared::Shared(shared);
        Ok(Neighbour { addr, page, by })
    }

    /// As [`Self::by_zero`], but the page is to be replaced by a new shared page, which gets the page's
    /// content, and which `twin` is to be merged into later. The twin itself is not changed here.
    ///
    /// # Errors
    ///
    /// In addition, the errors for a twin that can't be merged; [`Refusal::NoMemory`].
    pub(crate) fn by_new(
        addr: usize,
        frame: Frame,
        twin: Frame,
        terms: &Terms<'_>,
    ) -> Result<Self, Refusal> {
        let page = with_one_mapping(terms, frame, |page| terms.expect_twin(twin, page))?;
        let twin = terms.find_twin(twin, &page)?;
        let shared = terms.new_shared(frame)?;
        let by = Prepared::New(shared, twin);
        Ok(Neighbour { addr, page, by })
    }

    /// The shared page that has replaced, or is to replace, the page; `None` for the zero page.
    pub(crate) fn shared(&self) -> Option<&SharedPage> {
        match &self.by {
            Prepared::Shared(shared) => Some(shared),
            Prepared::New(shared, _) => Some(shared),
            Prepared::Zero => None,
        }
    }

    /// Whether the shared page is new.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self.by, Prepared::New(..))
    }

    /// The page, and the twin if the shared page is new.
    pub(crate) fn into_parts(self) -> (PageRef, Option<Twin>) {
        let twin = match self.by {
            Prepared::New(_, twin) => Some(twin),
            Prepared::Shared(_) | Prepared::Zero => None,
        };
        (self.page, twin)
    }
}

/// The page on `frame`, as [`Terms::single`] returns it, if it has one mapping.
///
/// # Errors
///
/// Those of [`Terms::single`]; [`Refusal::Involved`].
fn with_one_mapping(
    terms: &Terms<'_>,
    frame: Frame,
    check: impl FnOnce(&PageRef) -> Result<(), Refusal>,
) -> Result<PageRef, Refusal> {
    let page = terms.single(frame, check)?;
    if page.mappings() == 1 {
        Ok(page)
    } else {
        Err(Refusal::Involved)
    }
}

/// Whether a page at `addr`, above `last`, can be replaced together with one at `last`.
pub(crate) fn are_near(last: usize, addr: usize) -> bool {
    last < addr && addr - last <= LONGEST_GAP && last / REGION_BYTES == addr / REGION_BYTES
}

/// Replaces neighbours, and returns the result for each of them. They must be in the order of their
/// addresses, near each other, and at most [`MOST`].
///
/// `vma` must be allowed by the terms, and contain all of the addresses. `is_expected` gets the index of a
/// neighbour, and says whether the content of its new shared page is what the caller expects.
pub(crate) fn replace_neighbours(
    terms: &Terms<'_>,
    vma: &VmaReadGuard<'_>,
    neighbours: &[Neighbour],
    is_expected: &dyn Fn(usize, &MappedPage<'_>) -> bool,
) -> [Result<(), Refusal>; MOST] {
    let mut results = [Err(Refusal::Gone); MOST];
    let (Some(first), Some(last)) = (neighbours.first(), neighbours.last()) else {
        return results;
    };
    let locked: [Option<LockedPage<'_>>; MOST] =
        from_fn(|index| neighbours.get(index)?.page.try_lock());
    let targets = Targets::lock(neighbours, &mut results);
    let sharers = targets.record(vma, neighbours, &mut results);
    let range = first.addr..last.addr.saturating_add(PAGE_SIZE);
    let Some(invalidation) = Invalidation::try_start(vma, range.clone()) else {
        return [Err(Refusal::Busy); MOST];
    };
    let cluster = LockedCluster {
        terms,
        neighbours,
        locked: &locked,
        sharers: &sharers,
        is_expected,
        invalidation: &invalidation,
    };
    with_table(vma, range, |table| {
        cluster.clear_and_replace(table, &mut results);
    });
    drop(invalidation);
    drop(sharers);
    drop(targets);
    for page in locked.iter().flatten() {
        page.free_swap_if_unmapped();
    }
    for (neighbour, result) in neighbours.iter().zip(&results) {
        if let (Prepared::New(shared, _), Ok(())) = (&neighbour.by, result) {
            shared.settle();
        }
    }
    results
}

/// The shared pages that are to replace neighbours, locked. Each is stored at the index of the first
/// neighbour that it replaces.
struct Targets<'a>([Option<LockedShared<'a>>; MOST]);

impl<'a> Targets<'a> {
    /// Locks the shared pages. Stores an error in `results` for each that could not be locked.
    fn lock(neighbours: &'a [Neighbour], results: &mut [Result<(), Refusal>; MOST]) -> Self {
        let mut targets = Targets([const { None }; MOST]);
        for (index, (neighbour, result)) in neighbours.iter().zip(results).enumerate() {
            let Some(shared) = neighbour.shared() else {
                continue;
            };
            match shared.try_lock() {
                Ok(locked) => {
                    if let Some(place) = targets.0.get_mut(index) {
                        *place = Some(locked);
                    }
                }
                // An earlier neighbour may have locked the same shared page.
                Err(refusal) if targets.find(shared).is_none() => *result = Err(refusal),
                Err(_) => (),
            }
        }
        targets
    }

    /// The locked shared page, whichever neighbour it is stored for.
    fn find(&self, shared: &SharedPage) -> Option<&LockedShared<'a>> {
        let mut locked = self.0.iter().flatten();
        locked.find(|locked| locked.name() == shared.name())
    }

    /// Records the neighbours as sharers, before the page table lock is taken: nothing can be allocated
    /// under it. Stores an error in `results` for each neighbour that could not be recorded.
    fn record(
        &self,
        vma: &VmaReadGuard<'_>,
        neighbours: &[Neighbour],
        results: &mut [Result<(), Refusal>; MOST],
    ) -> [Option<Sharer<'_>>; MOST] {
        let is_shared = |neighbour: &&Neighbour| neighbour.shared().is_some();
        let count = neighbours.iter().filter(is_shared).count() as u32;
        let base = match Base::new(vma, count) {
            Ok(base) => base,
            Err(error) => {
                *results = [Err(shared::refusal(error)); MOST];
                return [const { None }; MOST];
            }
        };
        let mut results = results.iter_mut();
        from_fn(|index| {
            let (neighbour, result) = (neighbours.get(index)?, results.next()?);
            let shared = neighbour.shared()?;
            let own = self.0.get(index).and_then(Option::as_ref);
            let locked = own.or_else(|| self.find(shared))?;
            let sharer = locked.add(&base, neighbour.addr);
            sharer.map_err(|refusal| *result = Err(refusal)).ok()
        })
    }
}

/// A cluster of neighbours, ready to be replaced under the page table lock: pages and shared pages are locked,
/// sharers are recorded (`None` where that failed), and secondary MMUs have dropped the pages.
struct LockedCluster<'a> {
    terms: &'a Terms<'a>,
    neighbours: &'a [Neighbour],
    locked: &'a [Option<LockedPage<'a>>; MOST],
    sharers: &'a [Option<Sharer<'a>>; MOST],
    is_expected: &'a dyn Fn(usize, &MappedPage<'_>) -> bool,
    invalidation: &'a Invalidation<'a>,
}

impl LockedCluster<'_> {
    /// Clears the entries that map the neighbours, flushes them together, then replaces or restores each.
    ///
    /// `write_protect_page()` and `replace_page()` in `mm/ksm.c` flush twice for each page.
    fn clear_and_replace(
        &self,
        table: &LockedTable<'_>,
        results: &mut [Result<(), Refusal>; MOST],
    ) {
        let mut cleared: [_; MOST] = from_fn(|index| match self.entry(table, index) {
            Ok(mut entry) => {
                let old = entry.clear_unflushed();
                Some((entry, old))
            }
            Err(Some(refusal)) => {
                if let Some(result) = results.get_mut(index) {
                    *result = Err(refusal);
                }
                None
            }
            Err(None) => None,
        });
        if cleared.iter().all(Option::is_none) {
            return;
        }
        let flush = table.flush();
        let mut is_awaited = false;
        for (index, (cleared, result)) in cleared.iter_mut().zip(results).enumerate() {
            let Some((mut entry, old)) = cleared.take() else {
                continue;
            };
            let old = old.flushed(&flush);
            is_awaited = is_awaited || index % PATIENCE == PATIENCE - 1 && table.is_contended();
            *result = if is_awaited {
                entry.restore(old);
                Err(Refusal::Busy)
            } else {
                self.replace_neighbour(index, &mut entry, old)
            };
        }
    }

    /// The entry that maps a neighbour, and is the only one that does.
    ///
    /// Refuses a page that seems to be pinned, because clearing its entry would be in vain; the check that
    /// counts follows once the entry is cleared. `Err(None)`: the result of this neighbour is already
    /// known.
    fn entry<'t>(
        &'t self,
        table: &'t LockedTable<'_>,
        index: usize,
    ) -> Result<LockedEntry<'t>, Option<Refusal>> {
        let neighbour = self.neighbours.get(index).ok_or(None)?;
        let sharer = self.sharers.get(index).and_then(Option::as_ref);
        if neighbour.shared().is_some() && sharer.is_none() {
            return Err(None);
        }
        let page = self.locked.get(index).and_then(Option::as_ref);
        let page = page.ok_or(Refusal::Busy)?;
        if page.kind() != Kind::Anonymous || page.is_large() || page.mappings() == 0 {
            return Err(Some(Refusal::Gone));
        }
        if page.mappings() > 1 {
            return Err(Some(Refusal::Involved));
        }
        if page.is_pinned() {
            return Err(Some(Refusal::Pinned));
        }
        let entry = LockedEntry::in_table(table, neighbour.addr, page, self.invalidation);
        entry.ok_or(Some(Refusal::Gone))
    }

    /// Replaces the mapping of a neighbour whose entry was cleared, or restores the entry.
    fn replace_neighbour(
        &self,
        index: usize,
        entry: &mut LockedEntry<'_>,
        old: Cleared,
    ) -> Result<(), Refusal> {
        let is_expected = |content: &MappedPage<'_>| (self.is_expected)(index, content);
        let sharer = self.sharers.get(index).and_then(Option::as_ref);
        let replacement = match (&self.neighbours.get(index).ok_or(Refusal::Gone)?.by, sharer) {
            (Prepared::Shared(_), Some(sharer)) => Replacement::Shared(sharer),
            (Prepared::New(shared, _), Some(sharer)) => {
                Replacement::New(sharer, shared, &is_expected)
            }
            (Prepared::Zero, _) => Replacement::Zero,
            // Not reached: `entry` returns no entry for such a neighbour.
            (_, None) => return Err(Refusal::Gone),
        };
        verify_and_replace(self.terms, entry, old, &replacement)
    }
}
