// SPDX-License-Identifier: GPL-2.0

//! Collects what is mapped in a part of an address space, for the engine to look at.

use crate::commons::Commons;
use crate::commons::Rules;
use crate::mm::page::Kind;
use crate::mm::page::PageRef;
use crate::mm::pte::Population;
use crate::mm::walk::Mapped;
use crate::mm::walk::MergedZero;
use crate::mm::walk::Others;
use crate::mm::walk::Visitor;
use crate::visits::Coming;
use crate::visits::VisitNo;
use crate::visits::Visits;
use core::ops::ControlFlow;
use core::ops::Range;
use engine::Domain;
use engine::Frame;
use engine::Glimpse;
use engine::Inspected;
use engine::Key;
use engine::Keys;
use engine::Salt;
use engine::PAGE_SIZE;
use kernel::prelude::*;

/// Pages looked at in one step: as many as a page table has.
pub(crate) const BATCH: usize = 512;
/// Pages of a batch: those of a step, and as many again where another thread has the engine just then.
pub(crate) const MOST_PAGES: usize = 2 * BATCH;
/// Page tables looked at in one step, where there are few pages in them.
pub(crate) const TABLES: u32 = 16;
/// Effort is counted in units, of which a page that is looked at costs so many: about 780 instructions.
/// (`flood::cycles_cost_the_same_whatever_is_mapped` counts them, of this and of what follows.)
const PAGE: u64 = 64;
/// An entry of a page table that is read for a digest only.
const DIGESTED: u64 = 1;
/// An entry that is looked at, and nothing is present: 38 instructions.
const ABSENT: u64 = 3;
/// One that maps what can't be merged: 165 instructions for the zero page, fewer for one of a file.
const PRESENT: u64 = 14;
/// An area, whatever is in it: 670 instructions.
const AREA: u64 = 56;
/// An address space, whatever is in it.
const SPACE: u64 = 256;

/// A page that was met, to be merged or looked at more closely.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    /// Where it was seen.
    pub(crate) addr: usize,
    pub(crate) frame: Frame,
    /// `None`: full of zeroes.
    pub(crate) key: Option<Key>,
    /// When it was met.
    pub(crate) visit: VisitNo,
}

/// What is mapped in the part of an address space that a step looks at. Kept from step to step, so
/// that nothing is allocated under a page table lock. No page is referenced: references are what
/// merging takes for a pin.
pub(crate) struct Batch {
    /// Unmerged pages.
    pub(crate) pages: KVVec<Seen>,
    /// Those of which a sample is not enough; their keys are not known.
    pub(crate) unclear: KVVec<Candidate>,
    /// As above, once they have been looked at.
    pub(crate) inspected: KVVec<(Candidate, Inspected)>,
    /// Merged ones.
    pub(crate) merged: u64,
    /// Unmerged ones that can't be merged for their memory tags.
    pub(crate) tagged: u64,
    /// Pages of regions that are not due.
    pub(crate) skipped: u64,
    /// Merged pages of regions that are settled.
    pub(crate) settled: u64,
    /// What else was looked at, in units.
    pub(crate) beside: u64,
}

/// An unmerged page that was met.
pub(crate) struct Seen {
    addr: usize,
    pub(crate) frame: Frame,
    pub(crate) glimpse: Glimpse,
}

impl Seen {
    /// The page, met during this visit.
    pub(crate) fn candidate(&self, key: Option<Key>, visit: VisitNo) -> Candidate {
        Candidate {
            addr: self.addr,
            frame: self.frame,
            key,
            visit,
        }
    }
}

impl Batch {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Batch {
            pages: KVVec::with_capacity(MOST_PAGES, GFP_KERNEL)?,
            unclear: KVVec::with_capacity(MOST_PAGES, GFP_KERNEL)?,
            inspected: KVVec::with_capacity(MOST_PAGES, GFP_KERNEL)?,
            merged: 0,
            tagged: 0,
            skipped: 0,
            settled: 0,
            beside: 0,
        })
    }

    /// How many pages were looked at; what else was, as so many pages as cost the same.
    pub(crate) fn effort(&self) -> u64 {
        (self.pages.len() as u64)
            .saturating_add(self.merged)
            .saturating_add(self.tagged)
            .saturating_add(self.beside / PAGE)
    }

    /// Looks at the whole of the pages that are unclear, of an owner in `domain`. Tells `zero` of those
    /// which are full of zeroes and to be merged with the zero page; others are inspected.
    ///
    /// No reference was held since the sample was taken, so that another page may be on the frame by
    /// now, even of another domain. That does no harm: the engine takes note of a content that nobody
    /// has; it would be merged only after a look at who maps it.
    pub(crate) fn inspect(
        &mut self,
        keys: &Keys,
        rules: &Rules,
        domain: Domain,
        mut zero: impl FnMut(Candidate),
    ) {
        for candidate in self.unclear.drain_all() {
            let Some(page) = PageRef::candidate(candidate.frame) else {
                continue;
            };
            let domain = rules.policy.domain_of_page(domain, candidate.frame);
            let content = page.content();
            if !content.is_readable() {
                continue;
            }
            let inspected = if rules.use_zero_pages {
                keys.inspect(domain, &content)
            } else {
                Some(keys.inspect_any(domain, &content))
            };
            match inspected {
                // There is room: a batch has no more pages than that.
                Some(inspected) => {
                    let _ = self.inspected.push_within_capacity((candidate, inspected));
                }
                None => zero(candidate),
            }
        }
    }
}

/// How much more a step looks at.
pub(crate) struct Budget {
    /// Effort, of no more pages than there is room for.
    units: u64,
    tables: u32,
}

impl Budget {
    /// That of a step which looks at up to `limit` pages, and at a batch at the most.
    pub(crate) fn new(limit: u32) -> Self {
        Budget {
            units: units_of(limit),
            tables: TABLES,
        }
    }

    /// Has it last for as many pages again, and for no more page tables.
    pub(crate) fn refill(&mut self, limit: u32) {
        self.units = units_of(limit);
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.units == 0 || self.tables == 0
    }

    fn spend(&mut self, units: u64) {
        self.units = self.units.saturating_sub(units);
    }
}

/// The effort of so many pages, and of a batch at the most.
fn units_of(pages: u32) -> u64 {
    (BATCH as u64).min(pages.into()).saturating_mul(PAGE)
}

/// The effort of `pids` ids of processes and threads that were passed, and of an address space, in pages.
pub(crate) fn effort_to_find(pids: u32) -> u32 {
    const PIDS_PER_PAGE: u32 = 8;
    (pids / PIDS_PER_PAGE).saturating_add((SPACE / PAGE) as u32)
}

/// Collects what is mapped in an area.
pub(crate) struct Gatherer<'a> {
    commons: &'a Commons,
    rules: &'a Rules,
    /// Whose pages they are, and the salt of that.
    domain: Domain,
    salt: Salt,
    batch: &'a mut Batch,
    visits: &'a mut Visits,
    pub(crate) budget: &'a mut Budget,
    /// By what regions are told from those of other address spaces; `None`: looked at out of turn.
    pub(crate) space: Option<u64>,
    /// Of the region that is looked at.
    visit: VisitNo,
    /// Samples that the visits know of.
    settled: usize,
}

impl<'a> Gatherer<'a> {
    /// Collects what belongs to `domain` into `batch`, as long as `budget` lasts.
    pub(crate) fn new(
        commons: &'a Commons,
        rules: &'a Rules,
        domain: Domain,
        batch: &'a mut Batch,
        visits: &'a mut Visits,
        budget: &'a mut Budget,
    ) -> Self {
        let settled = batch.pages.len();
        Gatherer {
            commons,
            rules,
            domain,
            salt: commons.keys().salt(domain),
            batch,
            visits,
            budget,
            space: None,
            visit: VisitNo::NONE,
            settled,
        }
    }

    /// Comes to an area.
    pub(crate) fn enter_area(&mut self) {
        self.look_beside(AREA);
    }

    /// Looks at something that is no page to merge.
    fn look_beside(&mut self, units: u64) {
        self.batch.beside = self.batch.beside.saturating_add(units);
        self.budget.spend(units);
    }

    /// Comes to the end of what is looked at in an area.
    pub(crate) fn leave_area(&mut self) {
        self.settle();
        self.visit = VisitNo::NONE;
    }

    /// Comes to an area that can't be reached, in which a visit was perhaps to go on at `addr`.
    pub(crate) fn pass_busy_area(&mut self, addr: usize) {
        self.enter_area();
        if let Some(space) = self.space {
            self.visits.abandon(space, addr);
        }
    }

    /// Meets an unmerged page, of which there is room for a sample.
    #[inline]
    fn unmerged(&mut self, addr: usize, mapped: &Mapped<'_>) {
        if mapped.is_tagged() {
            self.batch.tagged = self.batch.tagged.saturating_add(1);
            return;
        }
        let frame = mapped.frame();
        if let Some(glimpse) = mapped.glimpse(self.commons.keys(), self.salt_of(frame)) {
            let seen = Seen {
                addr,
                frame,
                glimpse,
            };
            let _ = self.batch.pages.push_within_capacity(seen);
        }
    }

    /// The salt of the page on a frame.
    #[inline]
    fn salt_of(&self, frame: Frame) -> Salt {
        let domain = self.rules.policy.domain_of_page(self.domain, frame);
        if domain == self.domain {
            self.salt
        } else {
            self.commons.keys().salt(domain)
        }
    }

    /// Has the visit know how many samples were taken since it was told last.
    fn settle(&mut self) {
        let taken = self.batch.pages.len();
        let before = core::mem::replace(&mut self.settled, taken);
        self.visits
            .count_sampled(self.visit, taken.saturating_sub(before));
    }
}

impl Visitor for Gatherer<'_> {
    fn part(&mut self, range: &Range<usize>, population: impl Fn() -> Population) -> bool {
        let Some(space) = self.space else {
            return true;
        };
        self.settle();
        let (count, pages) = match self.visits.come_to(self.commons, space, range, population) {
            Coming::Visit(visit) => {
                self.visit = visit;
                return true;
            }
            Coming::TooEarly(pages) => (&mut self.batch.skipped, pages),
            Coming::Settled(pages) => (&mut self.batch.settled, pages),
        };
        *count = count.saturating_add(pages.into());
        self.visit = VisitNo::NONE;
        let entries = (range.len() / PAGE_SIZE) as u64;
        self.look_beside(entries.saturating_mul(DIGESTED));
        false
    }

    fn merged_zero(&mut self, _zero: MergedZero) -> ControlFlow<()> {
        self.visits.count_found_merged(self.visit);
        ControlFlow::Continue(())
    }

    #[inline]
    fn page(&mut self, addr: usize, mapped: Mapped<'_>) -> ControlFlow<()> {
        // There is room: no more pages are looked at than a batch holds.
        if mapped.kind != Kind::Merged {
            self.unmerged(addr, &mapped);
        } else {
            self.visits.count_found_merged(self.visit);
            self.batch.merged = self.batch.merged.saturating_add(1);
        }
        self.budget.spend(PAGE);
        break_if(self.budget.units == 0)
    }

    fn others(&mut self, entries: Others) -> ControlFlow<()> {
        let absent = entries.absent.saturating_mul(ABSENT);
        self.look_beside(
            entries
                .present
                .saturating_mul(PRESENT)
                .saturating_add(absent),
        );
        break_if(self.budget.units == 0)
    }

    fn table_done(&mut self) -> ControlFlow<()> {
        self.budget.tables = self.budget.tables.saturating_sub(1);
        break_if(self.budget.is_spent())
    }
}

fn break_if(done: bool) -> ControlFlow<()> {
    if done {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
