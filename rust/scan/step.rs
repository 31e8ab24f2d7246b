// SPDX-License-Identifier: GPL-2.0

//! A step of the scanner: it scans a batch of pages of one process, and merges what can be merged.
//!
//! A step connects the engine, which decides, with [`crate::mm`], which finds pages and merges them.
//! Each thread has a [`Scanner`] of its own; shared state is in [`crate::scan::turns`].

use crate::mm::movers;
use crate::mm::policy::Grant;
use crate::mm::policy::Policy;
use crate::mm::policy::Scope;
use crate::mm::process::address_space_id;
use crate::mm::process::is_registered;
use crate::mm::process::Owner;
use crate::mm::refusal::Refusal;
use crate::mm::shortage::is_memory_short;
use crate::mm::terms::space_of;
use crate::mm::terms::Terms;
use crate::mm::vma::NextArea;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::walk;
use crate::scan::gather::effort_to_find;
use crate::scan::gather::Batch;
use crate::scan::gather::Budget;
use crate::scan::gather::Candidate;
use crate::scan::gather::Gatherer;
use crate::scan::gather::TABLES;
use crate::scan::merge::Merger;
use crate::scan::places::Place;
use crate::scan::profile::Contents;
use crate::scan::regions::VisitNo;
use crate::scan::regions::Visits;
use crate::scan::sets::Engine;
use crate::scan::sets::SetsGuard;
use crate::scan::state::StepSettings;
use crate::scan::turns::Commons;
use crate::sys::kthread::boot_time_ns;
use core::mem::take;
use core::ops::Range;
use engine::huge::SplitRule;
use engine::Domain;
use engine::Glance;
use engine::Verdict;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::mm::MmWithUserAsync;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::rcu;

/// Sightings after which `merge_now` merges a page: the page itself and its twin.
const SIGHTINGS_AT_ONCE: u8 = 2;
/// How many samples ahead what is known of one is fetched into the caches.
const AHEAD: usize = 8;
/// VMAs visited in one step, if they have few pages.
const AREAS: u32 = 64;

/// Which pages are scanned, and how soon they are merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// The pages of regions that are due.
    Due,
    /// All pages, due or not. A page that equals a known one is merged at once.
    All,
}

/// The part of an address space to scan.
struct Sweep {
    pages: Pages,
    range: Range<usize>,
    /// Whether a locked VMA is put off rather than skipped.
    is_patient: bool,
}

/// How far the scanner came in a part of an address space.
pub(crate) struct Progress {
    /// The address to go on at; `None` at the end.
    pub(crate) next: Option<usize>,
    /// End of the current VMA.
    area_end: usize,
    /// Whether the part has a VMA whose pages may be merged.
    pub(crate) is_admitted: bool,
    /// Number of VMAs skipped because they were locked.
    pub(crate) busy: u64,
    /// Whether the scanner stopped at a locked VMA.
    is_put_off: bool,
}

impl Progress {
    /// Nothing was scanned, and nothing is left.
    const NOTHING: Self = Progress {
        next: None,
        area_end: 0,
        is_admitted: false,
        busy: 0,
        is_put_off: false,
    };

    /// Goes on at `next`, which is in or after a VMA that ends at `area_end`; the part ends at `end`.
    fn advance(&mut self, next: usize, area_end: usize, end: usize) {
        self.next = (next < end).then_some(next);
        self.area_end = area_end.min(end);
    }
}

/// The address space being scanned.
struct ScannedSpace<'a> {
    mm: &'a MmWithUser,
    /// Address-space ID; `None` for `merge_now`.
    id: Option<u64>,
    /// What may be merged of it, as of the beginning of the step.
    grant: Grant,
    /// Whether a locked VMA is put off rather than skipped.
    is_patient: bool,
}

/// The buffers that one thread needs to scan and to merge.
pub(crate) struct Scanner {
    batch: Batch,
    visits: Visits,
    merger: Merger,
}

impl Scanner {
    /// Makes a scanner with empty buffers.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Scanner {
            batch: Batch::new()?,
            // One visit continued from an earlier step, one for each page table, and two in which a
            // batch ended.
            visits: Visits::new(TABLES as usize + 3)?,
            merger: Merger::new()?,
        })
    }

    /// Scans up to `limit` pages, and at most a batch, from `place` on, and merges what can be merged.
    /// Returns the effort in pages: the scanned pages, and the number of pages that cost as much as the
    /// other work.
    pub(crate) fn step(&mut self, commons: &Commons, mut place: Place, limit: u32) -> u32 {
        let finding = place.passed.take().map_or(0, effort_to_find);
        self.visits.resume(place.visit.take());
        let Some(user) = place.mm.mmget_not_zero() else {
            let mut state = commons.lock();
            let _ = self
                .visits
                .end(None, |visit, outcome| state.end_visit(visit, outcome));
            return finding;
        };
        // The last other user may exit meanwhile. The asynchronous mmput() then keeps the teardown of
        // its memory out of this thread.
        let user = MmWithUser::into_mmput_async(user);
        let sweep = Sweep {
            pages: Pages::Due,
            range: place.range.clone(),
            is_patient: place.wait_ms.is_some(),
        };
        let (progress, effort) = self.scan(commons, &user, sweep, limit);
        let next = progress.next.map(|addr| (addr, progress.area_end));
        let going_on = next.and_then(|(addr, _)| Some((address_space_id(&user)?, addr)));
        let mut state = commons.lock();
        state.count_merged(self.visits.take_pages_merged());
        if is_registered(&user) {
            state.meet_registered();
        }
        let end_visit = |visit, outcome| state.end_visit(visit, outcome);
        place.visit = self.visits.end(going_on, end_visit);
        if let Some((addr, area_end)) = next {
            place.range.start = addr;
            if progress.is_put_off {
                state.places.put_off(place);
            } else {
                state.places.put_back(place, area_end);
            }
        }
        finding.saturating_add(u32::try_from(effort).unwrap_or(u32::MAX))
    }

    /// Scans a batch of pages in `range` of an address space, and merges each page that equals a known
    /// one at once, even if that one is not shared yet.
    ///
    /// # Errors
    ///
    /// `ESRCH`: the process has exited.
    pub(crate) fn merge_at_once(
        &mut self,
        commons: &Commons,
        mm: &Mm,
        range: Range<usize>,
    ) -> Result<Progress> {
        let mm = MmWithUser::into_mmput_async(mm.mmget_not_zero().ok_or(ESRCH)?);
        let sweep = Sweep {
            pages: Pages::All,
            range,
            is_patient: false,
        };
        let (progress, _) = self.scan(commons, &mm, sweep, u32::MAX);
        let merged = self.visits.take_pages_merged();
        commons.lock().count_merged(merged);
        Ok(progress)
    }

    /// Scans up to `limit` pages of `mm`, and at most a batch. Also returns the effort, in pages.
    fn scan(
        &mut self,
        commons: &Commons,
        mm: &ARef<MmWithUserAsync>,
        sweep: Sweep,
        limit: u32,
    ) -> (Progress, u64) {
        let settings = commons.step_settings();
        let Some(grant) = grant_of(mm, settings.policy) else {
            return (Progress::NOTHING, 0);
        };
        let Sweep { pages, range, .. } = sweep;
        let space = ScannedSpace {
            mm,
            id: match pages {
                Pages::Due => address_space_id(mm),
                Pages::All => None,
            },
            grant,
            is_patient: sweep.is_patient,
        };
        movers::meet(mm);
        let began = boot_time_ns();
        let mut budget = Budget::new(limit);
        let mut progress = self.gather(commons, &settings, &space, range.clone(), &mut budget);
        let sets = commons.sets().try_lock();
        if sets.is_none() {
            // Another thread has the sets locked. Scan more pages before waiting for it.
            let left = u64::from(limit).saturating_sub(self.batch.effort());
            budget.refill(u32::try_from(left).unwrap_or(u32::MAX));
            progress = self.gather_on(commons, &settings, &space, progress, range.end, &mut budget);
        }
        let effort = self.batch.effort();
        self.decide(commons, &settings, grant.domain, pages, sets);
        if progress.busy > 0 {
            let mut sets = commons.sets().lock();
            sets.refusals.add(Refusal::Locked, progress.busy);
        }
        let terms = Terms {
            policy: settings.policy,
            domain: grant.domain,
            mm,
            space: space_of(mm),
            max_page_sharing: settings.max_page_sharing,
            split: self.split_rule(&settings, pages),
            use_zero_page: settings.contents.use_zero_page(),
            is_worth_splitting: &|mm, start| commons.is_worth_splitting(mm, start),
            make: &|mm, node| commons.make_shared(mm, node, began),
        };
        self.merger.merge_all(commons, &terms, &mut self.visits);
        (progress, effort)
    }

    /// Which large pages this step splits. A page in `merge_now` is worth a split, and so is any page while
    /// memory is short.
    fn split_rule(&self, settings: &StepSettings, pages: Pages) -> SplitRule {
        let (split, relaxed) = (settings.split, settings.split.relaxed());
        // Whether memory is short is asked only if the answer matters.
        let may_matter = split != relaxed && self.merger.has_candidates();
        if pages == Pages::All || may_matter && is_memory_short() {
            relaxed
        } else {
            split
        }
    }

    /// Samples the pages that may be merged, VMA by VMA, each under its VMA lock. If
    /// `space.is_patient`, stops at a locked VMA. Otherwise skips it; its regions stay due.
    fn gather(
        &mut self,
        commons: &Commons,
        settings: &StepSettings,
        space: &ScannedSpace<'_>,
        range: Range<usize>,
        budget: &mut Budget,
    ) -> Progress {
        let mut gatherer = Gatherer::new(
            commons,
            settings,
            space.grant.domain,
            &mut self.batch,
            &mut self.visits,
            budget,
        );
        gatherer.space = space.id;
        let mut progress = Progress {
            next: (!range.is_empty()).then_some(range.start),
            area_end: range.start,
            ..Progress::NOTHING
        };
        for _ in 0..AREAS {
            let Some(next) = progress.next.filter(|_| !progress.is_put_off) else {
                break;
            };
            gather_area(
                &mut gatherer,
                settings,
                space,
                next..range.end,
                &mut progress,
            );
            if gatherer.budget.is_spent() {
                break;
            }
        }
        progress
    }

    /// Samples more pages, from where `progress` ended up to `end`.
    fn gather_on(
        &mut self,
        commons: &Commons,
        settings: &StepSettings,
        space: &ScannedSpace<'_>,
        progress: Progress,
        end: usize,
        budget: &mut Budget,
    ) -> Progress {
        let Some(next) = progress
            .next
            .filter(|_| !progress.is_put_off && !budget.is_spent())
        else {
            return progress;
        };
        let more = self.gather(commons, settings, space, next..end, budget);
        Progress {
            is_admitted: more.is_admitted || progress.is_admitted,
            busy: more.busy.saturating_add(progress.busy),
            ..more
        }
    }

    /// Lets the engine decide on the pages of the batch, and queues those to merge for the merger.
    /// `sets` is the guard if the sets are already locked.
    fn decide<'a>(
        &mut self,
        commons: &'a Commons,
        settings: &StepSettings,
        domain: Domain,
        pages: Pages,
        sets: Option<SetsGuard<'a>>,
    ) {
        let mut sets = sets.unwrap_or_else(|| commons.sets().lock());
        sets.refusals.add(Refusal::Tagged, self.batch.tagged);
        self.count_passed_by(&mut sets.engine);
        let contents = settings.contents;
        promoting(&mut sets.engine, pages, |engine| {
            self.glance(engine, contents)
        });
        drop(sets);
        if self.batch.unclear.is_empty() {
            return;
        }
        let merger = &mut self.merger;
        self.batch
            .inspect(commons.keys(), settings, domain, |zero| {
                merger.nominate_late(zero)
            });
        let mut sets = commons.sets().lock();
        promoting(&mut sets.engine, pages, |engine| self.settle(engine));
    }

    /// Reports to the engine the numbers of pages that need no decision.
    fn count_passed_by(&mut self, engine: &mut Engine) {
        engine.pass_by(take(&mut self.batch.merged));
        engine.pass_by(take(&mut self.batch.tagged));
        engine.pass_by(take(&mut self.batch.settled));
        engine.skip(take(&mut self.batch.skipped));
        self.batch.beside = 0;
    }

    /// Lets the engine decide on the unmerged pages by their samples.
    fn glance(&mut self, engine: &mut Engine, contents: Contents) {
        let is_zero_wanted = contents == Contents::Zero;
        let mut rest = self.batch.pages.as_slice();
        // The pages left at the end belong to no visit.
        for visit in Iterator::chain(self.visits.numbers(), [VisitNo::NONE]) {
            let count = self.visits.take_sampled(visit).unwrap_or(usize::MAX);
            let (met, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = others;
            engine.remember_for(self.visits.next_within(visit));
            for (no, seen) in met.iter().enumerate() {
                let glance = if is_zero_wanted {
                    engine.glance_zero(seen.glimpse)
                } else {
                    let ahead = met.get(no.saturating_add(AHEAD));
                    ahead.inspect(|ahead| engine.expect(ahead.glimpse));
                    engine.glance(seen.frame, seen.glimpse)
                };
                match glance {
                    Glance::Wait => (),
                    Glance::Promising => self.visits.promise(visit),
                    // This does not fail: a batch has no more pages than that.
                    Glance::Look => {
                        let _ = self
                            .batch
                            .unclear
                            .push_within_capacity(seen.candidate(None, visit));
                    }
                    Glance::Merge(key) => {
                        self.merger.nominate(seen.candidate(Some(key), visit));
                    }
                }
            }
        }
        self.batch.pages.clear();
    }

    /// Lets the engine decide on the pages whose sample was not enough.
    fn settle(&mut self, engine: &mut Engine) {
        for (candidate, inspected) in self.batch.inspected.drain_all() {
            engine.remember_for(self.visits.next_within(candidate.visit));
            match engine.settle(candidate.frame, inspected) {
                Verdict::Wait | Verdict::Zero => (),
                Verdict::Promising => self.visits.promise(candidate.visit),
                Verdict::Merge(key) => self.merger.nominate_late(Candidate {
                    key: Some(key),
                    ..candidate
                }),
            }
        }
    }
}

/// Samples the pages of the first VMA in `range`, if they may be merged, and lets `progress` go on behind
/// them.
fn gather_area(
    gatherer: &mut Gatherer<'_>,
    settings: &StepSettings,
    space: &ScannedSpace<'_>,
    range: Range<usize>,
    progress: &mut Progress,
) {
    match VmaReadGuard::next(space.mm, range.start) {
        NextArea::Locked(vma) if vma.start() < range.end => {
            let part = range.start.max(vma.start())..vma.end().min(range.end);
            let area_end = part.end;
            gatherer.enter_area();
            movers::meet_area(space.mm, &vma);
            let next = if settings.policy.admits(&vma, space.grant) {
                progress.is_admitted = true;
                let next = walk(&vma, part, gatherer);
                gatherer.leave_area();
                next
            } else {
                area_end
            };
            progress.advance(next, area_end, range.end);
        }
        NextArea::Busy { .. } if space.is_patient => {
            gatherer.enter_area();
            progress.is_put_off = true;
        }
        NextArea::Busy { end } => {
            progress.busy = progress.busy.saturating_add(1);
            gatherer.pass_busy_area(range.start);
            progress.advance(end, end, range.end);
        }
        _ => progress.next = None,
    }
}

/// Calls `decide` while the engine promotes contents as early as `pages` demands.
fn promoting(engine: &mut Engine, pages: Pages, decide: impl FnOnce(&mut Engine)) {
    let sightings = engine.promote_after();
    if pages == Pages::All {
        engine.set_promote_after(sightings.min(SIGHTINGS_AT_ONCE));
    }
    decide(engine);
    engine.set_promote_after(sightings);
}

/// What may be merged of an address space; `None` if nothing, if it is not in scope, and while its last owner exits.
fn grant_of(mm: &Mm, policy: Policy) -> Option<Grant> {
    if policy.scope != Scope::All && !is_registered(mm) {
        return None;
    }
    let rcu = rcu::read_lock();
    policy.grant(&Owner::of(mm, &rcu)?)
}
