// SPDX-License-Identifier: GPL-2.0

//! The regions visited by a step. A region is the part of a VMA that one page table maps.
//!
//! The engine decides which regions are due, and is told the outcome of each visit. A visit that a step
//! does not complete is continued by the next step there.

use crate::mm::page_table::Population;
use core::ops::Range;
use engine::region::Prospect;
use engine::region::RegionId;
use engine::region::Visit;
use engine::region::VisitOutcome;
use kernel::prelude::*;

/// The number of a visit of this step, or [`Self::NONE`] for a page scanned by `merge_now`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VisitNo(u8);

impl VisitNo {
    /// No visit has this number: the page is scanned by `merge_now`, or its visit is not recorded.
    pub(crate) const NONE: Self = VisitNo(u8::MAX);
}

/// What to do with a region the scanner reached.
pub(crate) enum Coming {
    /// Scan its pages, as part of this visit.
    Visit(VisitNo),
    /// Skip it, with this number of pages: it is not due.
    TooEarly(u32),
    /// Skip it, with this number of pages: they are the same as before, and all of them are merged.
    Settled(u32),
}

/// The visits of a step, and the number of pages it merged.
pub(crate) struct Visits {
    regions: KVec<RegionVisit>,
    /// Pages merged in this step, with or without a visit.
    pages_merged: u64,
}

/// A region that is being visited.
pub(crate) struct RegionVisit {
    /// The ID of its address space.
    space: u64,
    range: Range<usize>,
    visit: Visit,
    outcome: VisitOutcome,
    /// Pages sampled since [`Visits::take_sampled`] was called.
    sampled: usize,
}

impl Visits {
    /// Allocates room for `most` visits.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(most: usize) -> Result<Self> {
        Ok(Visits {
            regions: KVec::with_capacity(most, GFP_KERNEL)?,
            pages_merged: 0,
        })
    }

    /// Continues a visit of an earlier step.
    pub(crate) fn resume(&mut self, region: Option<RegionVisit>) {
        if let Some(region) = region {
            // This does not fail: it is the first visit of the step, and there is room for it.
            let _ = self.regions.push_within_capacity(region);
        }
    }

    /// Decides what to do with the rest of a region, `range` of the address space `space`. Begins a
    /// visit of the region if it is due: `recall` looks up what is known of it, `population` counts and
    /// digests its mapped pages.
    pub(crate) fn come_to(
        &mut self,
        recall: impl FnOnce(RegionId) -> Prospect,
        space: u64,
        range: &Range<usize>,
        population: impl Fn() -> Population,
    ) -> Coming {
        if !self.goes_on(space, range.start) {
            let prospect = recall(region_id(space, range.start));
            let mut pages = None;
            let digest = || {
                let Population { digest, pages: met } = population();
                pages = Some(met);
                digest
            };
            let visit = prospect.visit(digest);
            let Some(visit) = visit else {
                return Coming::TooEarly(pages.unwrap_or_else(|| population().pages));
            };
            let is_settled = visit.is_settled;
            let region = RegionVisit {
                space,
                range: range.clone(),
                visit,
                outcome: VisitOutcome::default(),
                sampled: 0,
            };
            let is_noted = self.regions.push_within_capacity(region).is_ok();
            if is_settled {
                return Coming::Settled(pages.unwrap_or(0));
            }
            if !is_noted {
                return Coming::Visit(VisitNo::NONE);
            }
        }
        let last = self.regions.len().wrapping_sub(1);
        Coming::Visit(u8::try_from(last).map_or(VisitNo::NONE, VisitNo))
    }

    /// Drops the last visit if it would continue at `addr`, which can't be reached in this pass. The
    /// region stays due, since an unfinished visit leaves no record.
    pub(crate) fn abandon(&mut self, space: u64, addr: usize) {
        if self.goes_on(space, addr) {
            self.regions.pop();
        }
    }

    /// The visits of this step, in the order in which the scanner reached their pages.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = VisitNo> {
        (0..self.regions.len()).map_while(|no| u8::try_from(no).ok().map(VisitNo))
    }

    /// Counts pages that were sampled during a visit.
    pub(crate) fn count_sampled(&mut self, no: VisitNo, pages: usize) {
        if let Some(region) = self.regions.get_mut(usize::from(no.0)) {
            region.sampled = region.sampled.saturating_add(pages);
        }
    }

    /// Returns the number of pages sampled since the last call; `None` if there is no such visit.
    pub(crate) fn take_sampled(&mut self, no: VisitNo) -> Option<usize> {
        let region = self.regions.get_mut(usize::from(no.0))?;
        let sampled = core::mem::take(&mut region.sampled);
        let looked_at = &mut region.outcome.looked_at;
        *looked_at = looked_at.saturating_add(u16::try_from(sampled).unwrap_or(u16::MAX));
        Some(sampled)
    }

    /// Counts a page that was merged before this visit.
    pub(crate) fn count_found_merged(&mut self, no: VisitNo) {
        if let Some(outcome) = self.outcome(no) {
            outcome.looked_at = outcome.looked_at.saturating_add(1);
            outcome.found_merged = outcome.found_merged.saturating_add(1);
        }
    }

    /// Counts mergeable pages that are parts of large pages. Returns how many the visit has met so far.
    pub(crate) fn count_mergeable_in_large(&mut self, no: VisitNo, pages: u32) -> u32 {
        let Some(outcome) = self.outcome(no) else {
            return pages;
        };
        let met = &mut outcome.mergeable_in_large;
        *met = met.saturating_add(u16::try_from(pages).unwrap_or(u16::MAX));
        (*met).into()
    }

    /// Whether the last visit of the region found that it pays to split its large pages.
    pub(crate) fn is_worth_splitting(&self, no: VisitNo) -> bool {
        let region = self.regions.get(usize::from(no.0));
        region.is_some_and(|region| region.visit.is_worth_splitting)
    }

    /// Records that the region has a page that may be merged soon.
    pub(crate) fn promise(&mut self, no: VisitNo) {
        if let Some(outcome) = self.outcome(no) {
            outcome.is_promising = true;
        }
    }

    fn outcome(&mut self, no: VisitNo) -> Option<&mut VisitOutcome> {
        let region = self.regions.get_mut(usize::from(no.0))?;
        Some(&mut region.outcome)
    }

    /// Counts a page that this step has merged.
    pub(crate) fn count_merged(&mut self, no: VisitNo) {
        self.pages_merged = self.pages_merged.wrapping_add(1);
        if let Some(outcome) = self.outcome(no) {
            outcome.merged = outcome.merged.saturating_add(1);
        }
    }

    /// Returns the number of pages merged since the last call.
    pub(crate) fn take_pages_merged(&mut self) -> u64 {
        core::mem::take(&mut self.pages_merged)
    }

    /// Largest number of passes until the next visit of the region.
    pub(crate) fn next_within(&self, no: VisitNo) -> u8 {
        let region = self.regions.get(usize::from(no.0));
        region.map_or(1, |region| region.visit.next_within)
    }

    /// Ends all visits except one that continues at `next`, an address space ID and an address. Returns
    /// that one. Calls `ended` with each of the others.
    pub(crate) fn end(
        &mut self,
        next: Option<(u64, usize)>,
        mut ended: impl FnMut(Visit, VisitOutcome),
    ) -> Option<RegionVisit> {
        let goes_on = next.is_some_and(|(space, addr)| self.goes_on(space, addr));
        let last = goes_on.then(|| self.regions.pop()).flatten();
        for RegionVisit { visit, outcome, .. } in self.regions.drain_all() {
            ended(visit, outcome);
        }
        last
    }

    /// Whether the last visit continues at `addr`.
    fn goes_on(&self, space: u64, addr: usize) -> bool {
        self.regions.last().is_some_and(|last| {
            last.space == space && last.range.start < addr && addr < last.range.end
        })
    }
}

/// Identifies the region of the address space `space` that begins at `start`.
pub(crate) fn region_id(space: u64, start: usize) -> RegionId {
    RegionId(space ^ engine::hash::mix(start as u64))
}
