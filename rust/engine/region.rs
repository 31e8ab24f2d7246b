// SPDX-License-Identifier: GPL-2.0

//! Regions: parts of address spaces, and how often it pays to look at their pages.
//!
//! A region in which nothing was merged for a while is *barren*, one whose merges are broken as
//! fast as they are made is *thrashing*. Both are visited every second, fourth, eighth pass instead
//! of in each; a barren one earlier if other pages are mapped there. The passes in which regions
//! are due are multiples of each other: now and then all are visited in one pass, so that equal
//! pages meet.
//!
//! A region stays thrashing until a visit finds its merges intact and nothing to merge. Merging pages
//! again can take several visits, as khugepaged may collapse the regions of all sharers: such visits
//! do not end the thrashing.
//!
//! One in which all pages are merged is *settled* as long as the same ones are mapped: there is no
//! more to be seen in it than that.

use crate::content::PAGE_SIZE;
use crate::hash::mix;
use crate::table::Entry;
use crate::table::Full;
use crate::table::Storage;
use crate::table::Table;
use core::mem::size_of;
use core::ops::Range;

/// The most passes from one visit to the next. A power of two.
pub const LONGEST_INTERVAL: u8 = 8;

/// Every so many passes the pages of settled regions are looked at, too: another page may have come to the
/// same frame, at the same place. Every region is due in those.
const LOOK_EVERY: u64 = 16;
const _: () = assert!(LOOK_EVERY % LONGEST_INTERVAL as u64 == 0);

/// Bytes that a region has at the most, and of which its beginning is a multiple where an area has
/// more of them: what a page table maps, with pages of [`PAGE_SIZE`] and entries of 64 bits.
const REGION_BYTES: usize = PAGE_SIZE * (PAGE_SIZE / size_of::<u64>());

/// Where two threads part what is left of an area: about in the middle, where a region begins; `None`
/// where there is no such place.
pub fn middle(rest: &Range<usize>) -> Option<usize> {
    let half = rest.end.saturating_sub(rest.start) / 2;
    let middle = rest.start.checked_add(half)?;
    let below = middle - middle % REGION_BYTES;
    let boundaries = [Some(below), below.checked_add(REGION_BYTES)];
    let is_within = |boundary: &usize| rest.start < *boundary && *boundary < rest.end;
    boundaries.into_iter().flatten().find(is_within)
}

/// By what a region is known: a number that no other region has, but for a rare accident, which
/// makes a visit late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(pub u64);

/// How visits are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The number of this pass.
    pub pass: u64,
    /// Visits in a row in vain after which a region is visited less often.
    pub patience: u8,
    /// The most passes from one visit to the next: a power of two, up to [`LONGEST_INTERVAL`].
    pub longest_interval: u8,
}

/// A visit of a region that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    id: RegionId,
    /// Which pages were mapped when it began.
    digest: u32,
    /// In how many passes the next visit comes, at the latest.
    pub next_within: u8,
    /// All pages were merged when they were looked at last, and they are the same ones still: the
    /// visit ends at once, whatever its [`Outcome`].
    pub is_settled: bool,
}

/// What a visit brought, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Looked at, the merged ones included.
    pub looked_at: u16,
    /// Merged already when they were met.
    pub found_merged: u16,
    /// Merged during the visit.
    pub merged: u16,
    /// Whether others of the same content were seen, and only not often enough yet.
    pub is_promising: bool,
}

impl Outcome {
    /// How many pages are merged now, as [`Record::merged`] has it.
    fn merged_in_all(&self) -> u16 {
        let merged = self.found_merged.saturating_add(self.merged);
        // Not where there is nothing: the pages of a settled region count as looked at.
        let all = if merged == self.looked_at && merged > 0 {
            Record::ALL
        } else {
            0
        };
        merged.min(Record::THRASHING - 1) | all
    }
}

/// A region that was come to, and what is known of it.
#[derive(Clone, Copy)]
pub struct Prospect {
    id: RegionId,
    plan: Plan,
    record: Option<Record>,
}

impl Prospect {
    /// Visits the region; `None`: it is not due, and to be passed over.
    ///
    /// `digest` says which pages are mapped there: other pages, another number. It is not asked
    /// where that is of no use.
    pub fn visit(&self, digest: impl FnOnce() -> u32) -> Option<Visit> {
        let Prospect { id, plan, record } = self;
        let mut visit = Visit {
            id: *id,
            digest: Record::ANY_PAGES,
            next_within: 1,
            is_settled: false,
        };
        let is_due = record.is_none_or(|record| record.due == due(plan.pass));
        let vain_visits = record.map_or(0, |record| record.vain_visits);
        let was_merged = record.is_some_and(|record| record.is_merged());
        visit.next_within = plan.until_next(vain_visits.saturating_add(1));
        if is_due && visit.next_within == 1 && !was_merged {
            return Some(visit);
        }
        let seen = record.map_or(Record::ANY_PAGES, |record| record.digest);
        if !is_due && seen == Record::ANY_PAGES {
            return None;
        }
        visit.digest = digest().max(Record::ANY_PAGES + 1);
        let is_looked_at = plan.pass % LOOK_EVERY == 0;
        visit.is_settled = was_merged && seen == visit.digest && !is_looked_at;
        (is_due || seen != visit.digest).then_some(visit)
    }
}

/// The regions that were visited.
pub struct Regions<S: Storage<Record>> {
    records: Table<Record, S>,
    seed: u64,
}

impl<S: Storage<Record>> Regions<S> {
    /// Makes an empty set. Whoever does not know `seed` can't make its regions collide.
    pub const fn new(seed: u64) -> Self {
        Regions {
            records: Table::new(),
            seed,
        }
    }

    /// Memory of the table, in bytes.
    pub fn bytes(&self) -> usize {
        self.records.bytes()
    }

    /// Forgets all regions: each is visited in the next pass.
    pub fn clear(&mut self) {
        self.records.clear();
    }

    /// Comes to a region, and says what is known of it.
    pub fn recall(&self, id: RegionId, plan: &Plan) -> Prospect {
        Prospect {
            id,
            plan: *plan,
            record: self.records.get(self.hash(id)).copied(),
        }
    }

    /// Ends a visit.
    ///
    /// # Errors
    ///
    /// [`Full`] where there is no memory to remember it: the region is visited in the next pass.
    pub fn end_visit(
        &mut self,
        storage: &S,
        visit: Visit,
        plan: &Plan,
        outcome: Outcome,
    ) -> Result<(), Full> {
        let hash = self.hash(visit.id);
        let first = Record::new(hash);
        let before = self.records.get(hash).copied().unwrap_or(first);
        let after = before.after(visit, plan, outcome);
        if plan.longest_interval <= 1 && !after.is_merged() {
            // It is due in any case. What was known of it goes with the pass.
            return Ok(());
        }
        if let Some(record) = self.records.get_or_insert(storage, hash, || after)? {
            *record = after;
        }
        Ok(())
    }

    /// Ends the pass of this number: forgets the regions that were due and not visited.
    pub fn end_pass(&mut self, storage: &S, pass: u64) {
        self.records.retain(|record| record.due != due(pass));
        self.records.shrink(storage);
    }

    fn hash(&self, id: RegionId) -> u64 {
        mix(id.0 ^ self.seed).min(Record::GREATEST_HASH)
    }
}

impl Plan {
    /// In how many passes a region is visited next, after so many visits in vain.
    fn until_next(&self, vain_visits: u8) -> u8 {
        let steps = vain_visits.saturating_sub(self.patience.saturating_sub(1));
        let interval = 1u8.checked_shl(steps.into()).unwrap_or(LONGEST_INTERVAL);
        until_multiple(self.pass, interval.min(self.longest_interval))
    }
}

/// How many passes after `pass` the next one comes whose number is a multiple of `interval`, a
/// power of two.
fn until_multiple(pass: u64, interval: u8) -> u8 {
    let since = pass as u8 & interval.wrapping_sub(1);
    interval.wrapping_sub(since)
}

/// What is remembered of a region: 16 bytes.
#[derive(Clone, Copy, Default)]
pub struct Record {
    /// Inverted, so that a vacant slot has the greatest.
    not_hash: u64,
    /// Which pages were mapped when the last visit began; [`Self::ANY_PAGES`] where others make no
    /// difference.
    digest: u32,
    /// Pages that were merged when a visit last merged or found as many; with [`Self::ALL`], these were
    /// all; with [`Self::THRASHING`], the region thrashes.
    merged: u16,
    /// Visits in a row that brought nothing, or nothing that lasted.
    vain_visits: u8,
    /// The pass of the next visit, by its last bits.
    due: u8,
}

impl Record {
    const GREATEST_HASH: u64 = u64::MAX - 1;
    const ANY_PAGES: u32 = 0;
    /// A region has no more pages than a page table has entries, which leaves this bit.
    const ALL: u16 = 1 << 15;
    const THRASHING: u16 = 1 << 14;

    fn new(hash: u64) -> Self {
        Record {
            not_hash: !hash,
            ..Record::default()
        }
    }

    /// What is remembered after one more visit.
    fn after(self, visit: Visit, plan: &Plan, outcome: Outcome) -> Self {
        let was_thrashing = self.merged & Record::THRASHING != 0;
        let broke_again = self.broke_again(outcome);
        let has_hope = outcome.merged > 0 || outcome.is_promising;
        let is_intact = visit.is_settled || self.broken(outcome) == 0;
        let is_thrashing = broke_again || was_thrashing && (has_hope || !is_intact);
        let one_more = self.vain_visits.saturating_add(1);
        let vain_visits = match (broke_again, has_hope, was_thrashing) {
            (true, ..) => one_more.max(plan.patience),
            (false, true, true) => self.vain_visits,
            (false, true, false) => 0,
            (false, false, _) => one_more,
        };
        let flag = if is_thrashing { Record::THRASHING } else { 0 };
        Record {
            // The pages of a thrashing region change all the time.
            digest: if is_thrashing {
                Record::ANY_PAGES
            } else {
                visit.digest
            },
            merged: self.merged_after(visit, outcome) | flag,
            vain_visits,
            due: due(plan.pass.wrapping_add(plan.until_next(vain_visits).into())),
            ..self
        }
    }

    /// Pages merged, without the flag. A visit that merges nothing does not forget the broken ones:
    /// a later visit may merge them again.
    fn merged_after(self, visit: Visit, outcome: Outcome) -> u16 {
        let before = self.merged & !Record::THRASHING;
        if visit.is_settled {
            before
        } else if outcome.merged == 0 && self.broken(outcome) > 0 {
            before & !Record::ALL
        } else {
            outcome.merged_in_all()
        }
    }

    /// Merged pages that were broken since they were merged.
    fn broken(&self, outcome: Outcome) -> u16 {
        let merged = self.merged & !(Record::ALL | Record::THRASHING);
        merged.saturating_sub(outcome.found_merged)
    }

    /// Whether at least half of the pages merged now had been broken before.
    fn broke_again(&self, outcome: Outcome) -> bool {
        outcome.merged > 0 && self.broken(outcome) >= outcome.merged.div_ceil(2)
    }

    /// Whether all pages were merged when the last visit ended.
    fn is_merged(&self) -> bool {
        self.merged & Record::ALL != 0
    }
}

impl Entry for Record {
    fn is_vacant(&self) -> bool {
        self.not_hash == 0
    }

    fn hash(&self) -> u64 {
        !self.not_hash
    }
}

/// A pass, as records have it: less than 2^8 passes lie between now and what is due.
fn due(pass: u64) -> u8 {
    pass as u8
}
