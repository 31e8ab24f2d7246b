// SPDX-License-Identifier: GPL-2.0

//! What the scanner's threads share, and how they take turns.
//!
//! Two mutexes. That around the [`State`] is held for moments: to say where a thread goes on, to take
//! note of how far it came. That around the [`Sets`] is held to ask the engine about the pages of a
//! batch, and to tell it which were merged; who holds it keeps others from that, and not from looking
//! at pages meanwhile. Who wants both takes that of the state first. No lock of an address space or of
//! a page is ever asked for under either, so that they may be taken under those that one can sleep
//! with. Between such moments a thread is in a [`Step`]; whoever must not meet one *closes* the state.

use crate::mm::drain_lru;
use crate::mm::is_memory_short;
use crate::mm::policy::Division;
use crate::mm::policy::Policy;
use crate::mm::policy::Scope;
use crate::mm::pool::Pool;
use crate::mm::process::Cursor;
use crate::mm::shared;
use crate::mm::shared::NewShared;
use crate::mm::storage::KernelStorage;
use crate::profile::Profile;
use crate::profile::Profiles;
use crate::sets::LockedSets;
use crate::sets::Sets;
use crate::sys::kthread::ns_since;
use crate::trace;
use crate::visits::Region;
use core::mem::take;
use core::ops::Range;
use engine::advisor::Pass;
use engine::delay::Delays;
use engine::drain::Drains;
use engine::hash::mix;
use engine::mainline::Passes;
use engine::pace::Governor;
use engine::pace::Pacer;
use engine::pace::Totals;
use engine::region;
use engine::region::Outcome;
use engine::region::Plan;
use engine::region::Prospect;
use engine::region::RegionId;
use engine::region::Regions;
use engine::region::Visit;
use engine::Keys;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::new_condvar;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::lock::mutex::MutexBackend;
use kernel::sync::lock::Guard;
use kernel::sync::CondVar;
use kernel::sync::Mutex;
use kernel::time::msecs_to_jiffies;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Threads at the most.
pub(crate) const MOST_THREADS: u32 = 64;

/// Places that may have been begun: one for each thread, and one for each that waits.
const MOST_PLACES: usize = 2 * MOST_THREADS as usize;

/// Places that may be put off to the end of a pass; further ones are not.
const MOST_PUT_OFF: usize = 64;

/// Pause after a cycle in which there was nothing to look at, in milliseconds.
pub(crate) const IDLE_MS: u32 = 20;

/// Pause after a pass in which nobody was met whose memory is in scope, in milliseconds: as long as
/// one who registers memory may wait. ksmd sleeps until someone does, of which nobody tells us.
const UNREGISTERED_MS: u32 = 200;

type StateGuard<'a> = Guard<'a, State, MutexBackend>;

/// What the `run` knob says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// Do not scan; what is merged stays merged.
    Stop,
    /// Scan and merge.
    Merge,
    /// Do not scan, and everything has been unmerged.
    Unmerge,
}

/// A part of an address space that is to be scanned in this pass: what one thread has of it.
pub(crate) struct Place {
    /// Does not keep the memory of a process that exits.
    pub(crate) mm: ARef<Mm>,
    pub(crate) range: Range<usize>,
    /// The region in which that is, if its visit has begun.
    pub(crate) visit: Option<Region>,
    /// How many ids were passed to find the address space, if that has just been found.
    pub(crate) passed: Option<u32>,
    /// How often it was put off since an area was locked that comes next.
    pub(crate) times_put_off: u8,
    /// For how long to wait before it is looked at, in milliseconds. `None`: areas that are locked
    /// then are left out.
    pub(crate) wait_ms: Option<u32>,
}

impl Place {
    /// A place that was not looked at yet.
    fn new(mm: ARef<Mm>, range: Range<usize>, passed: Option<u32>) -> Self {
        Place {
            mm,
            range,
            visit: None,
            passed,
            times_put_off: 0,
            wait_ms: Some(0),
        }
    }
}

/// What a step goes by.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// How many page table entries may be made to map a shared page.
    pub(crate) max_page_sharing: u32,
    /// Whether pages of zeroes are merged with the kernel's zero page; else with each other.
    pub(crate) use_zero_pages: bool,
}

/// The settings, and how far the scanner came.
pub(crate) struct State {
    pub(crate) policy: Policy,
    pub(crate) pacer: Pacer,
    pub(crate) profiles: Profiles,
    run: Run,
    /// How often somebody has changed what a thread that pauses goes by.
    changes: u32,
    /// What mainline counts of passes.
    pub(crate) passes: Passes,
    /// A process with registered memory was met in this pass.
    is_any_registered: bool,
    use_zero_pages: bool,
    /// Run time of all threads, as of their last steps, in nanoseconds.
    ran_ns: u64,
    pass_began: Option<Instant<Monotonic>>,
    /// Since when there is a scanner.
    start: Instant<Monotonic>,
    drains: Drains,
    /// The number of this pass: how many have been completed.
    pass: u64,
    regions: Regions<KernelStorage>,
    /// Visits that could not be remembered for want of memory.
    forgotten_visits: u64,
    /// Pages merged since the start.
    pages_merged: u64,
    cursor: Cursor,
    /// Places that were begun, or parted from such, and that no step is in.
    begun: KVec<Place>,
    /// Places that were put off, since an area was locked there.
    put_off: KVec<Place>,
    delays: Delays,
    /// Threads that sleep until there is a place for them.
    waiting: usize,
    at_start_of_pass: bool,
    /// The cursor has come to its end.
    at_end_of_pass: bool,
    /// Steps under way.
    steps: u32,
    /// No step may begin.
    is_closed: bool,
}

impl State {
    /// Makes a scanner that is stopped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(seed: u64) -> Result<Self> {
        let profiles = Profiles::default();
        let settings = profiles.in_force();
        Ok(State {
            policy: Policy {
                scope: settings.scope,
                division: Division::default(),
                merge_across_nodes: settings.merge_across_nodes,
            },
            pacer: Pacer::new(),
            profiles,
            run: Run::Stop,
            changes: 0,
            passes: Passes::default(),
            is_any_registered: false,
            use_zero_pages: settings.use_zero_pages,
            ran_ns: 0,
            pass_began: None,
            start: Instant::now(),
            drains: Drains::default(),
            pass: 0,
            regions: Regions::new(mix(seed ^ 3)),
            forgotten_visits: 0,
            pages_merged: 0,
            cursor: Cursor::default(),
            begun: KVec::with_capacity(MOST_PLACES, GFP_KERNEL)?,
            put_off: KVec::with_capacity(MOST_PUT_OFF, GFP_KERNEL)?,
            delays: Delays::default(),
            waiting: 0,
            at_start_of_pass: true,
            at_end_of_pass: false,
            steps: 0,
            is_closed: false,
        })
    }

    /// Has the scanner go by this profile's settings. The state is closed, unless it is a change of
    /// knobs only.
    pub(crate) fn choose(&mut self, profile: Profile, sets: &mut Sets) {
        self.profiles.chosen = profile;
        self.obey(sets);
    }

    /// Has the scanner go by the settings in force, which have changed. As for [`Self::choose`].
    pub(crate) fn obey(&mut self, sets: &mut Sets) {
        let settings = self.profiles.in_force();
        if settings.knobs.max_interval() != sets.engine.max_interval() {
            self.regions.clear();
        }
        sets.engine.set_knobs(settings.knobs);
        self.pacer.set_governor(settings.governor);
        self.policy.scope = settings.scope;
        self.use_zero_pages = settings.use_zero_pages;
        if self.policy.merge_across_nodes != settings.merge_across_nodes {
            self.policy.merge_across_nodes = settings.merge_across_nodes;
            // Contents have other keys now.
            self.forget_all(sets);
        }
    }

    /// Forgets all contents, and what visits brought. Pages that are still shared are still counted.
    pub(crate) fn forget_all(&mut self, sets: &mut Sets) {
        sets.engine.forget_contents();
        self.regions.clear();
    }

    /// Begins anew: nothing is merged any more.
    pub(crate) fn unmerged(&mut self, sets: &mut Sets) {
        self.forget_all(sets);
        self.passes.reset(sets.pages_met());
    }

    /// Has every region visited: some of their merged pages have been broken apart.
    pub(crate) fn forget_visits(&mut self) {
        self.regions.clear();
    }

    /// The number of this pass: how many have been completed.
    pub(crate) fn pass(&self) -> u64 {
        self.pass
    }

    /// Memory of the table of regions, in bytes.
    pub(crate) fn region_bytes(&self) -> u64 {
        self.regions.bytes() as u64
    }

    /// Visits that could not be remembered for want of memory.
    pub(crate) fn forgotten_visits(&self) -> u64 {
        self.forgotten_visits
    }

    /// Ends a visit of a region.
    pub(crate) fn end_visit(&mut self, visit: Visit, outcome: Outcome) {
        let plan = self.plan();
        let remembered = self
            .regions
            .end_visit(&KernelStorage, visit, &plan, outcome);
        let failed = u64::from(remembered.is_err());
        self.forgotten_visits = self.forgotten_visits.wrapping_add(failed);
    }

    fn plan(&self) -> Plan {
        let knobs = self.profiles.in_force().knobs;
        Plan {
            pass: self.pass,
            patience: knobs.promote_after(),
            longest_interval: knobs.max_interval(),
        }
    }

    /// What the scanner does.
    pub(crate) fn run(&self) -> Run {
        self.run
    }

    /// Has the scanner do what `run` says, as of now.
    pub(crate) fn set_run(&mut self, run: Run) {
        self.run = run;
        self.note_change();
        self.drains.hurry();
    }

    /// Takes note that somebody has changed a knob: to be called under the same lock, before
    /// [`Commons::wake`].
    pub(crate) fn note_change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }

    /// Takes note that a thread has run for so many nanoseconds.
    pub(crate) fn count_run_time(&mut self, ns: u64) {
        self.ran_ns = self.ran_ns.saturating_add(ns);
    }

    /// Takes note of a process with registered memory.
    pub(crate) fn meet_registered(&mut self) {
        self.is_any_registered = true;
    }

    /// Takes note of pages that were merged.
    pub(crate) fn count_merged(&mut self, pages: u64) {
        self.pages_merged = self.pages_merged.wrapping_add(pages);
    }

    /// Has a step go on at `place`, in this pass. Where a thread has nothing to do, it gets a part of
    /// what is left of the area up to `area_end`.
    pub(crate) fn put_back(&mut self, mut place: Place, area_end: usize) {
        place.wait_ms = place.wait_ms.map(|_| 0);
        if self.waiting > self.begun.len() {
            let rest = place.range.start..area_end.min(place.range.end);
            if let Some(middle) = region::middle(&rest) {
                let rest = middle..place.range.end;
                place.range.end = middle;
                self.begin(Place::new(place.mm.clone(), rest, None));
            }
        }
        self.begin(place);
    }

    /// Has a step come back to `place` when nothing else is left of this pass; or, where that was in
    /// vain too often, go on there at once and leave out what is locked.
    pub(crate) fn put_off(&mut self, mut place: Place) {
        let has_room = self.put_off.len() < self.put_off.capacity();
        place.wait_ms = has_room
            .then(|| self.delays.put_off(place.times_put_off))
            .flatten();
        place.times_put_off = place.times_put_off.saturating_add(1);
        if place.wait_ms.is_some() {
            let _ = self.put_off.push_within_capacity(place);
        } else {
            self.begin(place);
        }
    }

    fn begin(&mut self, place: Place) {
        // There is room: one for each thread, and one for each that waits.
        let _ = self.begun.push_within_capacity(place);
    }

    /// Begins with the first process anew.
    pub(crate) fn rewind(&mut self) {
        self.begun.clear();
        self.put_off.clear();
        self.pass_began = None;
        self.is_any_registered = false;
        self.cursor = Cursor::default();
        self.at_start_of_pass = true;
        self.at_end_of_pass = false;
    }

    fn next_place(&mut self) -> Option<Place> {
        let begun = self.begun.pop();
        begun
            .or_else(|| self.next_process())
            .or_else(|| self.put_off.remove(0).ok())
    }

    fn next_process(&mut self) -> Option<Place> {
        if self.at_end_of_pass {
            return None;
        }
        let mm = self.cursor.next();
        self.at_end_of_pass = mm.is_none();
        // Ids behind the last address space count for the first one of the next pass.
        mm.map(|mm| Place::new(mm, 0..usize::MAX, Some(self.cursor.take_passed())))
    }

    /// Begins a pass, and says whether to empty the batches of the LRU lists before.
    fn begin_pass(&mut self, sets: &Sets) -> bool {
        self.pass_began = Some(Instant::now());
        self.delays = Delays::default();
        let refused = sets.refusals.for_references();
        self.drains.begin_pass(ns_since(self.start), refused)
    }

    /// Ends a pass, and says how long to pause then at least, in milliseconds.
    fn end_pass(&mut self, sets: &mut Sets) -> u32 {
        sets.engine.end_pass(shared::count);
        self.regions.end_pass(&KernelStorage, self.pass);
        self.pass = sets.engine.full_scans();
        let stats = sets.engine.get_stats();
        let totals = Totals {
            scanned: stats.pages_scanned,
            merged: self.pages_merged,
        };
        let is_any_registered = take(&mut self.is_any_registered);
        self.passes.end_pass(sets.pages_met(), is_any_registered);
        let previous = self.pacer.share();
        let review = self.pacer.end_pass(totals, is_memory_short());
        trace::stop_scan(self.pass, review.pass, &stats);
        if self.pacer.governor() == Governor::Auto {
            trace::pace(self.pass, self.pacer.share(), previous, review.cause);
        }
        self.advise(sets);
        self.at_start_of_pass = true;
        self.at_end_of_pass = false;
        if self.policy.scope == Scope::Registered && !is_any_registered {
            UNREGISTERED_MS
        } else {
            0
        }
    }

    /// Has mainline's advisor, if it is in force, see how long the pass took.
    fn advise(&mut self, sets: &mut Sets) {
        let began = self.pass_began.take();
        let Some(began) = began.filter(|_| self.profiles.chosen == Profile::Mainline) else {
            return;
        };
        self.profiles.mainline.end_pass(Pass {
            took_ns: ns_since(began),
            cpu_ns: self.ran_ns,
        });
        self.obey(sets);
    }

    /// Pages of a cycle, and the pause between two, in milliseconds.
    fn speed(&self) -> (u32, u32) {
        let knobs = self.profiles.in_force().knobs;
        match self.pacer.governor() {
            Governor::Manual if knobs.scan_rate() == 0 => (0, knobs.sleep_ms().max(IDLE_MS)),
            Governor::Manual => (knobs.scan_rate(), knobs.sleep_ms()),
            // All of its share, as it comes.
            Governor::Auto => (u32::MAX, 0),
        }
    }
}

/// What a thread does next.
pub(crate) enum Turn<'a> {
    /// Scan up to `limit` pages, from `place` on.
    Scan {
        step: Step<'a>,
        place: Place,
        limit: u32,
    },
    /// Sleep for so many milliseconds: all memory has been scanned. The next pass does not end before
    /// the step does.
    EndPass { step: Step<'a>, sleep_ms: u32 },
    /// Sleep for so many milliseconds: the cycle is over.
    Sleep(u32),
}

/// See the module.
#[pin_data]
pub(crate) struct Commons {
    #[pin]
    state: Mutex<State>,
    #[pin]
    pool: Mutex<Pool>,
    /// A knob has changed.
    #[pin]
    changed: CondVar,
    /// A step has ended, or one may begin.
    #[pin]
    turned: CondVar,
    #[pin]
    sets: LockedSets,
}

impl Commons {
    /// Shares a state, and spare frames out of `pool`.
    pub(crate) fn new(state: State, sets: Sets, pool: Pool) -> impl PinInit<Self> {
        pin_init!(Commons {
            sets <- LockedSets::new(sets),
            state <- new_mutex!(state, "ksm_v::state"),
            pool <- new_mutex!(pool, "ksm_v::pool"),
            changed <- new_condvar!("ksm_v::changed"),
            turned <- new_condvar!("ksm_v::turned"),
        })
    }

    /// Locks the state, for a moment.
    pub(crate) fn lock(&self) -> StateGuard<'_> {
        self.state.lock()
    }

    /// What is known of contents. Not to be locked before the state.
    pub(crate) fn sets(&self) -> &LockedSets {
        &self.sets
    }

    /// Spare frames for shared pages.
    pub(crate) fn pool(&self) -> &Mutex<Pool> {
        &self.pool
    }

    /// Makes a new shared page, charged to `mm`, on a spare frame of this node (`None`: of any), at the time
    /// `began` or later. The engine knows it before anything maps it, so that none is ever missed.
    ///
    /// Takes the lock of the pool, and then that of the sets.
    ///
    /// # Errors
    ///
    /// As [`Pool::draw`] and [`NewShared::new`]; `ENOMEM`: the engine has no memory for it.
    pub(crate) fn make_shared(
        &self,
        mm: &MmWithUser,
        node: Option<i32>,
        began: u64,
    ) -> Result<NewShared> {
        let page = self.pool.lock().draw(node)?;
        let shared = NewShared::new(mm, page)?;
        if self.sets.lock().engine.announce(shared.name(), began) {
            Ok(shared)
        } else {
            Err(ENOMEM)
        }
    }

    /// How contents get their keys.
    pub(crate) fn keys(&self) -> &Keys {
        self.sets.keys()
    }

    /// Comes to a region, and says what is known of it.
    pub(crate) fn recall_region(&self, id: RegionId) -> Prospect {
        let state = self.lock();
        state.regions.recall(id, &state.plan())
    }

    /// What a step goes by that begins now.
    pub(crate) fn rules(&self) -> Rules {
        let state = self.lock();
        Rules {
            policy: state.policy,
            max_page_sharing: state.profiles.in_force().knobs.max_page_sharing(),
            use_zero_pages: state.use_zero_pages,
        }
    }

    /// Has whoever waits look at the knobs again.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
        self.turned.notify_all();
    }

    /// Says what a thread does next that has looked at `done` pages in this cycle. Sleeps as long as
    /// there are only others to wait for.
    pub(crate) fn next_turn(&self, is_stopping: &Atomic<bool>, done: u32) -> Turn<'_> {
        let mut state = self.lock();
        let pass = state.pass;
        loop {
            let (rate, sleep_ms) = state.speed();
            let limit = rate.saturating_sub(done);
            let is_over = limit == 0 || state.pass != pass;
            if is_over || is_stopping.load(Relaxed) || state.run != Run::Merge {
                return Turn::Sleep(sleep_ms);
            }
            if !state.is_closed {
                if let Some(place) = state.next_place() {
                    return self.begin_scan(state, place, limit);
                }
                if state.steps == 0 {
                    let sleep_ms = sleep_ms.max(state.end_pass(&mut self.sets.lock()));
                    let step = self.begin(&mut state);
                    return Turn::EndPass { step, sleep_ms };
                }
            }
            state.waiting = state.waiting.saturating_add(1);
            // Kernel threads get no signals.
            let _ = self.turned.wait_interruptible_freezable(&mut state);
            state.waiting = state.waiting.saturating_sub(1);
        }
    }

    fn begin_scan<'a>(&'a self, mut state: StateGuard<'a>, place: Place, limit: u32) -> Turn<'a> {
        let is_first = take(&mut state.at_start_of_pass);
        let is_to_drain = is_first && state.begin_pass(&self.sets.lock());
        let pass = state.pass.wrapping_add(1);
        let step = self.begin(&mut state);
        drop(state);
        if is_first {
            trace::start_scan(pass);
        }
        if is_to_drain {
            drain_lru();
        }
        Turn::Scan { step, place, limit }
    }

    fn begin(&self, state: &mut State) -> Step<'_> {
        state.steps = state.steps.saturating_add(1);
        Step(self)
    }

    /// Waits until no step is under way, and nobody else has closed the state. No step begins until
    /// what is returned is dropped.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the caller has a signal pending. Not for kernel threads and work items, which
    /// get none.
    pub(crate) fn close(&self) -> Result<Closed<'_>> {
        let mut state = self.lock();
        while state.is_closed {
            self.wait_for_turn(&mut state)?;
        }
        state.is_closed = true;
        // Opens it again if there is a signal; dropped behind the lock, which it takes.
        let closed = Closed { commons: self };
        while state.steps > 0 {
            if let Err(error) = self.wait_for_turn(&mut state) {
                drop(state);
                return Err(error);
            }
        }
        drop(state);
        Ok(closed)
    }

    /// # Errors
    ///
    /// As for [`Self::close`].
    fn wait_for_turn(&self, state: &mut StateGuard<'_>) -> Result {
        if self.turned.wait_interruptible(state) {
            Err(ERESTARTSYS)
        } else {
            Ok(())
        }
    }

    /// Sleeps until there is something to scan. Returns false for a thread that is to stop.
    pub(crate) fn wait_until_enabled(&self, is_stopping: &Atomic<bool>) -> bool {
        let mut state = self.lock();
        while !is_stopping.load(Relaxed) && state.run != Run::Merge {
            let _ = self.changed.wait_interruptible_freezable(&mut state);
        }
        !is_stopping.load(Relaxed)
    }

    /// How often a knob has changed.
    pub(crate) fn changes(&self) -> u32 {
        self.lock().changes
    }

    /// Sleeps between two cycles, unless a knob changes or has changed since there were so many
    /// `changes`: before the cycle, which has made out the pause.
    pub(crate) fn pause(&self, is_stopping: &Atomic<bool>, ms: u32, changes: u32) {
        let state = self.lock();
        if state.changes == changes {
            self.sleep(state, is_stopping, ms);
        }
    }

    /// Sleeps within a cycle, to keep to a share of a CPU.
    pub(crate) fn rest(&self, is_stopping: &Atomic<bool>, ms: u32) {
        self.sleep(self.lock(), is_stopping, ms);
    }

    fn sleep(&self, mut state: StateGuard<'_>, is_stopping: &Atomic<bool>, ms: u32) {
        if ms > 0 && !is_stopping.load(Relaxed) && state.run == Run::Merge {
            // Woken by time or by a knob: whatever comes next comes either way.
            let jiffies = msecs_to_jiffies(ms);
            let _ = self.changed.wait_interruptible_timeout(&mut state, jiffies);
        }
    }

    /// Has a thread see that it is to stop.
    pub(crate) fn stop(&self, is_stopping: &Atomic<bool>) {
        // With the lock, so that it does not go to sleep just now.
        let state = self.lock();
        is_stopping.store(true, Relaxed);
        drop(state);
        self.wake();
    }
}

/// A thread is about to look at, or to merge, pages of a process.
pub(crate) struct Step<'a>(&'a Commons);

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.steps = state.steps.saturating_sub(1);
        // This thread itself takes one of the places that were begun.
        let is_for_others = state.waiting > 0 && state.begun.len() > 1;
        let is_awaited = state.is_closed || state.begun.is_empty();
        if is_for_others || state.steps == 0 && is_awaited {
            self.0.turned.notify_all();
        }
    }
}

/// No step is under way.
///
/// # Invariants
///
/// `is_closed` of the state was set for this, and is no other's.
pub(crate) struct Closed<'a> {
    commons: &'a Commons,
}

impl Closed<'_> {
    /// What was closed.
    pub(crate) fn commons(&self) -> &Commons {
        self.commons
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.commons.lock().is_closed = false;
        self.commons.turned.notify_all();
    }
}
