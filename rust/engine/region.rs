// SPDX-License-Identifier: GPL-2.0

//! Regions: parts of address spaces. The engine decides how often the scanner visits each.
//!
//! - A region is *barren* if nothing was merged in it for a while. It is visited every second, then
//!   every fourth, then every eighth pass, and earlier if other pages are mapped there.
//! - A region *thrashes* if its merges are broken as fast as they are made. It is visited as rarely,
//!   whichever pages are mapped there. It thrashes until a visit finds its merges intact and nothing to
//!   merge. Merging pages again can take several visits, since khugepaged may collapse the regions of
//!   all sharers. These visits do not end the thrashing.
//! - A region is *settled* if all of its pages are merged, as long as the same pages are mapped. A
//!   visit has nothing else to find there.
//!
//! The passes in which regions are due are multiples of two, four and eight. So in some passes all
//! regions are visited, and equal pages meet.

use crate::content::PAGE_SIZE;
use crate::hash::mix;
use crate::huge::SplitRule;
use crate::huge::HUGE_PARTS;
use crate::table::Entry;
use crate::table::Full;
use crate::table::Storage;
use crate::table::Table;
use core::ops::Range;

/// Longest interval between two visits, in passes. A power of two.
pub const LONGEST_INTERVAL: u8 = 8;

/// Interval at which the pages of settled regions are scanned, too, in passes: another page may have
/// come to the same frame, at the same address. Every region is due in these passes.
const LOOK_EVERY: u64 = 16;
const _: () = assert!(LOOK_EVERY % LONGEST_INTERVAL as u64 == 0);

/// Largest size of a region, and the alignment of the boundaries between regions: the span of one page
/// table, with pages of [`PAGE_SIZE`] and entries of 64 bits.
pub const REGION_BYTES: usize = PAGE_SIZE * HUGE_PARTS as usize;

/// The address at which two threads split the rest of a VMA: the boundary of a region near the middle.
/// `None` if the rest contains no such boundary.
pub fn middle(rest: &Range<usize>) -> Option<usize> {
    let half = rest.end.saturating_sub(rest.start) / 2;
    let middle = rest.start.checked_add(half)?;
    let below = middle - middle % REGION_BYTES;
    let boundaries = [Some(below), below.checked_add(REGION_BYTES)];
    let is_within = |boundary: &usize| rest.start < *boundary && *boundary < rest.end;
    boundaries.into_iter().flatten().find(is_within)
}

/// Identifies a region. Two regions have the same number only by a rare accident, which delays a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(pub u64);

/// What the next visits depend on: the current pass, and the settings that space visits out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of the current pass.
    pub pass: u64,
    /// Number of successive vain visits after which a region is visited less often.
    pub patience: u8,
    /// Longest interval between two visits, in passes: a power of two, up to [`LONGEST_INTERVAL`].
    pub longest_interval: u8,
    /// Which large pages are split.
    pub split: SplitRule,
}

/// A visit of a region that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    id: RegionId,
    /// Digest of the pages that were mapped when the visit began.
    digest: u32,
    /// Largest number of passes until the next visit.
    pub next_within: u8,
    /// Whether all pages were merged when they were last scanned, and the same pages are still mapped.
    /// The visit then ends at once, whatever its [`VisitOutcome`].
    pub is_settled: bool,
    /// Whether the last visit found that it pays to split the large pages of the region.
    pub is_worth_splitting: bool,
}

/// The result of a visit, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VisitOutcome {
    /// Scanned pages, including merged ones.
    pub looked_at: u16,
    /// Pages that were already merged when the visit met them.
    pub found_merged: u16,
    /// Pages that were merged during the visit.
    pub merged: u16,
    /// Mergeable pages that were part of large pages.
    pub mergeable_in_large: u16,
    /// Whether some page has a content that was also seen elsewhere, but not often enough to be merged.
    pub is_promising: bool,
}

impl VisitOutcome {
    /// Number of pages that are merged now, with the flags of [`RegionRecord::merged`].
    fn merged_in_all(&self) -> u16 {
        let merged = self.found_merged.saturating_add(self.merged);
        // A region without pages is not settled, because the pages of settled regions count as scanned.
        let all = if merged == self.looked_at && merged > 0 {
            RegionRecord::ALL
        } else {
            0
        };
        merged.min(RegionRecord::WORTH_SPLITTING - 1) | all
    }
}

/// A region that the scanner has reached, and its record.
#[derive(Clone, Copy)]
pub struct Prospect {
    id: RegionId,
    plan: Plan,
    record: Option<RegionRecord>,
}

impl Prospect {
    /// Begins a visit of the region. Returns `None` if the region is not due and is to be skipped.
    ///
    /// `digest` computes a number from the pages that are mapped there; other pages give another
    /// number. It is called only if its value makes a difference.
    pub fn visit(&self, digest: impl FnOnce() -> u32) -> Option<Visit> {
        let Prospect { id, plan, record } = self;
        let mut visit = Visit {
            id: *id,
            digest: RegionRecord::ANY_PAGES,
            next_within: 1,
            is_settled: false,
            is_worth_splitting: self.is_worth_splitting(),
        };
        let is_due = record.is_none_or(|record| record.due == due(plan.pass));
        let vain_visits = record.map_or(0, |record| record.vain_visits);
        let was_merged = record.is_some_and(|record| record.is_merged());
        visit.next_within = plan.until_next(vain_visits.saturating_add(1));
        if is_due && visit.next_within == 1 && !was_merged {
            return Some(visit);
        }
        let seen = record.map_or(RegionRecord::ANY_PAGES, |record| record.digest);
        if !is_due && seen == RegionRecord::ANY_PAGES {
            return None;
        }
        visit.digest = digest().max(RegionRecord::ANY_PAGES + 1);
        let is_scanned = plan.pass % LOOK_EVERY == 0;
        visit.is_settled = was_merged && seen == visit.digest && !is_scanned;
        (is_due || seen != visit.digest).then_some(visit)
    }

    /// Whether the last visit found that it pays to split the large pages of the region.
    pub fn is_worth_splitting(&self) -> bool {
        self.record
            .is_some_and(|record| record.is_worth_splitting())
    }
}

/// The records of the regions that were visited.
pub struct Regions<S: Storage<RegionRecord>> {
    records: Table<RegionRecord, S>,
    seed: u64,
}

impl<S: Storage<RegionRecord>> Regions<S> {
    /// Makes an empty set. A process that does not know `seed` can't make regions collide.
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

    /// Forgets all regions, so that each is visited in the next pass.
    pub fn clear(&mut self) {
        self.records.clear();
    }

    /// Looks up what is known of a region that the scanner has reached.
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
    /// [`Full`]: there is no memory to remember the visit. The region is visited in the next pass.
    pub fn end_visit(
        &mut self,
        storage: &S,
        visit: Visit,
        plan: &Plan,
        outcome: VisitOutcome,
    ) -> Result<(), Full> {
        let hash = self.hash(visit.id);
        let first = RegionRecord::new(hash);
        let before = self.records.get(hash).copied().unwrap_or(first);
        let after = before.after(visit, plan, outcome);
        if plan.longest_interval <= 1 && !after.is_merged() && !after.is_worth_splitting() {
            // The region is due in every pass. Its record ends with this pass.
            return Ok(());
        }
        if let Some(record) = self.records.get_or_insert(storage, hash, || after)? {
            *record = after;
        }
        Ok(())
    }

    /// Ends the pass of this number: forgets the regions that were due but were not visited.
    pub fn end_pass(&mut self, storage: &S, pass: u64) {
        self.records.retain(|record| record.due != due(pass));
        self.records.shrink(storage);
    }

    fn hash(&self, id: RegionId) -> u64 {
        mix(id.0 ^ self.seed).min(RegionRecord::GREATEST_HASH)
    }
}

impl Plan {
    /// Number of passes until the next visit of a region with this number of vain visits.
    fn until_next(&self, vain_visits: u8) -> u8 {
        let steps = vain_visits.saturating_sub(self.patience.saturating_sub(1));
        let interval = 1u8.checked_shl(steps.into()).unwrap_or(LONGEST_INTERVAL);
        until_multiple(self.pass, interval.min(self.longest_interval))
    }
}

/// Number of passes from `pass` to the next pass whose number is a multiple of `interval`, which is a
/// power of two.
fn until_multiple(pass: u64, interval: u8) -> u8 {
    let since = pass as u8 & interval.wrapping_sub(1);
    interval.wrapping_sub(since)
}

/// What is remembered of a region: 16 bytes.
#[derive(Clone, Copy, Default)]
pub struct RegionRecord {
    /// The hash, inverted, so that a vacant slot has the greatest hash.
    not_hash: u64,
    /// Digest of the pages that were mapped when the last visit began; [`Self::ANY_PAGES`] if other
    /// pages make no visit due.
    digest: u32,
    /// Number of merged pages after the last visit that merged pages or found all of them intact.
    /// [`Self::ALL`] is set if these were all pages, [`Self::THRASHING`] if the region thrashes,
    /// [`Self::WORTH_SPLITTING`] if it pays to split its large pages.
    merged: u16,
    /// Number of successive visits that merged nothing, or nothing that lasted.
    vain_visits: u8,
    /// The last bits of the number of the pass of the next visit.
    due: u8,
}

impl RegionRecord {
    const GREATEST_HASH: u64 = u64::MAX - 1;
    /// Stands for any digest.
    const ANY_PAGES: u32 = 0;
    /// A flag in [`Self::merged`]. A page table has 512 entries, so the number of pages leaves the upper
    /// bits free.
    const ALL: u16 = 1 << 15;
    /// A flag in [`Self::merged`].
    const THRASHING: u16 = 1 << 14;
    /// A flag in [`Self::merged`].
    const WORTH_SPLITTING: u16 = 1 << 13;
    const FLAGS: u16 = RegionRecord::ALL | RegionRecord::THRASHING | RegionRecord::WORTH_SPLITTING;

    fn new(hash: u64) -> Self {
        RegionRecord {
            not_hash: !hash,
            ..RegionRecord::default()
        }
    }

    /// Returns the record after one more visit.
    fn after(self, visit: Visit, plan: &Plan, outcome: VisitOutcome) -> Self {
        let was_thrashing = self.merged & RegionRecord::THRASHING != 0;
        let broke_again = self.broke_again(outcome);
        let is_worth_splitting = self.is_worth_splitting_after(visit, plan, outcome);
        // The next visit splits what this one has left whole.
        let is_next_to_split = is_worth_splitting && !self.is_worth_splitting();
        let has_hope = outcome.merged > 0 || outcome.is_promising || is_next_to_split;
        let is_intact = visit.is_settled || self.broken(outcome) == 0;
        let is_thrashing = broke_again || was_thrashing && (has_hope || !is_intact);
        let one_more = self.vain_visits.saturating_add(1);
        let vain_visits = match (broke_again, has_hope, was_thrashing) {
            (true, ..) => one_more.max(plan.patience),
            (false, true, true) => self.vain_visits,
            (false, true, false) => 0,
            (false, false, _) => one_more,
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(is_thrashing, RegionRecord::THRASHING)
            | flag(is_worth_splitting, RegionRecord::WORTH_SPLITTING);
        RegionRecord {
            // The pages of a thrashing region change all the time.
            digest: if is_thrashing {
                RegionRecord::ANY_PAGES
            } else {
                visit.digest
            },
            merged: self.merged_after(visit, outcome) | flags,
            vain_visits,
            due: due(plan.pass.wrapping_add(plan.until_next(vain_visits).into())),
            ..self
        }
    }

    /// Returns the new value of [`Self::merged`], without the other flags than [`Self::ALL`]. A visit that merges nothing
    /// does not forget the broken pages, because a later visit may merge them again.
    fn merged_after(self, visit: Visit, outcome: VisitOutcome) -> u16 {
        let before = self.merged & !(RegionRecord::THRASHING | RegionRecord::WORTH_SPLITTING);
        if visit.is_settled {
            before
        } else if outcome.merged == 0 && self.broken(outcome) > 0 {
            before & !RegionRecord::ALL
        } else {
            outcome.merged_in_all()
        }
    }

    /// Whether it pays to split the large pages of the region, after this visit.
    fn is_worth_splitting_after(self, visit: Visit, plan: &Plan, outcome: VisitOutcome) -> bool {
        if visit.is_settled {
            return self.is_worth_splitting();
        }
        let parts = outcome.mergeable_in_large;
        plan.split.allows(parts.into(), HUGE_PARTS)
    }

    fn is_worth_splitting(&self) -> bool {
        self.merged & RegionRecord::WORTH_SPLITTING != 0
    }

    /// Number of merged pages that were broken since they were merged.
    fn broken(&self, outcome: VisitOutcome) -> u16 {
        let merged = self.merged & !RegionRecord::FLAGS;
        merged.saturating_sub(outcome.found_merged)
    }

    /// Whether at least half as many merged pages were broken as this visit merged.
    fn broke_again(&self, outcome: VisitOutcome) -> bool {
        outcome.merged > 0 && self.broken(outcome) >= outcome.merged.div_ceil(2)
    }

    /// Whether all pages were merged when the last visit ended.
    fn is_merged(&self) -> bool {
        self.merged & RegionRecord::ALL != 0
    }
}

impl Entry for RegionRecord {
    fn is_vacant(&self) -> bool {
        self.not_hash == 0
    }

    fn hash(&self) -> u64 {
        !self.not_hash
    }
}

/// A pass as records store it. A visit is due in fewer than 2^8 passes, so the last bits identify the
/// pass.
fn due(pass: u64) -> u8 {
    pass as u8
}
