// SPDX-License-Identifier: GPL-2.0

//! Merges the candidates of a step, and tells the engine what became of them.
//!
//! Another thread may merge pages of the same content meanwhile. So what a candidate is to be merged
//! with is claimed, where a shared page has to be made; and what the engine is told of it counts only
//! as long as it has no other answer.

use crate::commons::Commons;
use crate::gather::Candidate;
use crate::gather::MOST_PAGES;
use crate::mm::drain_own_lru;
use crate::mm::merge::Terms;
use crate::mm::merge::Twin;
use crate::mm::neighbours;
use crate::mm::neighbours::replace_all;
use crate::mm::neighbours::Neighbour;
use crate::mm::page::MappedPage;
use crate::mm::page::PageRef;
use crate::mm::refusal::Refusal;
use crate::mm::shared::NewShared;
use crate::mm::shared::SharedPage;
use crate::mm::vma::NextArea;
use crate::mm::vma::VmaReadGuard;
use crate::sets::Claim;
use crate::sets::Engine;
use crate::sets::Sets;
use crate::trace;
use crate::visits::VisitNo;
use crate::visits::Visits;
use core::mem::take;
use engine::Domain;
use engine::Frame;
use engine::Key;
use engine::Space;
use engine::Target;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

/// What is to be merged in a step. Kept from step to step, so that nothing is allocated meanwhile.
pub(crate) struct Merger {
    /// Pages to merge, in the order of their addresses.
    candidates: KVVec<Candidate>,
    /// Pages for which shared pages were made, with the keys of those.
    twins: KVVec<(Twin, Key)>,
    /// Candidates that have to be merged by themselves.
    involved: KVVec<Candidate>,
    /// Whether a shared page was made.
    is_any_new: bool,
    run: Run,
}

impl Merger {
    /// Makes one with nothing to merge.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Merger {
            candidates: KVVec::with_capacity(MOST_PAGES, GFP_KERNEL)?,
            twins: KVVec::with_capacity(MOST_PAGES, GFP_KERNEL)?,
            involved: KVVec::with_capacity(MOST_PAGES, GFP_KERNEL)?,
            is_any_new: false,
            run: Run::new()?,
        })
    }

    /// Has a page merged that lies behind all others.
    pub(crate) fn nominate(&mut self, candidate: Candidate) {
        // There is room: a batch has no more pages than that, and each has one twin at the most.
        let _ = self.candidates.push_within_capacity(candidate);
    }

    /// As [`Self::nominate`], of a page that may lie before others.
    pub(crate) fn nominate_late(&mut self, candidate: Candidate) {
        let is_before = |other: &Candidate| other.addr < candidate.addr;
        let place = self.candidates.partition_point(is_before);
        let _ = self.candidates.insert_within_capacity(place, candidate);
    }

    /// Merges the candidates and what they are equal to: near ones together, and one by one what
    /// that is too simple for.
    pub(crate) fn merge_all(&mut self, commons: &Commons, terms: &Terms<'_>, visits: &mut Visits) {
        self.merge_candidates(commons, terms, visits);
        self.merge_twins(commons, terms, visits);
        if take(&mut self.is_any_new) {
            drain_own_lru();
        }
    }

    /// Merges the candidates, which all are in the address space of `terms`.
    fn merge_candidates(&mut self, commons: &Commons, terms: &Terms<'_>, visits: &mut Visits) {
        let mut next = 0;
        while next < self.candidates.len() {
            next = self.merge_neighbours(commons, terms, next, visits);
        }
        self.candidates.clear();
        // Not under the VMA lock: each looks for mappings in all processes.
        while let Some(candidate) = self.involved.pop() {
            self.is_any_new |= merge(commons, terms, candidate, visits);
        }
    }

    /// Merges the twins for which shared pages were made, those of one address space together.
    fn merge_twins(&mut self, commons: &Commons, terms: &Terms<'_>, visits: &mut Visits) {
        let mut twins = core::mem::take(&mut self.twins);
        let mut rest = twins.drain_all().peekable();
        while let Some((Twin { frame, mm, addr }, key)) = rest.next() {
            self.nominate(candidate_of_twin(addr, frame, key));
            let is_beside = |(twin, _): &(Twin, Key)| core::ptr::eq(&*twin.mm, &*mm);
            while let Some((Twin { frame, addr, .. }, key)) = rest.next_if(is_beside) {
                self.nominate(candidate_of_twin(addr, frame, key));
            }
            match mm.mmget_not_zero() {
                Some(mm) => {
                    let mm = &MmWithUser::into_mmput_async(mm);
                    self.merge_candidates(commons, &terms.in_space(mm), visits);
                }
                None => self.candidates.clear(),
            }
        }
        drop(rest);
        self.twins = twins;
    }

    /// Merges the candidates from number `next` on that are near each other. Returns where to go
    /// on.
    fn merge_neighbours(
        &mut self,
        commons: &Commons,
        terms: &Terms<'_>,
        mut next: usize,
        visits: &mut Visits,
    ) -> usize {
        while let Some(&candidate) = self.candidates.get(next) {
            if !self.run.takes(&candidate) {
                break;
            }
            next += 1;
            let (attempt, shared) = Attempt::new(commons, terms, candidate);
            match prepare(terms, &attempt, shared) {
                Ok(neighbour) => self.run.push(attempt, neighbour),
                Err(refusal) => {
                    attempt.end(&mut commons.sets().lock(), terms, Err(refusal));
                    if refusal == Refusal::Involved {
                        // There is room: as many as there are candidates and twins.
                        let _ = self.involved.push_within_capacity(candidate);
                    }
                }
            }
        }
        self.replace_run(commons, terms, visits);
        next
    }

    /// Replaces the pages of the run, area by area, and tells the engine.
    fn replace_run(&mut self, commons: &Commons, terms: &Terms<'_>, visits: &mut Visits) {
        let Run {
            attempts,
            neighbours,
            ..
        } = &self.run;
        let mut results = [Err(Refusal::Gone); neighbours::MOST];
        let (mut rest, mut rest_of_results) = (attempts.as_slice(), results.as_mut_slice());
        let mut prepared = neighbours.as_slice();
        while !rest.is_empty() {
            let count = replace_in_area(commons, terms, rest, prepared, rest_of_results);
            rest = rest.get(count..).unwrap_or(&[]);
            prepared = prepared.get(count..).unwrap_or(&[]);
            rest_of_results = rest_of_results.get_mut(count..).unwrap_or(&mut []);
        }
        let mut sets = commons.sets().lock();
        for ((attempt, neighbour), result) in attempts.iter().zip(neighbours).zip(results) {
            match result {
                Ok(()) => visits.count_merged(attempt.page.visit),
                // The area can't be locked just now: its region stays due.
                Err(Refusal::Locked) => visits.promise(attempt.page.visit),
                Err(_) => (),
            }
            let merged = result.map(|()| neighbour.shared());
            attempt.end(&mut sets, terms, merged);
        }
        drop(sets);
        self.end_run(&results);
    }

    /// Frees the pages of the run that were replaced, and notes their twins.
    fn end_run(&mut self, results: &[Result<(), Refusal>; neighbours::MOST]) {
        let (attempts, twins) = (&self.run.attempts, &mut self.twins);
        let is_any_new = &mut self.is_any_new;
        let neighbours = self.run.neighbours.drain_all();
        let pages = neighbours.zip(attempts).zip(results);
        PageRef::put_all::<{ neighbours::MOST }>(pages.map(|((neighbour, attempt), result)| {
            *is_any_new |= result.is_ok() && neighbour.is_new();
            let (page, twin) = neighbour.into_parts();
            if let (Ok(()), Some(key), Some(twin)) = (result, attempt.page.key, twin) {
                // There is room: each candidate has one twin at the most.
                let _ = twins.push_within_capacity((twin, key));
            }
            page
        }));
        self.run.attempts.clear();
        self.run.awaited.clear();
    }
}

/// Replaces those of the neighbours, one for each attempt, that are in the area of the first one.
/// Writes what came of them to `results`; returns how many they were, one at least.
fn replace_in_area(
    commons: &Commons,
    terms: &Terms<'_>,
    attempts: &[Attempt],
    neighbours: &[Neighbour],
    results: &mut [Result<(), Refusal>],
) -> usize {
    let area = attempts
        .first()
        .map(|first| area_of(terms, first.page.addr));
    let vma = match area {
        Some(Ok(vma)) => vma,
        Some(Err(refusal)) => {
            // It was changed meanwhile: come back in the next pass.
            results
                .first_mut()
                .into_iter()
                .for_each(|result| *result = Err(refusal));
            return 1;
        }
        None => return 1,
    };
    let is_inside = |attempt: &Attempt| attempt.page.addr < vma.end();
    let count = attempts.partition_point(is_inside).max(1);
    let inside = neighbours.get(..count).unwrap_or(neighbours);
    let replaced = replace_all(terms, &vma, inside, &|index, content| {
        attempts.get(index).is_some_and(|attempt| {
            let key = attempt.page.key;
            key.is_some_and(|key| commons.keys().is_of(key, attempt.domain, content))
        })
    });
    for (result, replaced) in results.iter_mut().zip(replaced).take(count) {
        *result = replaced;
    }
    count
}

/// What a candidate was merged with: not met now, but known.
fn candidate_of_twin(addr: usize, frame: Frame, key: Key) -> Candidate {
    Candidate {
        addr,
        frame,
        key: Some(key),
        visit: VisitNo::NONE,
    }
}

/// A candidate, and with what the engine wants it merged: claimed, until the attempt ends.
struct Attempt {
    page: Candidate,
    /// What the key is for.
    domain: Domain,
    claim: Claim,
    /// How many pages are replaced at once where a shared page is made.
    pages: u32,
}

impl Attempt {
    /// Attempts to merge a page that is mapped once, in the address space of `terms`. Its twin takes a
    /// seat of its own when that is merged.
    fn new(commons: &Commons, terms: &Terms<'_>, page: Candidate) -> (Self, Seated) {
        Self::with(commons, terms, page, terms.space, 1)
    }

    /// Attempts to merge a page that may be mapped in several address spaces, together with its twin.
    fn of_many(commons: &Commons, terms: &Terms<'_>, page: Candidate) -> (Self, Seated) {
        Self::with(commons, terms, page, None, 2)
    }

    /// Claims what the page is to be merged with.
    fn with(
        commons: &Commons,
        terms: &Terms<'_>,
        page: Candidate,
        space: Option<Space>,
        pages: u32,
    ) -> (Self, Seated) {
        let domain = terms.domain_of_page(page.frame);
        let (claim, shared) = claim(commons, page.key, domain, space);
        let shared = shared.and_then(|shared| {
            // The kernel may have moved it to another node.
            let is_allowed = terms.policy.allows_nodes(page.frame, shared.frame());
            is_allowed.then_some(shared).ok_or(Refusal::TargetGone)
        });
        let attempt = Attempt {
            page,
            domain,
            claim,
            pages,
        };
        (attempt, shared)
    }

    /// Tells the engine into which page this one was merged, or why not, and whoever traces that.
    /// It is a page of the address space of `terms`.
    fn end(
        &self,
        sets: &mut Sets,
        terms: &Terms<'_>,
        merged: Result<Option<&SharedPage>, Refusal>,
    ) {
        if let Err(refusal) = merged {
            sets.refusals.count(refusal);
            let Candidate { addr, frame, .. } = self.page;
            trace::refuse(terms.mm, addr, frame, self.claim.target(), refusal);
        }
        let Some(key) = self.page.key else {
            return;
        };
        let engine = &mut sets.engine;
        match merged {
            Ok(Some(shared)) => self.tell_merged(engine, key, shared),
            Ok(None) => (),
            Err(refusal) => self.refused(engine, refusal),
        }
        sets.disclaim(key, self.claim, merged.is_ok());
    }

    /// Tells the engine that the page is merged into `shared`.
    fn tell_merged(&self, engine: &mut Engine, key: Key, shared: &SharedPage) {
        let name = shared.name();
        if matches!(self.claim, Claim::Twin(_)) {
            engine.made(key, name, self.domain, self.pages);
        }
        engine.merged(name, shared.mappings());
    }

    /// Tells the engine why the page was not merged, as far as that is of use to it: not if another
    /// thread has changed meanwhile what it is to be merged with.
    fn refused(&self, engine: &mut Engine, refusal: Refusal) {
        let Candidate { frame, key, .. } = self.page;
        let Some(key) = key.filter(|&key| engine.target(key, self.domain) == self.claim.target())
        else {
            return;
        };
        match refusal {
            Refusal::TargetGone => engine.refuted(key, frame),
            Refusal::Different => self.differed(engine, key),
            Refusal::Full => engine.retire(key, frame),
            _ => (),
        }
    }

    /// Tells the engine that the page does not equal its target, unless it just changed. Other pages
    /// may be on both frames by now: see [`crate::gather::Batch::inspect`].
    fn differed(&self, engine: &mut Engine, key: Key) {
        let (frame, domain) = (self.page.frame, self.domain);
        let target = match self.claim.target() {
            Some(Target::Shared(shared)) => SharedPage::target(shared).ok().map(PageRef::from),
            Some(Target::Twin(twin)) => PageRef::candidate(twin),
            None => None,
        };
        let (Some(page), Some(target)) = (PageRef::candidate(frame), target) else {
            return;
        };
        let (content, other) = (page.content(), target.content());
        let is_readable = content.is_readable() && other.is_readable();
        if is_readable && engine.keys().is_of(key, domain, &content) {
            engine.differed(key, frame, domain, &other);
        }
    }
}

/// The shared page of which a seat was claimed, or why it takes no page. An error for other claims.
type Seated = Result<SharedPage, Refusal>;

/// Claims what a page of `domain` of this key is to be merged with (`None`: the zero page).
///
/// The reference is taken while the sets are locked. Where the name was given to a new shared page, perhaps of
/// another domain, the sets heard of that under the same lock, before anything mapped it
/// ([`Commons::make_shared`]). So this page is the one that the sets know, and of `domain`, and stays so as
/// long as it is referenced.
fn claim(
    commons: &Commons,
    key: Option<Key>,
    domain: Domain,
    space: Option<Space>,
) -> (Claim, Seated) {
    let Some(key) = key else {
        return (Claim::Nothing, Err(Refusal::Gone));
    };
    let mut sets = commons.sets().lock();
    let claim = sets.claim(key, domain, space);
    let shared = match claim {
        Claim::Seat { frame, .. } => SharedPage::target(frame),
        Claim::Full(_) => Err(Refusal::Full),
        Claim::Nothing | Claim::Twin(_) => Err(Refusal::Gone),
    };
    (claim, shared)
}

/// Makes ready what a page is to be replaced by: `shared`, where the claim is on a seat of it.
fn prepare(terms: &Terms<'_>, attempt: &Attempt, shared: Seated) -> Result<Neighbour, Refusal> {
    let Candidate {
        addr, frame, key, ..
    } = attempt.page;
    if key.is_none() {
        return Neighbour::by_zero(addr, frame, terms);
    }
    match attempt.claim {
        Claim::Nothing | Claim::Full(_) | Claim::Seat { .. } => {
            Neighbour::by_shared(addr, frame, shared?, terms)
        }
        Claim::Twin(twin) if twin == frame => Err(Refusal::Gone),
        Claim::Twin(twin) => Neighbour::by_new(addr, frame, twin, terms),
    }
}

/// Merges a page, by all of its mappings, with what the engine has for its content by now. Returns whether
/// a shared page was made.
fn merge(commons: &Commons, terms: &Terms<'_>, candidate: Candidate, visits: &mut Visits) -> bool {
    let Candidate { frame, visit, .. } = candidate;
    let (attempt, shared) = Attempt::of_many(commons, terms, candidate);
    let merged = match (candidate.key, attempt.claim) {
        (None, _) => terms.join_zero(frame).map(|()| Merged::Zero),
        (Some(_), Claim::Nothing | Claim::Full(_) | Claim::Seat { .. }) => {
            shared.and_then(|shared| terms.join(frame, shared).map(Merged::Into))
        }
        (Some(_), Claim::Twin(twin)) if twin == frame => Err(Refusal::Gone),
        (Some(key), Claim::Twin(twin)) => {
            let is_expected =
                |content: &MappedPage<'_>| commons.keys().is_of(key, attempt.domain, content);
            terms.share(frame, twin, is_expected).map(Merged::New)
        }
    };
    if merged.is_ok() {
        visits.count_merged(visit);
    }
    let is_new = matches!(merged, Ok(Merged::New(_)));
    let merged = merged.as_ref().map(Merged::shared);
    attempt.end(
        &mut commons.sets().lock(),
        terms,
        merged.map_err(|&refusal| refusal),
    );
    is_new
}

/// What a page was merged into.
enum Merged {
    Zero,
    Into(SharedPage),
    New(NewShared),
}

impl Merged {
    fn shared(&self) -> Option<&SharedPage> {
        match self {
            Merged::Zero => None,
            Merged::Into(shared) => Some(shared),
            Merged::New(shared) => Some(shared),
        }
    }
}

/// The area at `addr`, locked, if pages of it may be merged on these terms.
///
/// # Errors
///
/// [`Refusal::Gone`]: there is none. [`Refusal::Locked`]: it is being changed. [`Refusal::LeftAlone`].
fn area_of<'a>(terms: &Terms<'a>, addr: usize) -> Result<VmaReadGuard<'a>, Refusal> {
    match VmaReadGuard::next(terms.mm, addr) {
        NextArea::Locked(vma) if vma.start() > addr => Err(Refusal::Gone),
        NextArea::Locked(vma) if terms.allows(&vma) => Ok(vma),
        NextArea::Locked(_) => Err(Refusal::LeftAlone),
        NextArea::Busy { .. } => Err(Refusal::Locked),
        NextArea::None => Err(Refusal::Gone),
    }
}

/// Candidates near each other, each with what it is to be replaced by.
struct Run {
    attempts: KVec<Attempt>,
    neighbours: KVec<Neighbour>,
    /// Keys for which one of them brings the shared page.
    awaited: KVec<Key>,
}

impl Run {
    fn new() -> Result<Self> {
        Ok(Run {
            attempts: KVec::with_capacity(neighbours::MOST, GFP_KERNEL)?,
            neighbours: KVec::with_capacity(neighbours::MOST, GFP_KERNEL)?,
            awaited: KVec::with_capacity(neighbours::MOST, GFP_KERNEL)?,
        })
    }

    /// Whether a further candidate can be replaced together with these: not where one of them
    /// brings the shared page that this one is to join.
    fn takes(&self, further: &Candidate) -> bool {
        let is_near = |last: &Attempt| neighbours::are_near(last.page.addr, further.addr);
        self.attempts.len() < neighbours::MOST
            && self.attempts.last().is_none_or(is_near)
            && further.key.is_none_or(|key| !self.awaited.contains(&key))
    }

    fn push(&mut self, attempt: Attempt, neighbour: Neighbour) {
        // There is room: it was asked for.
        if let (true, Some(key)) = (neighbour.is_new(), attempt.page.key) {
            let _ = self.awaited.push_within_capacity(key);
        }
        let _ = self.attempts.push_within_capacity(attempt);
        let _ = self.neighbours.push_within_capacity(neighbour);
    }
}
