// SPDX-License-Identifier: GPL-2.0

//! State shared by the scanner's threads, and how they take turns.
//!
//! Two mutexes guard what a turn needs. The mutex of the [`State`] is held briefly: to tell a thread
//! where to go on, and to record how far it came. The mutex of the [`Sets`] is held to ask the engine
//! about the pages of a batch, and to tell it which of them were merged. A thread that holds it keeps
//! others from asking the engine; they can still read pages meanwhile. A third mutex guards the
//! [`Pool`] of spare frames; it is never held together with one of the others.
//!
//! Lock order: state, then sets. While holding either of the two, a thread acquires no address-space
//! lock and no page lock, so both mutexes may be acquired under any of these locks that allows
//! sleeping.
//!
//! Between these short critical sections a thread is in a [`Step`]. An operation that must not overlap
//! with a step *closes* the state ([`Commons::close`]).

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

/// Largest number of scanner threads.
pub(crate) const MOST_THREADS: u32 = 64;

/// Capacity of [`State::begun`]: one place for each thread, and one for each waiting thread.
const MOST_PLACES: usize = 2 * MOST_THREADS as usize;

/// Capacity of [`State::put_off`]. Further places are not put off.
const MOST_PUT_OFF: usize = 64;

/// Pause after a cycle that found nothing to scan, in milliseconds.
pub(crate) const IDLE_MS: u32 = 20;

/// Pause after a pass that found no memory in scope, in milliseconds: the longest time that newly
/// registered memory waits. ksmd sleeps until a process registers memory; the module gets no
/// notification of that.
const UNREGISTERED_MS: u32 = 200;

type StateGuard<'a> = Guard<'a, State, MutexBackend>;

/// Values of the `run` knob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// Do not scan; merged pages stay merged.
    Stop,
    /// Scan and merge.
    Merge,
    /// Do not scan, and everything has been unmerged.
    Unmerge,
}

/// A range of an address space to scan in this pass; the unit of work of one thread.
pub(crate) struct Place {
    /// A reference that does not keep the memory of an exiting process.
    pub(crate) mm: ARef<Mm>,
    pub(crate) range: Range<usize>,
    /// The region at the start of the range, if its visit has begun.
    pub(crate) visit: Option<Region>,
    /// Number of PIDs passed to find the address space, if it has just been found.
    pub(crate) passed: Option<u32>,
    /// How often this place was put off because its next VMA was locked.
    pub(crate) times_put_off: u8,
    /// Pause before this place is scanned, in milliseconds. `None`: do not wait; skip VMAs that are
    /// still locked.
    pub(crate) wait_ms: Option<u32>,
}

impl Place {
    /// Makes a place that was not scanned yet.
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

/// The settings that a step works with.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// Number of page table entries that merges may map to one shared page.
    pub(crate) max_page_sharing: u32,
    /// Whether zero-filled pages are merged with the kernel's zero page rather than with each other.
    pub(crate) use_zero_pages: bool,
}

/// The settings and the progress of the scanner.
pub(crate) struct State {
    pub(crate) policy: Policy,
    pub(crate) pacer: Pacer,
    pub(crate) profiles: Profiles,
    run: Run,
    /// Number of changes of the knobs, which end the pause of a thread.
    changes: u32,
    /// Pass counts as mainline defines them.
    pub(crate) passes: Passes,
    /// Whether this pass has met a process with registered memory.
    is_any_registered: bool,
    use_zero_pages: bool,
    /// CPU time of all threads, as of the ends of their last steps, in nanoseconds.
    ran_ns: u64,
    pass_began: Option<Instant<Monotonic>>,
    /// When the scanner was made.
    start: Instant<Monotonic>,
    drains: Drains,
    /// Number of completed passes; the number of the current pass.
    pass: u64,
    regions: Regions<KernelStorage>,
    /// Visits that were not remembered because an allocation failed.
    forgotten_visits: u64,
    /// Pages merged since the module was loaded.
    pages_merged: u64,
    cursor: Cursor,
    /// Unfinished ranges that no thread is scanning now.
    begun: KVec<Place>,
    /// Places that were put off because a VMA was locked there.
    put_off: KVec<Place>,
    delays: Delays,
    /// Number of threads that sleep until there is a place for them.
    waiting: usize,
    at_start_of_pass: bool,
    /// Whether the cursor has passed the last process.
    at_end_of_pass: bool,
    /// Number of steps in progress.
    steps: u32,
    /// Whether the state is closed: no step may begin.
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

    /// Puts the settings of `profile` in force. The state must be closed, unless only knobs change.
    pub(crate) fn choose(&mut self, profile: Profile, sets: &mut Sets) {
        self.profiles.chosen = profile;
        self.obey(sets);
    }

    /// Applies the settings in force after a change. The state must be closed, as for [`Self::choose`].
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
            // The change gives all contents other keys.
            self.forget_all(sets);
        }
    }

    /// Forgets all contents and the outcomes of all visits. Pages that are still shared stay counted.
    pub(crate) fn forget_all(&mut self, sets: &mut Sets) {
        sets.engine.forget_contents();
        self.regions.clear();
    }

    /// Starts over after everything was unmerged.
    pub(crate) fn unmerged(&mut self, sets: &mut Sets) {
        self.forget_all(sets);
        self.passes.reset(sets.pages_met());
    }

    /// Forgets the visits of all regions, so that each region is due: some of their merged pages have
    /// been unmerged.
    pub(crate) fn forget_visits(&mut self) {
        self.regions.clear();
    }

    /// Number of completed passes; the number of the current pass.
    pub(crate) fn pass(&self) -> u64 {
        self.pass
    }

    /// Memory of the table of regions, in bytes.
    pub(crate) fn region_bytes(&self) -> u64 {
        self.regions.bytes() as u64
    }

    /// Visits that were not remembered because an allocation failed.
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

    /// The value of the `run` knob.
    pub(crate) fn run(&self) -> Run {
        self.run
    }

    /// Sets `run` with immediate effect.
    pub(crate) fn set_run(&mut self, run: Run) {
        self.run = run;
        self.note_change();
        self.drains.hurry();
    }

    /// Counts a change of a knob. Must be called in the critical section of the change, before
    /// [`Commons::wake`].
    pub(crate) fn note_change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }

    /// Adds CPU time of a thread, in nanoseconds.
    pub(crate) fn count_run_time(&mut self, ns: u64) {
        self.ran_ns = self.ran_ns.saturating_add(ns);
    }

    /// Records that a process with registered memory was met.
    pub(crate) fn meet_registered(&mut self) {
        self.is_any_registered = true;
    }

    /// Counts merged pages.
    pub(crate) fn count_merged(&mut self, pages: u64) {
        self.pages_merged = self.pages_merged.wrapping_add(pages);
    }

    /// Returns the unfinished `place` of a step, to be continued in this pass. If a thread is waiting
    /// for work, the place is split in the middle of what is left of the current VMA, which ends at
    /// `area_end`.
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

    /// Puts `place` off until nothing else is left of this pass. After too many vain attempts it is
    /// continued at once instead, skipping locked VMAs.
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
        // This does not fail: there is room for one place of each thread and one of each waiting
        // thread.
        let _ = self.begun.push_within_capacity(place);
    }

    /// Starts over with the first process.
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
        // PIDs above the last address space are counted for the first one of the next pass.
        mm.map(|mm| Place::new(mm, 0..usize::MAX, Some(self.cursor.take_passed())))
    }

    /// Begins a pass; returns whether to drain the LRU batches first.
    fn begin_pass(&mut self, sets: &Sets) -> bool {
        self.pass_began = Some(Instant::now());
        self.delays = Delays::default();
        let refused = sets.refusals.for_references();
        self.drains.begin_pass(ns_since(self.start), refused)
    }

    /// Ends a pass; returns the shortest pause after it, in milliseconds.
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

    /// Reports the duration of the pass to mainline's advisor, if the mainline profile is in force.
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

    /// Pages per cycle, and the pause between two cycles in milliseconds.
    fn speed(&self) -> (u32, u32) {
        let knobs = self.profiles.in_force().knobs;
        match self.pacer.governor() {
            Governor::Manual if knobs.scan_rate() == 0 => (0, knobs.sleep_ms().max(IDLE_MS)),
            Governor::Manual => (knobs.scan_rate(), knobs.sleep_ms()),
            // No fixed rate: the thread uses up its CPU share.
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
    /// Sleep for `sleep_ms` milliseconds: all memory has been scanned. The next pass does not end
    /// before `step` is dropped.
    EndPass { step: Step<'a>, sleep_ms: u32 },
    /// Sleep for this many milliseconds: the cycle is over.
    Sleep(u32),
}

/// State shared by the scanner's threads, see the module documentation.
#[pin_data]
pub(crate) struct Commons {
    #[pin]
    state: Mutex<State>,
    #[pin]
    pool: Mutex<Pool>,
    /// Signalled when a knob has changed.
    #[pin]
    changed: CondVar,
    /// Signalled when a step has ended or may begin.
    #[pin]
    turned: CondVar,
    #[pin]
    sets: LockedSets,
}

impl Commons {
    /// Makes the shared state from its parts; `pool` holds the spare frames.
    pub(crate) fn new(state: State, sets: Sets, pool: Pool) -> impl PinInit<Self> {
        pin_init!(Commons {
            sets <- LockedSets::new(sets),
            state <- new_mutex!(state, "ksm_v::state"),
            pool <- new_mutex!(pool, "ksm_v::pool"),
            changed <- new_condvar!("ksm_v::changed"),
            turned <- new_condvar!("ksm_v::turned"),
        })
    }

    /// Locks the state. Callers hold it briefly.
    pub(crate) fn lock(&self) -> StateGuard<'_> {
        self.state.lock()
    }

    /// The sets: what is known of contents. Lock order: state, then sets.
    pub(crate) fn sets(&self) -> &LockedSets {
        &self.sets
    }

    /// Spare frames for shared pages.
    pub(crate) fn pool(&self) -> &Mutex<Pool> {
        &self.pool
    }

    /// Makes a new shared page on a spare frame of `node` (`None`: of any node), charged to `mm`.
    /// `began` is a boot time in nanoseconds at which the page did not exist yet. The engine learns of
    /// the page before anything maps it, so it knows every shared page.
    ///
    /// Locks the pool, then the sets, one after the other.
    ///
    /// # Errors
    ///
    /// Those of [`Pool::draw`] and [`NewShared::new`]; `ENOMEM`: the engine has no memory for its
    /// entry.
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

    /// The scheme by which contents get their keys.
    pub(crate) fn keys(&self) -> &Keys {
        self.sets.keys()
    }

    /// Looks up what is known of a region that a step has reached.
    pub(crate) fn recall_region(&self, id: RegionId) -> Prospect {
        let state = self.lock();
        state.regions.recall(id, &state.plan())
    }

    /// The settings for a step that begins now.
    pub(crate) fn rules(&self) -> Rules {
        let state = self.lock();
        Rules {
            policy: state.policy,
            max_page_sharing: state.profiles.in_force().knobs.max_page_sharing(),
            use_zero_pages: state.use_zero_pages,
        }
    }

    /// Wakes all waiting threads, which check the knobs again.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
        self.turned.notify_all();
    }

    /// Returns the next action of a thread that has scanned `done` pages in this cycle. Sleeps as long
    /// as the thread can only wait for the steps of others.
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

    /// Closes the state: waits until no step is in progress and no other caller has it closed. No step
    /// begins until the returned guard is dropped.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the caller has a signal pending. Kernel threads and work items get no signals, so
    /// they do not see this error.
    pub(crate) fn close(&self) -> Result<Closed<'_>> {
        let mut state = self.lock();
        while state.is_closed {
            self.wait_for_turn(&mut state)?;
        }
        state.is_closed = true;
        // Reopens the state if a signal ends the wait. Its destructor takes the lock, so the lock must
        // be dropped first.
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
    /// Those of [`Self::close`].
    fn wait_for_turn(&self, state: &mut StateGuard<'_>) -> Result {
        if self.turned.wait_interruptible(state) {
            Err(ERESTARTSYS)
        } else {
            Ok(())
        }
    }

    /// Sleeps until the `run` knob allows scanning. Returns false if the thread should stop.
    pub(crate) fn wait_until_enabled(&self, is_stopping: &Atomic<bool>) -> bool {
        let mut state = self.lock();
        while !is_stopping.load(Relaxed) && state.run != Run::Merge {
            let _ = self.changed.wait_interruptible_freezable(&mut state);
        }
        !is_stopping.load(Relaxed)
    }

    /// Number of changes of the knobs so far.
    pub(crate) fn changes(&self) -> u32 {
        self.lock().changes
    }

    /// Sleeps between two cycles until `ms` milliseconds have passed or a knob changes. Returns at once
    /// if a knob changed since `changes` was read. The caller reads it before the cycle that determines
    /// the pause.
    pub(crate) fn pause(&self, is_stopping: &Atomic<bool>, ms: u32, changes: u32) {
        let state = self.lock();
        if state.changes == changes {
            self.sleep(state, is_stopping, ms);
        }
    }

    /// Sleeps within a cycle to keep within the CPU share.
    pub(crate) fn rest(&self, is_stopping: &Atomic<bool>, ms: u32) {
        self.sleep(self.lock(), is_stopping, ms);
    }

    fn sleep(&self, mut state: StateGuard<'_>, is_stopping: &Atomic<bool>, ms: u32) {
        if ms > 0 && !is_stopping.load(Relaxed) && state.run == Run::Merge {
            // The caller continues in the same way after a timeout and after a change of a knob.
            let jiffies = msecs_to_jiffies(ms);
            let _ = self.changed.wait_interruptible_timeout(&mut state, jiffies);
        }
    }

    /// Tells a thread to stop, and wakes it.
    pub(crate) fn stop(&self, is_stopping: &Atomic<bool>) {
        // Set under the lock, so that the thread can't miss it between its check and going to sleep.
        let state = self.lock();
        is_stopping.store(true, Relaxed);
        drop(state);
        self.wake();
    }
}

/// A step in progress: a thread scans or merges pages of a process.
pub(crate) struct Step<'a>(&'a Commons);

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.steps = state.steps.saturating_sub(1);
        // This thread itself will take one of the unfinished places.
        let is_for_others = state.waiting > 0 && state.begun.len() > 1;
        let is_awaited = state.is_closed || state.begun.is_empty();
        if is_for_others || state.steps == 0 && is_awaited {
            self.0.turned.notify_all();
        }
    }
}

/// A guard that keeps the state closed: no step is in progress.
///
/// # Invariants
///
/// `is_closed` of the state is set, and this guard is the only one that may clear it.
pub(crate) struct Closed<'a> {
    commons: &'a Commons,
}

impl Closed<'_> {
    /// The shared state that is closed.
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
