// SPDX-License-Identifier: GPL-2.0

//! Collects the mapped pages in a part of an address space, for the engine to decide on.

use crate::mm::page::Kind;
use crate::mm::page::PageRef;
use crate::mm::page_table::Population;
use crate::mm::walk::Mapped;
use crate::mm::walk::MergedZero;
use crate::mm::walk::Others;
use crate::mm::walk::Places;
use crate::mm::walk::Visitor;
use crate::scan::profile::Contents;
use crate::scan::regions::Coming;
use crate::scan::regions::VisitNo;
use crate::scan::regions::Visits;
use crate::scan::state::StepSettings;
use crate::scan::turns::Commons;
use core::ops::ControlFlow;
use core::ops::Range;
use engine::Content;
use engine::Domain;
use engine::Frame;
use engine::Glimpse;
use engine::Inspected;
use engine::Key;
use engine::Keys;
use engine::Salt;
use engine::PAGE_SIZE;
use kernel::prelude::*;

/// Pages scanned in one step: the number of entries of a page table.
pub(crate) const BATCH: usize = 512;
/// Capacity of a batch: the pages of a step, and as many again if another thread has the sets locked
/// just then.
pub(crate) const MOST_PAGES: usize = 2 * BATCH;
/// Page tables walked in one step, if they map few pages.
pub(crate) const TABLES: u32 = 16;
/// Effort units of a scanned page: 630 instructions in its first pass, so a unit is about 12.
/// (`flood::cycles_cost_the_same_whatever_is_mapped` measures this cost, and those below of entries and VMAs.)
const PAGE: u64 = 52;
/// A page table entry that is read only for the digest.
const DIGESTED: u64 = 1;
/// An entry with no page present: 54 instructions, with its part of the way to its table.
const ABSENT: u64 = 4;
/// An entry of a page that can't be merged: 183 instructions for the zero page, fewer for a file page.
const PRESENT: u64 = 15;
/// A VMA, whatever it maps: 712 instructions.
const AREA: u64 = 59;
/// An address space, whatever it maps.
const SPACE: u64 = 260;

/// A page to merge, or to read as a whole.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    /// The address where it was seen.
    pub(crate) addr: usize,
    pub(crate) frame: Frame,
    /// `None`: the page is zero-filled.
    pub(crate) key: Option<Key>,
    /// The visit in which it was seen.
    pub(crate) visit: VisitNo,
}

/// The pages that a step found mapped in its part of an address space. Reused by later steps, so
/// nothing is allocated under a page table lock. Pages are not referenced: merging takes an extra
/// reference for a pin.
pub(crate) struct Batch {
    /// Unmerged pages.
    pub(crate) pages: KVVec<Seen>,
    /// Pages whose sample is not enough; their keys are not known.
    pub(crate) unclear: KVVec<Candidate>,
    /// The unclear pages after they have been read as a whole.
    pub(crate) inspected: KVVec<(Candidate, Inspected)>,
    /// Number of merged pages.
    pub(crate) merged: u64,
    /// Number of pages that can't be merged because they have memory tags.
    pub(crate) tagged: u64,
    /// Number of pages in regions that are not due.
    pub(crate) skipped: u64,
    /// Number of merged pages in settled regions.
    pub(crate) settled: u64,
    /// Effort spent on anything but pages, in units.
    pub(crate) beside: u64,
}

/// An unmerged page that was seen.
pub(crate) struct Seen {
    addr: usize,
    pub(crate) frame: Frame,
    pub(crate) glimpse: Glimpse,
}

impl Seen {
    /// The page as a candidate of this visit.
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
    /// Makes an empty batch.
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

    /// Effort of this batch, in pages: the scanned pages, and the number of pages that cost as much as
    /// the other work.
    pub(crate) fn effort(&self) -> u64 {
        (self.pages.len() as u64)
            .saturating_add(self.merged)
            .saturating_add(self.tagged)
            .saturating_add(self.beside / PAGE)
    }

    /// Reads the unclear pages, whose owner is in `domain`, as a whole. Calls `zero` for zero-filled
    /// pages if these are merged with the zero page; inspects all others if they are merged.
    ///
    /// No reference was held since the sample was taken, so the frame may hold another page by now,
    /// even of another domain. That does no harm. The engine then records a content that no page has,
    /// and before any page is merged with it, the merge checks who maps that page.
    pub(crate) fn inspect(
        &mut self,
        keys: &Keys,
        settings: &StepSettings,
        domain: Domain,
        mut zero: impl FnMut(Candidate),
    ) {
        for candidate in self.unclear.drain_all() {
            let Some(page) = PageRef::candidate(candidate.frame) else {
                continue;
            };
            let domain = settings.policy.domain_of_page(domain, candidate.frame);
            let content = page.content();
            if !content.is_readable() {
                continue;
            }
            let inspected = match settings.contents {
                Contents::All => keys.inspect(domain, &content),
                Contents::AllAlike => Some(keys.inspect_any(domain, &content)),
                Contents::Zero if content.is_zero() => None,
                Contents::Zero => continue,
            };
            match inspected {
                // This does not fail: a batch has no more pages than that.
                Some(inspected) => {
                    let _ = self.inspected.push_within_capacity((candidate, inspected));
                }
                None => zero(candidate),
            }
        }
    }
}

/// The effort that a step may still spend.
pub(crate) struct Budget {
    /// Effort in units, worth no more pages than there is room for.
    units: u64,
    tables: u32,
}

impl Budget {
    /// The budget of a step that scans up to `limit` pages, and at most a batch.
    pub(crate) fn new(limit: u32) -> Self {
        Budget {
            units: units_of(limit),
            tables: TABLES,
        }
    }

    /// Renews the budget for up to `limit` more pages. The budget of page tables stays.
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

/// The effort of `pages` pages, and at most a batch, in units.
fn units_of(pages: u32) -> u64 {
    (BATCH as u64).min(pages.into()).saturating_mul(PAGE)
}

/// The effort to pass `pids` PIDs and to find an address space, in pages.
pub(crate) fn effort_to_find(pids: u32) -> u32 {
    const PIDS_PER_PAGE: u32 = 6;
    (pids / PIDS_PER_PAGE).saturating_add((SPACE / PAGE) as u32)
}

/// Collects the pages that a VMA maps.
pub(crate) struct Gatherer<'a> {
    commons: &'a Commons,
    settings: &'a StepSettings,
    /// The domain of the owner, and its salt.
    domain: Domain,
    salt: Salt,
    batch: &'a mut Batch,
    visits: &'a mut Visits,
    pub(crate) budget: &'a mut Budget,
    /// Address-space ID; `None` for `merge_now`.
    pub(crate) space: Option<u64>,
    /// The visit of the current region.
    visit: VisitNo,
    /// Number of samples that were reported to the visits.
    settled: usize,
}

impl<'a> Gatherer<'a> {
    /// Makes a gatherer that collects pages of `domain` into `batch`, as long as `budget` lasts.
    pub(crate) fn new(
        commons: &'a Commons,
        settings: &'a StepSettings,
        domain: Domain,
        batch: &'a mut Batch,
        visits: &'a mut Visits,
        budget: &'a mut Budget,
    ) -> Self {
        let settled = batch.pages.len();
        Gatherer {
            commons,
            settings,
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

    /// Charges the effort for a VMA.
    pub(crate) fn enter_area(&mut self) {
        self.look_beside(AREA);
    }

    /// Charges effort for anything but a page.
    fn look_beside(&mut self, units: u64) {
        self.batch.beside = self.batch.beside.saturating_add(units);
        self.budget.spend(units);
    }

    /// Ends the walk of a VMA.
    pub(crate) fn leave_area(&mut self) {
        self.settle();
        self.visit = VisitNo::NONE;
    }

    /// Skips a VMA that can't be locked, and drops the visit that would continue at `addr`.
    pub(crate) fn pass_busy_area(&mut self, addr: usize) {
        self.enter_area();
        if let Some(space) = self.space {
            self.visits.abandon(space, addr);
        }
    }

    /// Samples an unmerged page. There is room for the sample.
    #[inline]
    fn unmerged(&mut self, addr: usize, mapped: &Mapped<'_>) {
        if mapped.is_tagged() {
            self.batch.tagged = self.batch.tagged.saturating_add(1);
            return;
        }
        let (keys, frame) = (self.commons.keys(), mapped.frame());
        let glimpse = if self.settings.contents == Contents::Zero {
            mapped.glimpse_zero(keys)
        } else {
            mapped.glimpse(keys, self.salt_of(frame))
        };
        if let Some(glimpse) = glimpse {
            let seen = Seen {
                addr,
                frame,
                glimpse,
            };
            let _ = self.batch.pages.push_within_capacity(seen);
        }
    }

    /// The salt of the domain of the page on this frame.
    #[inline]
    fn salt_of(&self, frame: Frame) -> Salt {
        let domain = self.settings.policy.domain_of_page(self.domain, frame);
        if domain == self.domain {
            self.salt
        } else {
            self.commons.keys().salt(domain)
        }
    }

    /// Reports the samples taken since the last report to the visit.
    fn settle(&mut self) {
        let taken = self.batch.pages.len();
        let before = core::mem::replace(&mut self.settled, taken);
        self.visits
            .count_sampled(self.visit, taken.saturating_sub(before));
    }
}

impl Visitor for Gatherer<'_> {
    fn places(&self) -> Places {
        let offsets = self.commons.keys().sampled_offsets();
        match self.settings.contents {
            // Mostly the first place tells that a page is not full of zeroes.
            Contents::Zero => Places::first(1, offsets),
            Contents::All | Contents::AllAlike => Places::first(offsets.len(), offsets),
        }
    }

    fn part(&mut self, range: &Range<usize>, population: impl Fn() -> Population) -> bool {
        let Some(space) = self.space else {
            return true;
        };
        self.settle();
        let recall = |id| self.commons.recall_region(id);
        let coming = self.visits.come_to(recall, space, range, population);
        let (count, pages) = match coming {
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

    fn merged_zero(&mut self, _zero: MergedZero<'_>) -> ControlFlow<()> {
        self.visits.count_found_merged(self.visit);
        ControlFlow::Continue(())
    }

    #[inline]
    fn page(&mut self, addr: usize, mapped: Mapped<'_>) -> ControlFlow<()> {
        // There is room: no more pages are scanned than a batch holds.
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
