// SPDX-License-Identifier: GPL-2.0

//! The scanner: where it is in memory, and what it does with the pages it finds there.
//!
//! Joins the engine, which decides, and [`crate::mm`], which finds pages and merges them. Owned
//! by the daemon's mutex; a step holds it for one batch of pages.

use crate::mm::merge::Refusal;
use crate::mm::merge::Terms;
use crate::mm::merge::Twin;
use crate::mm::neighbours;
use crate::mm::neighbours::replace_all;
use crate::mm::neighbours::Neighbour;
use crate::mm::page::Kind;
use crate::mm::page::PageRef;
use crate::mm::policy::Policy;
use crate::mm::pool::Pool;
use crate::mm::process::Cursor;
use crate::mm::process::Owner;
use crate::mm::pte::Population;
use crate::mm::shared;
use crate::mm::shared::SharedPage;
use crate::mm::storage::KernelStorage;
use crate::mm::unmerge::unmerge;
use crate::mm::unmerge::Which;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::walk;
use crate::mm::walk::Held;
use crate::mm::walk::Mapped;
use crate::mm::walk::MergedZero;
use crate::mm::walk::Visitor;
use crate::mm::zero;
use crate::shim;
use crate::visits::VisitNo;
use crate::visits::Visits;
use core::ops::ControlFlow;
use core::ops::Range;
use engine::pace::Totals;
use engine::Domain;
use engine::Frame;
use engine::Glance;
use engine::HashKind;
use engine::Key;
use engine::KsmScanner;
use engine::Sample;
use engine::Sight;
use engine::Target;
use engine::Verdict;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::mm::MmWithUserAsync;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::rcu;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

/// Pages looked at in one step: as many as a page table has.
const BATCH: usize = 512;
/// Sightings after which a page is merged that somebody wants merged at once: it and its twin.
const SIGHTINGS_AT_ONCE: u8 = 2;
/// Page tables looked at in one step, where there are few pages in them.
const TABLES: u32 = 16;
/// A page that is passed over costs as much as this part of one that is looked at.
const SKIPPED_PER_PAGE: u64 = 64;
/// Areas looked at in one step, where there are few pages in them.
const AREAS: u32 = 64;
/// Rounds over all processes in a row that may find nothing to unmerge while pages are shared
/// still: as long as exiting processes take to give up their memory.
const IDLE_ROUNDS: u32 = 500;
/// Rounds over all processes, for what forks hid from the one before, until some frames are left.
const EVACUATION_ROUNDS: u32 = 3;
/// Pause after a round that found nothing.
const IDLE_PAUSE: Delta = Delta::from_millis(10);

pub(crate) type Engine = KsmScanner<KernelStorage>;

/// A page that was looked at and is to be merged.
#[derive(Clone, Copy)]
struct Candidate {
    /// Where it was seen.
    addr: usize,
    frame: Frame,
    /// `None`: full of zeroes.
    key: Option<Key>,
    /// When it was met.
    visit: VisitNo,
}

impl Candidate {
    /// What a candidate was merged with: not met now, but known.
    fn twin(addr: usize, frame: Frame, key: Key) -> Self {
        Candidate {
            addr,
            frame,
            key: Some(key),
            visit: VisitNo::NONE,
        }
    }
}

/// An address space, and up to where it has been scanned in this pass.
struct Place {
    /// Does not keep the memory of a process that exits.
    mm: ARef<Mm>,
    addr: usize,
}

/// Which pages are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// Those of the regions that are due.
    Due,
    /// All, whether it is their turn or not.
    All,
}

/// How far the scanner came in a part of an address space.
pub(crate) struct Progress {
    /// Where to go on; `None` at the end.
    pub(crate) next: Option<usize>,
    /// Whether some area is there that may be merged.
    pub(crate) is_admitted: bool,
}

/// An address space that is scanned.
struct Space<'a> {
    mm: &'a MmWithUser,
    /// By what regions are told from those of other address spaces; `None`: looked at out of turn.
    id: Option<u64>,
}

/// What a step did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Step {
    /// Pages looked at; of those passed over, as many as cost the same.
    pub(crate) pages: u32,
    /// Whether it came to the end of all memory.
    pub(crate) end_of_pass: bool,
}

/// The scanner.
pub(crate) struct Scanner {
    /// Decides, counts and holds the knobs that are documented for it.
    pub(crate) engine: Engine,
    policy: Policy,
    pool: Pool,
    cursor: Cursor,
    place: Option<Place>,
    at_start_of_pass: bool,
    batch: Batch,
    visits: Visits,
    run: Run,
}

impl Scanner {
    /// Makes a scanner that is not enabled.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(hash: HashKind, seed: u64) -> Result<Self> {
        Ok(Scanner {
            engine: KsmScanner::with(KernelStorage, hash, seed),
            policy: Policy::default(),
            pool: Pool::new()?,
            cursor: Cursor::default(),
            place: None,
            at_start_of_pass: true,
            batch: Batch::new()?,
            visits: Visits::new(TABLES as usize + 1)?,
            run: Run::new()?,
        })
    }

    /// The rules in force.
    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    /// Changes the rules.
    ///
    /// # Errors
    ///
    /// `EBUSY`: who may share with whom can't change while pages are shared.
    pub(crate) fn set_policy(&mut self, policy: Policy) -> Result {
        if policy.division != self.policy.division {
            self.recount();
            if self.engine.get_stats().pages_shared > 0 {
                return Err(EBUSY);
            }
            self.engine.init();
        }
        self.policy = policy;
        Ok(())
    }

    /// Brings the counts up to date.
    pub(crate) fn recount(&mut self) {
        self.engine.recount(shared::mappings);
    }

    /// Looks at up to `limit` pages (and a batch at the most) and merges what can be merged.
    pub(crate) fn step(&mut self, limit: u32) -> Step {
        if self.at_start_of_pass {
            drain_lru();
            self.at_start_of_pass = false;
        }
        let Some(place) = self.place.take().or_else(|| self.next_place()) else {
            self.engine.end_pass(shared::mappings);
            zero::correct_sum();
            self.at_start_of_pass = true;
            return Step {
                pages: 0,
                end_of_pass: true,
            };
        };
        let before = self.effort();
        if let Some(mm) = place.mm.mmget_not_zero() {
            // The last user may go meanwhile: its memory is not torn down in this thread.
            let mm = MmWithUser::into_mmput_async(mm);
            // An error means that an area is just being changed: come back in the next pass.
            let progress = self.scan(&mm, place.addr..usize::MAX, limit, Pages::Due);
            let next = progress.ok().and_then(|progress| progress.next);
            let going_on = next.and_then(|addr| Some((space_id(&mm)?, addr)));
            self.visits.end(&mut self.engine, going_on);
            self.place = next.map(|addr| Place { mm: place.mm, addr });
        } else {
            self.visits.end(&mut self.engine, None);
        }
        let pages = self.effort().wrapping_sub(before);
        Step {
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            end_of_pass: false,
        }
    }

    /// Looks at a batch of pages in `range` of an address space, and merges at once what equals
    /// anything that is known: with pages that are not shared yet, too.
    ///
    /// # Errors
    ///
    /// `ESRCH`: the process has exited. `EINTR`: the caller is being killed. `EAGAIN`: an area is
    /// just being changed.
    pub(crate) fn merge_at_once(&mut self, mm: &Mm, range: Range<usize>) -> Result<Progress> {
        let mm = MmWithUser::into_mmput_async(mm.mmget_not_zero().ok_or(ESRCH)?);
        let sightings = self.engine.promote_after();
        self.engine
            .set_promote_after(sightings.min(SIGHTINGS_AT_ONCE));
        let progress = self.scan(&mm, range, u32::MAX, Pages::All);
        self.engine.set_promote_after(sightings);
        progress
    }

    /// Pages looked at since the start; of those passed over, as many as cost the same.
    fn effort(&self) -> u64 {
        let skipped = self.engine.pages_skipped() / SKIPPED_PER_PAGE;
        self.engine.get_stats().pages_scanned.wrapping_add(skipped)
    }

    /// What was done since the start.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            scanned: self.engine.get_stats().pages_scanned,
            merged: self.visits.pages_merged(),
        }
    }

    /// Breaks every merged page in every process, forgets all contents, gives spare memory back.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory for the copies. `EINTR`: the caller has a signal pending. `EBUSY`:
    /// pages are left in address spaces that belong to no process. What was broken stays so.
    pub(crate) fn unmerge(&mut self) -> Result {
        self.place = None;
        self.cursor = Cursor::default();
        self.visits.clear();
        self.at_start_of_pass = true;
        let result = self.unmerge_rounds();
        self.engine.init();
        self.pool.clear();
        result
    }

    /// Leaves `frames`, as far as shared pages go: breaks those that are merged there, gives spare
    /// ones back, and takes none of them for a while. Returns how many pages were broken apart.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory for the copies.
    pub(crate) fn evacuate(&mut self, frames: Range<u64>) -> Result<u64> {
        self.pool.bar(frames.clone());
        let which = Which::On(frames);
        let mut total = 0u64;
        for _ in 0..EVACUATION_ROUNDS {
            let broken = unmerge_all(&which)?;
            total = total.saturating_add(broken);
            if broken == 0 {
                break;
            }
        }
        self.recount();
        Ok(total)
    }

    /// Goes over all processes until nothing is shared: a round may miss what forks and exits hid
    /// from it.
    fn unmerge_rounds(&mut self) -> Result {
        let mut idle = 0;
        while idle < IDLE_ROUNDS {
            let broken = unmerge_all(&Which::All)?;
            self.recount();
            if broken > 0 {
                idle = 0;
                continue;
            }
            if self.engine.get_stats().pages_shared == 0 {
                return Ok(());
            }
            idle += 1;
            fsleep(IDLE_PAUSE);
            if current!().signal_pending() {
                return Err(EINTR);
            }
        }
        Err(EBUSY)
    }

    fn next_place(&mut self) -> Option<Place> {
        self.cursor.next().map(|mm| Place { mm, addr: 0 })
    }

    /// Scans some pages in `range` of `mm`, up to `limit` (and a batch at the most).
    ///
    /// # Errors
    ///
    /// `EINTR`: the caller is being killed. `EAGAIN`: an area is just being changed.
    fn scan(
        &mut self,
        mm: &ARef<MmWithUserAsync>,
        range: Range<usize>,
        limit: u32,
        pages: Pages,
    ) -> Result<Progress> {
        let Some(domain) = domain_of(mm, self.policy) else {
            return Ok(Progress {
                next: None,
                is_admitted: false,
            });
        };
        let space = Space {
            mm,
            id: match pages {
                Pages::Due => space_id(mm),
                Pages::All => None,
            },
        };
        let progress = self.gather(&space, range, limit);
        self.sight_merged(domain);
        self.decide(domain);
        let terms = Terms {
            policy: self.policy,
            domain,
            mm,
            max_page_sharing: self.engine.max_page_sharing(),
        };
        self.merge_all(&terms);
        progress
    }

    /// Takes samples of pages that may be merged, area by area, each under its VMA lock.
    fn gather(&mut self, space: &Space<'_>, range: Range<usize>, limit: u32) -> Result<Progress> {
        let mut budget = Budget {
            pages: BATCH.min(limit as usize),
            tables: TABLES,
        };
        let (mut addr, mut is_admitted) = (range.start, false);
        for _ in 0..AREAS {
            let vma = VmaReadGuard::next(space.mm, addr)?;
            let Some(vma) = vma.filter(|vma| vma.start() < range.end) else {
                addr = range.end;
                break;
            };
            let end = vma.end().min(range.end);
            addr = if may_merge(space.mm, &vma, self.policy) {
                is_admitted = true;
                self.gather_in(space.id, &vma, addr.max(vma.start())..end, &mut budget)
            } else {
                end
            };
            if budget.is_spent() || addr >= range.end {
                break;
            }
        }
        let next = (addr < range.end).then_some(addr);
        Ok(Progress { next, is_admitted })
    }

    /// Takes samples of pages of `vma` in `range`. Returns where to go on.
    fn gather_in(
        &mut self,
        space: Option<u64>,
        vma: &VmaReadGuard<'_>,
        range: Range<usize>,
        budget: &mut Budget,
    ) -> usize {
        let settled = self.batch.pages.len();
        let mut visitor = Gatherer {
            batch: &mut self.batch,
            engine: &self.engine,
            visits: &mut self.visits,
            space,
            visit: VisitNo::NONE,
            budget,
            settled,
        };
        let next = walk(vma, Held::VmaLock, range, &mut visitor);
        visitor.settle();
        next
    }

    /// Tells the engine of the merged pages that were met.
    fn sight_merged(&mut self, domain: Domain) {
        let passed_by = core::mem::take(&mut self.batch.passed_by);
        self.engine.pass_by(passed_by);
        self.engine.skip(core::mem::take(&mut self.batch.skipped));
        for (frame, mappings) in self.batch.merged.drain_all() {
            let sight = self.engine.sight_shared(frame, domain, mappings);
            if sight == Sight::Adoptable {
                if let Some(page) = SharedPage::readable(frame) {
                    self.engine.adopt(frame, domain, &page.content());
                }
            }
        }
    }

    /// Shows the unmerged pages that were met to the engine; what it wants merged is left in the
    /// batch's candidates.
    fn decide(&mut self, domain: Domain) {
        let Batch {
            pages, candidates, ..
        } = &mut self.batch;
        let mut rest = pages.as_slice();
        // What is left in the end was looked at out of turn.
        for visit in Iterator::chain(self.visits.numbers(), [VisitNo::NONE]) {
            let count = self.visits.take_sampled(visit).unwrap_or(usize::MAX);
            let (met, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = others;
            self.engine.remember_for(self.visits.next_within(visit));
            for seen in met {
                let key = match view(&mut self.engine, seen, domain) {
                    Verdict::Wait => continue,
                    Verdict::Promising => {
                        self.visits.promise(visit);
                        continue;
                    }
                    Verdict::Zero => None,
                    Verdict::Merge(key) => Some(key),
                };
                nominate(candidates, seen.candidate(key, visit));
            }
        }
        pages.clear();
    }

    /// Merges the candidates and what they are equal to: near ones together, and one by one what
    /// that is too simple for.
    fn merge_all(&mut self, terms: &Terms<'_>) {
        self.merge_candidates(terms);
        self.merge_twins(terms);
        // Not under the VMA lock: each looks for mappings in all processes.
        while let Some(candidate) = self.batch.involved.pop() {
            self.merge(terms, candidate);
        }
    }

    /// Merges the candidates, which all are in the address space of `terms`.
    fn merge_candidates(&mut self, terms: &Terms<'_>) {
        let mut next = 0;
        while next < self.batch.candidates.len() {
            next = self.merge_neighbours(terms, next);
        }
        self.batch.candidates.clear();
    }

    /// Merges the twins for which shared pages were made, those of one address space together.
    fn merge_twins(&mut self, terms: &Terms<'_>) {
        let mut twins = core::mem::take(&mut self.batch.twins);
        let mut rest = twins.drain_all().peekable();
        while let Some((Twin { frame, mm, addr }, key)) = rest.next() {
            let candidates = &mut self.batch.candidates;
            nominate(candidates, Candidate::twin(addr, frame, key));
            let is_beside = |(twin, _): &(Twin, Key)| core::ptr::eq(&*twin.mm, &*mm);
            while let Some((Twin { frame, addr, .. }, key)) = rest.next_if(is_beside) {
                nominate(candidates, Candidate::twin(addr, frame, key));
            }
            match mm.mmget_not_zero() {
                Some(mm) => {
                    let mm = &MmWithUser::into_mmput_async(mm);
                    self.merge_candidates(&Terms { mm, ..*terms });
                }
                None => self.batch.candidates.clear(),
            }
        }
        drop(rest);
        self.batch.twins = twins;
    }

    /// Merges the candidates from number `next` on that are near each other. Returns where to go
    /// on.
    fn merge_neighbours(&mut self, terms: &Terms<'_>, mut next: usize) -> usize {
        let area = self.batch.candidates.get(next);
        let Some(vma) = area.and_then(|first| area_of(terms, first.addr)) else {
            // It was changed meanwhile: come back in the next pass.
            return next + 1;
        };
        while let Some(&candidate) = self.batch.candidates.get(next) {
            if candidate.addr >= vma.end() || !self.run.takes(&candidate) {
                break;
            }
            next += 1;
            match self.prepare(terms, candidate) {
                Ok(neighbour) => self.run.push(candidate, neighbour),
                // There is room: as many as there are candidates and twins.
                Err(Refusal::Involved) => {
                    let _ = self.batch.involved.push_within_capacity(candidate);
                }
                Err(refusal) => refused(&mut self.engine, terms.domain, candidate, refusal),
            }
        }
        self.replace_run(terms, &vma);
        next
    }

    /// Makes ready what a candidate is to be replaced by.
    fn prepare(&mut self, terms: &Terms<'_>, candidate: Candidate) -> Result<Neighbour, Refusal> {
        let Candidate {
            addr, frame, key, ..
        } = candidate;
        let Some(key) = key else {
            return Neighbour::by_zero(addr, frame);
        };
        match self.engine.target(key).ok_or(Refusal::Gone)? {
            Target::Shared(shared) => Neighbour::by_shared(addr, frame, shared),
            Target::Twin(twin) if twin == frame => Err(Refusal::Gone),
            Target::Twin(twin) => Neighbour::by_new(addr, frame, twin, terms, &mut self.pool),
        }
    }

    /// Replaces the pages of the run, and tells the engine.
    fn replace_run(&mut self, terms: &Terms<'_>, vma: &VmaReadGuard<'_>) {
        let (engine, candidates) = (&self.engine, &self.run.candidates);
        let results = replace_all(terms, vma, &self.run.neighbours, &|index, content| {
            let key = candidates.get(index).and_then(|candidate| candidate.key);
            key.is_some_and(|key| engine.is_of(key, terms.domain, content))
        });
        let candidates = self.run.candidates.drain_all();
        // Gives up the pages, which frees those that were replaced.
        let neighbours = self.run.neighbours.drain_all();
        for ((candidate, neighbour), result) in candidates.zip(neighbours).zip(results) {
            if result.is_ok() {
                self.visits.count_merged(candidate.visit);
            }
            match (result, candidate.key, neighbour.shared()) {
                (Ok(()), Some(key), Some(shared)) => {
                    if neighbour.is_new() {
                        // Whatever shared page was on this frame before has been freed.
                        self.engine.forget_shared(shared.frame());
                    }
                    self.engine
                        .merged(key, shared.frame(), terms.domain, shared.mappings());
                    if let Some(twin) = neighbour.into_twin() {
                        // There is room: each candidate has one twin at the most.
                        let _ = self.batch.twins.push_within_capacity((twin, key));
                    }
                }
                (Ok(()), ..) => (),
                (Err(refusal), ..) => {
                    refused(&mut self.engine, terms.domain, candidate, refusal);
                }
            }
        }
    }

    /// Merges a page, by all of its mappings, with what the engine has for its content by now.
    fn merge(&mut self, terms: &Terms<'_>, candidate: Candidate) {
        let Candidate {
            frame, key, visit, ..
        } = candidate;
        let Some(key) = key else {
            if terms.join_zero(frame).is_ok() {
                self.visits.count_merged(visit);
            }
            return;
        };
        let merged = match self.engine.target(key) {
            None => return,
            Some(Target::Shared(target)) => terms.join(frame, target),
            Some(Target::Twin(twin)) if twin == frame => return,
            Some(Target::Twin(twin)) => self.share(terms, key, frame, twin),
        };
        match merged {
            Ok(shared) => {
                self.visits.count_merged(visit);
                let mappings = shared.mappings();
                self.engine
                    .merged(key, shared.frame(), terms.domain, mappings);
            }
            Err(refusal) => refused(&mut self.engine, terms.domain, candidate, refusal),
        }
    }

    /// Merges two pages into a new shared one.
    fn share(
        &mut self,
        terms: &Terms<'_>,
        key: Key,
        frame: Frame,
        twin: Frame,
    ) -> Result<SharedPage, Refusal> {
        let engine = &self.engine;
        let shared = terms.share(&mut self.pool, frame, twin, |content| {
            engine.is_of(key, terms.domain, content)
        })?;
        // Whatever shared page was on this frame before has been freed.
        self.engine.forget_shared(shared.frame());
        Ok(shared)
    }
}

/// Empties the per-CPU batches of the LRU: their pages carry a reference that looks like a pin.
/// May sleep.
pub(crate) fn drain_lru() {
    // SAFETY: Called by a thread that may sleep, with no lock held that a kernel worker wants.
    unsafe { shim::lru_add_drain_all() };
}

/// Tells the engine why a page was not merged, as far as that is of use to it.
fn refused(engine: &mut Engine, domain: Domain, candidate: Candidate, refusal: Refusal) {
    let Candidate { frame, key, .. } = candidate;
    let Some(key) = key else {
        return;
    };
    match refusal {
        Refusal::TargetGone => engine.refuted(key, frame),
        Refusal::Different => differed(engine, domain, key, frame),
        Refusal::Full => engine.retire(key, frame),
        _ => (),
    }
}

/// Tells the engine that a page does not equal its target, unless it just changed. As for [`look`],
/// other pages may be on both frames by now.
fn differed(engine: &mut Engine, domain: Domain, key: Key, frame: Frame) {
    let target = match engine.target(key) {
        Some(Target::Shared(shared)) => SharedPage::readable(shared).map(PageRef::from),
        Some(Target::Twin(twin)) => PageRef::candidate(twin),
        None => None,
    };
    let (Some(page), Some(target)) = (PageRef::candidate(frame), target) else {
        return;
    };
    if engine.is_of(key, domain, &page.content()) {
        engine.differed(key, frame, domain, &target.content());
    }
}

/// Shows a page that was met to the engine.
#[inline]
fn view(engine: &mut Engine, seen: &Seen, domain: Domain) -> Verdict {
    match engine.glance(seen.frame, domain, seen.sample) {
        Glance::Wait => Verdict::Wait,
        Glance::Promising => Verdict::Promising,
        Glance::Merge(key) => Verdict::Merge(key),
        Glance::Look => look(engine, seen.frame, domain),
    }
}

/// Looks at the whole of a page of which the sample was not enough.
///
/// No reference was held since the sample was taken, so that another page may be on the frame by
/// now, even of another domain. That does no harm: the engine takes note of a content that nobody
/// has; it would be merged only after a look at who maps it.
fn look(engine: &mut Engine, frame: Frame, domain: Domain) -> Verdict {
    PageRef::candidate(frame).map_or(Verdict::Wait, |page| {
        engine.look(frame, domain, &page.content())
    })
}

/// The area at `addr`, if pages of it may be merged on these terms.
fn area_of<'a>(terms: &Terms<'a>, addr: usize) -> Option<VmaReadGuard<'a>> {
    let vma = VmaReadGuard::next(terms.mm, addr).ok()??;
    (vma.start() <= addr && terms.allows(&vma)).then_some(vma)
}

/// Breaks what is merged in all processes; returns how many pages that were.
fn unmerge_all(which: &Which) -> Result<u64> {
    let mut cursor = Cursor::default();
    let mut broken = 0u64;
    while let Some(mm) = cursor.next() {
        if let Some(mm) = mm.mmget_not_zero() {
            let mm = MmWithUser::into_mmput_async(mm);
            broken = broken.saturating_add(unmerge(&mm, which)?);
        }
    }
    Ok(broken)
}

/// The domain of an address space; `None` while its last owner exits.
fn domain_of(mm: &Mm, policy: Policy) -> Option<Domain> {
    let rcu = rcu::read_lock();
    Owner::of(mm, &rcu).map(|owner| policy.domain(&owner))
}

/// The id of an address space; `None` as above.
fn space_id(mm: &Mm) -> Option<u64> {
    let rcu = rcu::read_lock();
    Owner::of(mm, &rcu).map(|owner| owner.address_space_id())
}

/// Whether pages of an area may be merged.
fn may_merge(mm: &Mm, vma: &VmaReadGuard<'_>, policy: Policy) -> bool {
    let rcu = rcu::read_lock();
    Owner::of(mm, &rcu).is_some_and(|owner| policy.admits(vma, &owner))
}

/// What is mapped in the part of an address space that a step looks at. Kept from step to step, so
/// that nothing is allocated under a page table lock. No page is referenced: references are what
/// merging takes for a pin.
struct Batch {
    /// Unmerged pages.
    pages: KVec<Seen>,
    /// Merged ones, with the number of their mappings.
    merged: KVec<(Frame, u32)>,
    /// Merged ones of which nobody wants to know more.
    passed_by: u64,
    /// Pages of regions that are not due.
    skipped: u64,
    /// Pages to merge.
    candidates: KVec<Candidate>,
    /// Pages for which shared pages were made, with the keys of those.
    twins: KVec<(Twin, Key)>,
    /// Candidates and twins that have to be merged by themselves.
    involved: KVec<Candidate>,
}

/// An unmerged page that was met.
struct Seen {
    addr: usize,
    frame: Frame,
    sample: Sample,
}

impl Seen {
    /// A page to merge, met during this visit.
    fn candidate(&self, key: Option<Key>, visit: VisitNo) -> Candidate {
        Candidate {
            addr: self.addr,
            frame: self.frame,
            key,
            visit,
        }
    }
}

impl Batch {
    fn new() -> Result<Self> {
        Ok(Batch {
            pages: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            merged: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            passed_by: 0,
            skipped: 0,
            candidates: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            twins: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            involved: KVec::with_capacity(2 * BATCH, GFP_KERNEL)?,
        })
    }
}

/// Has a page merged.
fn nominate(candidates: &mut KVec<Candidate>, candidate: Candidate) {
    // There is room: a batch has no more pages than that, and each has one twin at the most.
    let _ = candidates.push_within_capacity(candidate);
}

/// Candidates near each other, each with what it is to be replaced by.
struct Run {
    candidates: KVec<Candidate>,
    neighbours: KVec<Neighbour>,
}

impl Run {
    fn new() -> Result<Self> {
        Ok(Run {
            candidates: KVec::with_capacity(neighbours::MOST, GFP_KERNEL)?,
            neighbours: KVec::with_capacity(neighbours::MOST, GFP_KERNEL)?,
        })
    }

    /// Whether a further candidate can be replaced together with these: not where one of them
    /// brings the shared page that this one is to join.
    fn takes(&self, further: &Candidate) -> bool {
        let awaits = |(candidate, neighbour): (&Candidate, &Neighbour)| {
            neighbour.is_new() && candidate.key == further.key
        };
        self.candidates.len() < neighbours::MOST
            && self
                .candidates
                .last()
                .is_none_or(|last| neighbours::are_near(last.addr, further.addr))
            && !self.candidates.iter().zip(&self.neighbours).any(awaits)
    }

    fn push(&mut self, candidate: Candidate, neighbour: Neighbour) {
        // There is room: it was asked for.
        let _ = self.candidates.push_within_capacity(candidate);
        let _ = self.neighbours.push_within_capacity(neighbour);
    }
}

/// How much more a step looks at.
struct Budget {
    pages: usize,
    tables: u32,
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.pages == 0 || self.tables == 0
    }
}

/// Collects what is mapped.
struct Gatherer<'a> {
    batch: &'a mut Batch,
    engine: &'a Engine,
    visits: &'a mut Visits,
    /// As of [`Space`].
    space: Option<u64>,
    /// Of the region that is looked at.
    visit: VisitNo,
    budget: &'a mut Budget,
    /// Samples that the visits know of.
    settled: usize,
}

impl Gatherer<'_> {
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
        let visit = self.visits.come_to(self.engine, space, range, &population);
        if visit.is_none() {
            let skipped = population().pages.into();
            self.batch.skipped = self.batch.skipped.saturating_add(skipped);
        }
        self.visit = visit.unwrap_or(VisitNo::NONE);
        visit.is_some()
    }

    fn merged_zero(&mut self, _zero: MergedZero) -> ControlFlow<()> {
        self.visits.count_found_merged(self.visit);
        ControlFlow::Continue(())
    }

    fn page(&mut self, addr: usize, mapped: Mapped<'_>) -> ControlFlow<()> {
        // There is room: no more pages are looked at than a batch holds.
        if mapped.kind != Kind::Merged {
            if let Some(sample) = mapped.sample(self.engine.sampler()) {
                let frame = mapped.frame();
                let seen = Seen {
                    addr,
                    frame,
                    sample,
                };
                let _ = self.batch.pages.push_within_capacity(seen);
            }
        } else {
            self.visits.count_found_merged(self.visit);
            if self.engine.is_watchful() {
                let seen = (mapped.frame(), mapped.mappings());
                let _ = self.batch.merged.push_within_capacity(seen);
            } else {
                self.batch.passed_by = self.batch.passed_by.saturating_add(1);
            }
        }
        self.budget.pages = self.budget.pages.saturating_sub(1);
        break_if(self.budget.pages == 0)
    }

    fn table_done(&mut self) -> ControlFlow<()> {
        self.budget.tables = self.budget.tables.saturating_sub(1);
        break_if(self.budget.tables == 0)
    }
}

fn break_if(done: bool) -> ControlFlow<()> {
    if done {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
