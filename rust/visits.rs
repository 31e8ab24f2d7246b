// SPDX-License-Identifier: GPL-2.0

//! The regions that a step looks at: parts of page tables, each within one area.
//!
//! The engine says which are due and is told what the visits brought. A visit that a step does not
//! come to the end of goes on in the next one there.

use crate::commons::Commons;
use crate::commons::State;
use crate::mm::pte::Population;
use core::ops::Range;
use engine::region::Outcome;
use engine::region::RegionId;
use engine::region::Visit;
use kernel::prelude::*;

/// One of the visits; or none, of a page that is looked at out of turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VisitNo(u8);

impl VisitNo {
    /// Out of turn: no visit has this number.
    pub(crate) const NONE: Self = VisitNo(u8::MAX);
}

/// How a region is found that is come to.
pub(crate) enum Coming {
    /// Its pages are looked at.
    Visit(VisitNo),
    /// It is passed over, with so many pages: it is not due.
    TooEarly(u32),
    /// It is passed over, with so many pages: it has been seen that they are all merged still.
    Settled(u32),
}

/// The visits of a step, and what was merged in all.
pub(crate) struct Visits {
    regions: KVec<Region>,
    /// Pages merged in this step, out of turn or not.
    pages_merged: u64,
}

/// A region that is being visited.
pub(crate) struct Region {
    /// The id of its address space.
    space: u64,
    range: Range<usize>,
    visit: Visit,
    outcome: Outcome,
    /// Pages of which this step has samples.
    sampled: usize,
}

impl Visits {
    /// Makes room for `most` visits.
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

    /// Goes on with a visit.
    pub(crate) fn resume(&mut self, region: Option<Region>) {
        if let Some(region) = region {
            // There is room: it is the first one.
            let _ = self.regions.push_within_capacity(region);
        }
    }

    /// Comes to what is left of a region, `range` in the address space of this id.
    pub(crate) fn come_to(
        &mut self,
        commons: &Commons,
        space: u64,
        range: &Range<usize>,
        population: impl Fn() -> Population,
    ) -> Coming {
        if !self.goes_on(space, range.start) {
            let id = RegionId(space ^ engine::hash::mix(range.start as u64));
            let prospect = commons.recall_region(id);
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
            let region = Region {
                space,
                range: range.clone(),
                visit,
                outcome: Outcome::default(),
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

    /// Gives up the last visit, if it was to go on at an address that can't be reached in this pass. Its
    /// region stays due: nothing is remembered of a visit that did not end.
    pub(crate) fn abandon(&mut self, space: u64, addr: usize) {
        if self.goes_on(space, addr) {
            self.regions.pop();
        }
    }

    /// The visits of this step, in the order in which their pages were met.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = VisitNo> {
        (0..self.regions.len()).map_while(|no| u8::try_from(no).ok().map(VisitNo))
    }

    /// Takes note that samples were taken of so many pages.
    pub(crate) fn count_sampled(&mut self, no: VisitNo, pages: usize) {
        if let Some(region) = self.regions.get_mut(usize::from(no.0)) {
            region.sampled = region.sampled.saturating_add(pages);
        }
    }

    /// Of how many pages samples were taken since this was asked last; `None`: out of turn.
    pub(crate) fn take_sampled(&mut self, no: VisitNo) -> Option<usize> {
        let region = self.regions.get_mut(usize::from(no.0))?;
        let sampled = core::mem::take(&mut region.sampled);
        let looked_at = &mut region.outcome.looked_at;
        *looked_at = looked_at.saturating_add(u16::try_from(sampled).unwrap_or(u16::MAX));
        Some(sampled)
    }

    /// Takes note of a page that was merged before.
    pub(crate) fn count_found_merged(&mut self, no: VisitNo) {
        if let Some(outcome) = self.outcome(no) {
            outcome.looked_at = outcome.looked_at.saturating_add(1);
            outcome.found_merged = outcome.found_merged.saturating_add(1);
        }
    }

    /// Takes note of a page that may be merged soon.
    pub(crate) fn promise(&mut self, no: VisitNo) {
        if let Some(outcome) = self.outcome(no) {
            outcome.is_promising = true;
        }
    }

    fn outcome(&mut self, no: VisitNo) -> Option<&mut Outcome> {
        let region = self.regions.get_mut(usize::from(no.0))?;
        Some(&mut region.outcome)
    }

    /// Takes note that a page was merged.
    pub(crate) fn count_merged(&mut self, no: VisitNo) {
        self.pages_merged = self.pages_merged.wrapping_add(1);
        if let Some(outcome) = self.outcome(no) {
            outcome.merged = outcome.merged.saturating_add(1);
        }
    }

    /// How many pages were merged since this was asked last.
    pub(crate) fn take_pages_merged(&mut self) -> u64 {
        core::mem::take(&mut self.pages_merged)
    }

    /// In how many passes its region is visited next, at the latest.
    pub(crate) fn next_within(&self, no: VisitNo) -> u8 {
        let region = self.regions.get(usize::from(no.0));
        region.map_or(1, |region| region.visit.next_within)
    }

    /// Ends all visits, but for one that goes on at `next`, an address space and an address:
    /// returns that.
    pub(crate) fn end(&mut self, state: &mut State, next: Option<(u64, usize)>) -> Option<Region> {
        let goes_on = next.is_some_and(|(space, addr)| self.goes_on(space, addr));
        let last = goes_on.then(|| self.regions.pop()).flatten();
        for Region { visit, outcome, .. } in self.regions.drain_all() {
            state.end_visit(visit, outcome);
        }
        last
    }

    /// Whether the last visit goes on at an address.
    fn goes_on(&self, space: u64, addr: usize) -> bool {
        self.regions.last().is_some_and(|last| {
            last.space == space && last.range.start < addr && addr < last.range.end
        })
    }
}
