// SPDX-License-Identifier: GPL-2.0

//! Merges the candidates of a step, and reports the results to the engine.
//!
//! Another thread may merge pages with the same content at the same time. Two rules keep them apart:
//!
//! - A thread that has to make a shared page for a content first claims its key ([`Sets::claim`]), so
//!   no other thread makes a second one.
//! - A result is reported only as long as the engine still has the same target for the key. Otherwise
//!   another thread has changed the entry, and the result says nothing about the new target.

use crate::mm::content::MappedPage;
use crate::mm::drain_own_lru;
use crate::mm::neighbours;
use crate::mm::neighbours::replace_neighbours;
use crate::mm::neighbours::Neighbour;
use crate::mm::page::PageRef;
use crate::mm::refusal::Refusal;
use crate::mm::shared::NewShared;
use crate::mm::shared::SharedPage;
use crate::mm::terms::Terms;
use crate::mm::twin::Twin;
use crate::mm::verify::forbids_zero;
use crate::mm::vma::NextArea;
use crate::mm::vma::VmaReadGuard;
use crate::mm::zero;
use crate::scan::gather::Candidate;
use crate::scan::gather::MOST_PAGES;
use crate::scan::huge::keep_whole;
use crate::scan::huge::Opened;
use crate::scan::regions::VisitNo;
use crate::scan::regions::Visits;
use crate::scan::sets::Claim;
use crate::scan::sets::Engine;
use crate::scan::sets::Sets;
use crate::scan::turns::Commons;
use crate::trace;
use core::mem::take;
use core::ops::Range;
use engine::huge::SplitRule;
use engine::Domain;
use engine::Frame;
use engine::Key;
use engine::Space;
use engine::Target;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

/// The pages to merge in a step. Reused by later steps, so nothing is allocated while merging.
pub(crate) struct Merger {
    /// Pages to merge, sorted by address.
    candidates: KVVec<Candidate>,
    /// Twins of pages that were merged into new shared pages, with their keys.
    twins: KVVec<(Twin, Key)>,
    /// Candidates refused with [`Refusal::Involved`]: to be merged one by one.
    involved: KVVec<Candidate>,
    /// Whether a shared page was made in this step.
    is_any_new: bool,
    cluster: Cluster,
    /// Large pages of the address space whose candidates are merged, which may be split by that.
    opened: KVVec<Opened>,
}

impl Merger {
    /// Makes a merger without candidates.
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
            cluster: Cluster::new()?,
            opened: KVVec::with_capacity(MOST_PAGES, GFP_KERNEL)?,
        })
    }

    /// Whether some page is queued.
    pub(crate) fn has_candidates(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// Queues a page whose address is above all queued ones.
    pub(crate) fn nominate(&mut self, candidate: Candidate) {
        // This does not fail: a batch has no more pages than that, and each has at most one twin.
        let _ = self.candidates.push_within_capacity(candidate);
    }

    /// Queues a page whose address may be below others.
    pub(crate) fn nominate_late(&mut self, candidate: Candidate) {
        let is_before = |other: &Candidate| other.addr < candidate.addr;
        let place = self.candidates.partition_point(is_before);
        let _ = self.candidates.insert_within_capacity(place, candidate);
    }

    /// Merges the candidates, except parts of large pages that stay whole, then their twins: nearby pages together,
    /// the rest one by one.
    pub(crate) fn merge_all(&mut self, commons: &Commons, terms: &Terms<'_>, visits: &mut Visits) {
        self.keep_whole(commons, visits, terms.split);
        self.merge_candidates(commons, terms, visits);
        self.merge_twins(commons, terms, visits);
        if take(&mut self.is_any_new) {
            drain_own_lru();
        }
    }

    /// Removes the candidates that are parts of large pages which stay whole. The index has their frames from now
    /// on, so that a visit of their twins finds them.
    fn keep_whole(&mut self, commons: &Commons, visits: &mut Visits, rule: SplitRule) {
        let count = keep_whole(&mut self.candidates, &mut self.opened, visits, rule);
        let kept = self.candidates.get(count..).unwrap_or(&[]);
        if !kept.is_empty() {
            let mut sets = commons.sets().lock();
            sets.refusals.add(Refusal::KeptHuge, kept.len() as u64);
            for &Candidate { key, frame, .. } in kept {
                if let Some(key) = key {
                    sets.engine.prefer_twin(key, frame);
                }
            }
        }
        self.candidates.truncate(count);
    }

    /// Merges the candidates, all of which are in the address space of `terms`.
    fn merge_candidates(&mut self, commons: &Commons, terms: &Terms<'_>, visits: &mut Visits) {
        let mut next = 0;
        while next < self.candidates.len() {
            next = self.merge_neighbours(commons, terms, next, visits);
        }
        self.candidates.clear();
        // Done without the VMA lock: each of these merges walks the mappings of the page in all
        // processes.
        while let Some(candidate) = self.involved.pop() {
            self.is_any_new |= merge(commons, terms, candidate, visits);
        }
        for large in self.opened.drain_all() {
            count_zeroes(terms, large);
        }
    }

    /// Merges the twins into the shared pages that were made for them. Twins of one address space are
    /// merged together.
    fn merge_twins(&mut self, commons: &Commons, terms: &Terms<'_>, visits: &mut Visits) {
        let mut twins = core::mem::take(&mut self.twins);
        let mut rest = twins.drain_all().peekable();
        while let Some((
            Twin {
                frame,
                mm,
                addr,
                opened,
                ..
            },
            key,
        )) = rest.next()
        {
            self.nominate_twin(frame, addr, opened, key);
            let is_beside = |(twin, _): &(Twin, Key)| core::ptr::eq(&*twin.mm, &*mm);
            while let Some((twin, key)) = rest.next_if(is_beside) {
                self.nominate_twin(twin.frame, twin.addr, twin.opened, key);
            }
            match mm.mmget_not_zero() {
                Some(mm) => {
                    let mm = &MmWithUser::into_mmput_async(mm);
                    self.merge_candidates(commons, &terms.in_space(mm), visits);
                }
                None => {
                    self.candidates.clear();
                    self.opened.clear();
                }
            }
        }
        drop(rest);
        self.twins = twins;
    }

    /// Queues a twin, which was split out of the large page at `opened`.
    fn nominate_twin(&mut self, frame: Frame, addr: usize, opened: Option<Range<usize>>, key: Key) {
        self.nominate(candidate_of_twin(addr, frame, key));
        if let Some(range) = opened {
            let _ = self
                .opened
                .push_within_capacity(Opened { frame, addr, range });
        }
    }

    /// Merges the cluster of candidates that begins at index `next`. Returns the index after the cluster.
    fn merge_neighbours(
        &mut self,
        commons: &Commons,
        terms: &Terms<'_>,
        mut next: usize,
        visits: &mut Visits,
    ) -> usize {
        while let Some(&candidate) = self.candidates.get(next) {
            if !self.cluster.takes(&candidate) {
                break;
            }
            next += 1;
            let (attempt, shared) = Attempt::new(commons, terms, candidate);
            match prepare(terms, &attempt, shared) {
                Ok(neighbour) => self.cluster.push(attempt, neighbour),
                Err(refusal) => {
                    attempt.end(&mut commons.sets().lock(), terms, Err(refusal));
                    if refusal == Refusal::Involved {
                        // This does not fail: there is room for all candidates and twins.
                        let _ = self.involved.push_within_capacity(candidate);
                    }
                }
            }
        }
        self.replace_cluster(commons, terms, visits);
        next
    }

    /// Replaces the pages of the cluster, VMA by VMA, and reports the results to the engine.
    fn replace_cluster(&mut self, commons: &Commons, terms: &Terms<'_>, visits: &mut Visits) {
        let Cluster {
            attempts,
            neighbours,
            ..
        } = &self.cluster;
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
                // The VMA is locked now. The region stays due.
                Err(Refusal::Locked) => visits.promise(attempt.page.visit),
                Err(_) => (),
            }
            let merged = result.map(|()| neighbour.shared());
            attempt.end(&mut sets, terms, merged);
        }
        drop(sets);
        self.end_cluster(&results);
    }

    /// Frees the pages of the cluster that were replaced, and queues their twins.
    fn end_cluster(&mut self, results: &[Result<(), Refusal>; neighbours::MOST]) {
        let (attempts, twins) = (&self.cluster.attempts, &mut self.twins);
        let is_any_new = &mut self.is_any_new;
        let neighbours = self.cluster.neighbours.drain_all();
        let pages = neighbours.zip(attempts).zip(results);
        PageRef::put_all::<{ neighbours::MOST }>(pages.map(|((neighbour, attempt), result)| {
            *is_any_new |= result.is_ok() && neighbour.is_new();
            let (page, twin) = neighbour.into_parts();
            if let (Ok(()), Some(key), Some(twin)) = (result, attempt.page.key, twin) {
                // This does not fail: each candidate has at most one twin.
                let _ = twins.push_within_capacity((twin, key));
            }
            page
        }));
        self.cluster.attempts.clear();
        self.cluster.awaited.clear();
    }
}

/// Replaces the neighbours that are in the VMA of the first one; there is one neighbour for each
/// attempt. Writes the outcomes to `results` and returns the number of neighbours handled, at least
/// one.
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
            // The VMA has changed since: the page is visited again in the next pass.
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
    let replaced = replace_neighbours(terms, &vma, inside, &|index, content| {
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

/// The twin of a candidate as a candidate of its own. No visit of this step has scanned it.
fn candidate_of_twin(addr: usize, frame: Frame, key: Key) -> Candidate {
    Candidate {
        addr,
        frame,
        key: Some(key),
        visit: VisitNo::NONE,
    }
}

/// A candidate and the claim on its target, which is held until the attempt ends.
struct Attempt {
    page: Candidate,
    /// The domain of the key.
    domain: Domain,
    claim: Claim,
    /// Number of pages that map a new shared page at first.
    pages: u32,
}

impl Attempt {
    /// Begins an attempt to merge a page that is mapped once, in the address space of `terms`. Its twin
    /// is merged later and takes its own seat then.
    fn new(commons: &Commons, terms: &Terms<'_>, page: Candidate) -> (Self, Seated) {
        Self::with(commons, terms, page, terms.space, 1)
    }

    /// Begins an attempt to merge a page that may be mapped in several address spaces, together with
    /// its twin.
    fn of_many(commons: &Commons, terms: &Terms<'_>, page: Candidate) -> (Self, Seated) {
        Self::with(commons, terms, page, None, 2)
    }

    /// Claims the target of the page.
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
            // The kernel may have migrated the shared page to another node.
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

    /// Reports the result to the engine and to the tracepoint, and releases the claim. `merged` is the
    /// page that this one was merged into (`None`: the zero page) or the reason why it was not. The
    /// page is in the address space of `terms`.
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

    /// Tells the engine that the page was merged into `shared`.
    fn tell_merged(&self, engine: &mut Engine, key: Key, shared: &SharedPage) {
        let name = shared.name();
        if matches!(self.claim, Claim::Twin(_)) {
            engine.made(key, name, self.domain, self.pages);
        }
        engine.merged(name, shared.mappings());
    }

    /// Tells the engine why the page was not merged, if the engine can use the reason. Nothing is
    /// reported if another thread has changed the target of the key meanwhile: the reason does not
    /// apply to the new target.
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
            // The twin's. A visit of the twin's region meets this page then.
            Refusal::KeptHuge => engine.prefer_twin(key, frame),
            _ => (),
        }
    }

    /// Tells the engine that the page differs from its target, unless the page has just changed. By now
    /// both frames may hold other pages, see [`crate::scan::gather::Batch::inspect`]. So the key of the page
    /// is checked again before anything is reported.
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

/// The shared page on which a seat was claimed, or the reason why it takes no page. An error for other
/// claims.
type Seated = Result<SharedPage, Refusal>;

/// Claims the target of a page of `domain` with this key (`None`: the zero page).
///
/// The reference to the shared page is taken while the sets are locked. By then its name may have been
/// given to a new shared page, perhaps of another domain. In that case the sets were told of the new
/// page under the same lock, before anything mapped it ([`Commons::make_shared`]). So the referenced
/// page is the one that the sets describe, it belongs to `domain`, and both stay true as long as it is
/// referenced.
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

/// Prepares the replacement of a page: `shared` if the claim is on a seat of it, otherwise the zero
/// page or a new shared page.
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

/// Merges a page in all of its mappings with the current target of its key. Returns whether a shared
/// page was made.
fn merge(commons: &Commons, terms: &Terms<'_>, candidate: Candidate, visits: &mut Visits) -> bool {
    let Candidate { frame, visit, .. } = candidate;
    let (attempt, shared) = Attempt::of_many(commons, terms, candidate);
    let merged = match (candidate.key, attempt.claim) {
        (None, _) => terms.join_zero(frame).map(|()| MergedInto::Zero),
        (Some(_), Claim::Nothing | Claim::Full(_) | Claim::Seat { .. }) => {
            shared.and_then(|shared| terms.join(frame, shared).map(MergedInto::Existing))
        }
        (Some(_), Claim::Twin(twin)) if twin == frame => Err(Refusal::Gone),
        (Some(key), Claim::Twin(twin)) => {
            let is_expected =
                |content: &MappedPage<'_>| commons.keys().is_of(key, attempt.domain, content);
            terms.share(frame, twin, is_expected).map(MergedInto::New)
        }
    };
    if merged.is_ok() {
        visits.count_merged(visit);
    }
    let is_new = matches!(merged, Ok(MergedInto::New(_)));
    let merged = merged.as_ref().map(MergedInto::shared);
    attempt.end(
        &mut commons.sets().lock(),
        terms,
        merged.map_err(|&refusal| refusal),
    );
    is_new
}

/// The page that a page was merged into.
enum MergedInto {
    Zero,
    Existing(SharedPage),
    New(NewShared),
}

impl MergedInto {
    fn shared(&self) -> Option<&SharedPage> {
        match self {
            MergedInto::Zero => None,
            MergedInto::Existing(shared) => Some(shared),
            MergedInto::New(shared) => Some(shared),
        }
    }
}

/// Locks the VMA at `addr`, if its pages may be merged on these terms.
///
/// # Errors
///
/// [`Refusal::Gone`]: there is no VMA. [`Refusal::Locked`]: it is being changed.
/// [`Refusal::LeftAlone`]: its pages may not be merged.
fn area_of<'a>(terms: &Terms<'a>, addr: usize) -> Result<VmaReadGuard<'a>, Refusal> {
    match VmaReadGuard::next(terms.mm, addr) {
        NextArea::Locked(vma) if vma.start() > addr => Err(Refusal::Gone),
        NextArea::Locked(vma) if terms.allows(&vma) => Ok(vma),
        NextArea::Locked(_) => Err(Refusal::LeftAlone),
        NextArea::Busy { .. } => Err(Refusal::Locked),
        NextArea::None => Err(Refusal::Gone),
    }
}

/// Lets the kernel count the parts of `large` that were full of zeroes, if it was split: the kernel has mapped the
/// zero page in their place. If pages of zeroes are merged with each other, they are nothing that was merged.
fn count_zeroes(terms: &Terms<'_>, large: Opened) {
    if !terms.use_zero_page || !large.is_split() {
        return;
    }
    match area_of(terms, large.addr) {
        Ok(vma) if !forbids_zero(&vma) => zero::mark(&vma, large.range),
        _ => (),
    }
}

/// Nearby candidates that are replaced together, each with its replacement.
struct Cluster {
    attempts: KVec<Attempt>,
    neighbours: KVec<Neighbour>,
    /// Keys for which a neighbour in this cluster makes the shared page.
    awaited: KVec<Key>,
}

impl Cluster {
    fn new() -> Result<Self> {
        Ok(Cluster {
            attempts: KVec::with_capacity(neighbours::MOST, GFP_KERNEL)?,
            neighbours: KVec::with_capacity(neighbours::MOST, GFP_KERNEL)?,
            awaited: KVec::with_capacity(neighbours::MOST, GFP_KERNEL)?,
        })
    }

    /// Whether `further` can be replaced together with this cluster. It can't if it should join a shared
    /// page that the cluster itself is about to make.
    fn takes(&self, further: &Candidate) -> bool {
        let is_near = |last: &Attempt| neighbours::are_near(last.page.addr, further.addr);
        self.attempts.len() < neighbours::MOST
            && self.attempts.last().is_none_or(is_near)
            && further.key.is_none_or(|key| !self.awaited.contains(&key))
    }

    fn push(&mut self, attempt: Attempt, neighbour: Neighbour) {
        // This does not fail: [`Self::takes`] has checked that there is room.
        if let (true, Some(key)) = (neighbour.is_new(), attempt.page.key) {
            let _ = self.awaited.push_within_capacity(key);
        }
        let _ = self.attempts.push_within_capacity(attempt);
        let _ = self.neighbours.push_within_capacity(neighbour);
    }
}
