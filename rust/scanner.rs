// SPDX-License-Identifier: GPL-2.0

//! The scanner: where it is in memory, and what it does with the pages it finds there.
//!
//! Joins the engine, which decides, and [`crate::mm`], which finds pages and merges them. Owned
//! by the daemon's mutex; a step holds it for one batch of pages.

use crate::mm::merge::Refusal;
use crate::mm::merge::Terms;
use crate::mm::page::Kind;
use crate::mm::page::PageRef;
use crate::mm::policy::Policy;
use crate::mm::pool::Pool;
use crate::mm::process::Cursor;
use crate::mm::process::Owner;
use crate::mm::shared;
use crate::mm::shared::SharedPage;
use crate::mm::storage::KernelStorage;
use crate::mm::unmerge::unmerge;
use crate::mm::unmerge::Which;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::walk;
use crate::mm::walk::Held;
use crate::mm::walk::Mapped;
use crate::mm::walk::Visitor;
use crate::mm::zero;
use crate::shim;
use core::ops::ControlFlow;
use core::ops::Range;
use engine::Domain;
use engine::Frame;
use engine::HashKind;
use engine::Key;
use engine::KsmScanner;
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

/// Pages looked at under one VMA lock: few, so that nobody waits long for it.
const BATCH: usize = 64;
/// Page tables looked at under one VMA lock, where there are few pages in them.
const TABLES: u32 = 16;
/// Areas passed over in one step, where nothing in them may be merged.
const AREAS: u32 = 64;
/// Rounds over all processes in a row that may find nothing to unmerge while pages are shared
/// still: as long as exiting processes take to give up their memory.
const IDLE_ROUNDS: u32 = 500;
/// Rounds over all processes, for what forks hid from the one before, until some frames are left.
const EVACUATION_ROUNDS: u32 = 3;
/// Pause after a round that found nothing.
const IDLE_PAUSE: Delta = Delta::from_millis(10);

/// A page that was looked at and is to be merged. No reference is held: references are what
/// merging takes for a pin.
#[derive(Clone, Copy)]
struct Candidate {
    frame: Frame,
    /// `None`: full of zeroes.
    key: Option<Key>,
}

/// An address space, and up to where it has been scanned in this pass.
struct Place {
    /// Does not keep the memory of a process that exits.
    mm: ARef<Mm>,
    addr: usize,
}

/// What a step did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Step {
    /// Pages looked at.
    pub(crate) pages: u32,
    /// Whether it came to the end of all memory.
    pub(crate) end_of_pass: bool,
}

/// The scanner.
pub(crate) struct Scanner {
    /// Decides, counts and holds the knobs that are documented for it.
    pub(crate) engine: KsmScanner<KernelStorage>,
    policy: Policy,
    pool: Pool,
    cursor: Cursor,
    place: Option<Place>,
    at_start_of_pass: bool,
    batch: Batch,
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
            // Pages in the per-CPU batches of the LRU carry a reference that looks like a pin.
            // SAFETY: May sleep.
            unsafe { shim::lru_add_drain_all() };
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
        let before = self.engine.get_stats().pages_scanned;
        if let Some(mm) = place.mm.mmget_not_zero() {
            // The last user may go meanwhile: its memory is not torn down in this thread.
            let mm = MmWithUser::into_mmput_async(mm);
            self.place = self
                .scan(&mm, place.addr, limit)
                .map(|addr| Place { mm: place.mm, addr });
        }
        let pages = self.engine.get_stats().pages_scanned.wrapping_sub(before);
        Step {
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            end_of_pass: false,
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

    /// Scans some pages of `mm` from `addr` on. Returns where to go on, `None` at its end.
    fn scan(&mut self, mm: &ARef<MmWithUserAsync>, addr: usize, limit: u32) -> Option<usize> {
        let domain = domain_of(mm, self.policy)?;
        let next = self.gather(mm, addr, limit);
        self.sight_merged(domain);
        self.decide(domain);
        let terms = Terms {
            policy: self.policy,
            domain,
            mm,
            max_page_sharing: self.engine.max_page_sharing(),
        };
        while let Some(candidate) = self.batch.candidates.pop() {
            self.merge(&terms, candidate);
        }
        next
    }

    /// Collects pages of the next area that may be merged, under its VMA lock. Returns where to go
    /// on, `None` at the end.
    fn gather(&mut self, mm: &MmWithUser, mut addr: usize, limit: u32) -> Option<usize> {
        for _ in 0..AREAS {
            // An error means that the area is just being changed: come back in the next pass.
            let vma = VmaReadGuard::next(mm, addr).ok()??;
            if is_admitted(mm, &vma, self.policy) {
                return Some(self.gather_in(&vma, addr, limit));
            }
            addr = vma.end();
        }
        Some(addr)
    }

    /// Collects pages of `vma` from `addr` on. Returns where to go on.
    fn gather_in(&mut self, vma: &VmaReadGuard<'_>, addr: usize, limit: u32) -> usize {
        let mut visitor = Gatherer {
            batch: &mut self.batch,
            left: BATCH.min(limit as usize),
            tables: TABLES,
        };
        let range = addr.max(vma.start())..vma.end();
        walk(vma, Held::VmaLock, range, &mut visitor)
    }

    /// Tells the engine of the merged pages that were met.
    fn sight_merged(&mut self, domain: Domain) {
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
    /// batch's candidates. No page is referenced any more then.
    fn decide(&mut self, domain: Domain) {
        for page in self.batch.pages.drain_all() {
            if page.is_poisoned() {
                continue;
            }
            let frame = page.frame();
            let key = match self.engine.scan(frame, domain, &page.content()) {
                Verdict::Wait => continue,
                Verdict::Zero => None,
                Verdict::Merge(key) => Some(key),
            };
            // There is room: a batch has no more pages than that.
            let candidate = Candidate { frame, key };
            let _ = self.batch.candidates.push_within_capacity(candidate);
        }
    }

    /// Merges a page with what the engine has for its content by now.
    fn merge(&mut self, terms: &Terms<'_>, candidate: Candidate) {
        let Candidate { frame, key } = candidate;
        let Some(key) = key else {
            // Refused: it will be met again in the next pass.
            let _ = terms.join_zero(frame);
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
                let mappings = shared.mappings();
                self.engine
                    .merged(key, shared.frame(), terms.domain, mappings);
            }
            Err(Refusal::TargetGone) => self.engine.refuted(key, frame),
            Err(Refusal::Full) => self.engine.retire(key, frame),
            Err(_) => (),
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
        let shared = terms.share(&mut self.pool, frame, twin);
        let shared = shared.inspect_err(|&refusal| {
            if refusal == Refusal::Different {
                // The twin has changed since, or this one has: the latter was seen last.
                self.engine.refuted(key, frame);
            }
        })?;
        // Whatever shared page was on this frame before has been freed.
        self.engine.forget_shared(shared.frame());
        Ok(shared)
    }
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

/// Whether pages of an area may be merged.
fn is_admitted(mm: &Mm, vma: &VmaReadGuard<'_>, policy: Policy) -> bool {
    let rcu = rcu::read_lock();
    Owner::of(mm, &rcu).is_some_and(|owner| policy.admits(vma, &owner))
}

/// What is mapped in the part of an area that a step looks at. Kept from step to step, so that
/// nothing is allocated under a page table lock.
struct Batch {
    /// Unmerged pages.
    pages: KVec<PageRef>,
    /// Merged ones, with the number of their mappings. Not referenced.
    merged: KVec<(Frame, u32)>,
    /// Pages to merge.
    candidates: KVec<Candidate>,
}

impl Batch {
    fn new() -> Result<Self> {
        Ok(Batch {
            pages: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            merged: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            candidates: KVec::with_capacity(BATCH, GFP_KERNEL)?,
        })
    }
}

/// Collects what is mapped.
struct Gatherer<'a> {
    batch: &'a mut Batch,
    left: usize,
    tables: u32,
}

impl Visitor for Gatherer<'_> {
    fn page(&mut self, _addr: usize, mapped: Mapped) -> ControlFlow<()> {
        // There is room: `left` is at most the capacity.
        if mapped.kind == Kind::Merged {
            let seen = (mapped.frame(), mapped.mappings());
            let _ = self.batch.merged.push_within_capacity(seen);
        } else {
            let _ = self.batch.pages.push_within_capacity(mapped.reference());
        }
        self.left = self.left.saturating_sub(1);
        break_if(self.left == 0)
    }

    fn table_done(&mut self) -> ControlFlow<()> {
        self.tables = self.tables.saturating_sub(1);
        break_if(self.tables == 0)
    }
}

fn break_if(done: bool) -> ControlFlow<()> {
    if done {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
