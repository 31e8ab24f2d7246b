// SPDX-License-Identifier: GPL-2.0

//! State shared by the scanner's threads, and how they take turns.
//!
//! Two mutexes guard what a turn needs. The mutex of the [`ScanState`] is held briefly: to tell a thread
//! where to go on, and to record how far it came. The mutex of the [`Sets`] is held to ask the engine
//! about the pages of a batch, and to tell it which of them were merged. A thread that holds it keeps
//! others from asking the engine; they can still read pages meanwhile. A third mutex guards the
//! [`Pool`] of spare frames; it is never held together with one of the others.
//!
//! Lock order: state, then sets. While holding either of the two, a thread waits for no address-space
//! lock and no folio lock (counting shared pages tries folio locks), so both mutexes may be acquired
//! under any of these locks that allows sleeping. They are held over allocations that reclaim, so they
//! must not be acquired under an anon_vma lock.
//!
//! Between these short critical sections a thread is in a [`Step`]. An operation that must not overlap
//! with a step *closes* the state ([`Commons::close`]).

use crate::mm::drain_lru;
use crate::mm::pool::Pool;
use crate::mm::process::address_space_id;
use crate::mm::shared::NewShared;
use crate::scan::cache::Backlog;
use crate::scan::places::Place;
use crate::scan::regions::region_id;
use crate::scan::sets::LockedSets;
use crate::scan::sets::Sets;
use crate::scan::state::RunMode;
use crate::scan::state::ScanState;
use crate::scan::state::StepSettings;
use crate::scan::state::HELD_MS;
use crate::sys::shrinker::Cache;
use crate::trace;
use engine::pace::Account;
use engine::pace::Clocks;
use engine::region::Prospect;
use engine::region::RegionId;
use engine::Keys;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::new_condvar;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::lock::mutex::MutexBackend;
use kernel::sync::lock::Guard;
use kernel::sync::CondVar;
use kernel::sync::Mutex;
use kernel::time::msecs_to_jiffies;

type StateGuard<'a> = Guard<'a, ScanState, MutexBackend>;

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
    state: Mutex<ScanState>,
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
    backlog: Backlog,
}

impl Commons {
    /// Makes the shared state from its parts; `pool` holds the spare frames.
    pub(crate) fn new(state: ScanState, sets: Sets, pool: Pool) -> impl PinInit<Self> {
        pin_init!(Commons {
            sets <- LockedSets::new(sets),
            backlog: Backlog::new(),
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

    /// Whether it pays to split the large pages in the region of `mm` that begins at `start`, as its last visit
    /// found. False while the last owner of `mm` exits.
    pub(crate) fn is_worth_splitting(&self, mm: &Mm, start: usize) -> bool {
        let id = address_space_id(mm).map(|space| region_id(space, start));
        id.is_some_and(|id| self.recall_region(id).is_worth_splitting())
    }

    /// The settings for a step that begins now.
    pub(crate) fn step_settings(&self) -> StepSettings {
        let state = self.lock();
        let settings = state.profiles.in_force();
        StepSettings {
            policy: state.policy,
            max_page_sharing: settings.engine.max_page_sharing(),
            split: settings.split,
            contents: state.contents,
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
            if is_over || is_stopping.load(Relaxed) || state.run != RunMode::Merge {
                return Turn::Sleep(sleep_ms);
            }
            if !state.is_closed {
                if state.holds_merging() {
                    return Turn::Sleep(sleep_ms.max(HELD_MS));
                }
                if let Some(place) = state.places.next() {
                    return self.begin_scan(state, place, limit);
                }
                if state.steps == 0 {
                    let sleep_ms = sleep_ms.max(state.end_pass(&mut self.sets.lock()));
                    let step = self.begin(&mut state);
                    return Turn::EndPass { step, sleep_ms };
                }
            }
            state.places.begin_wait();
            // Kernel threads get no signals.
            let _ = self.turned.wait_interruptible_freezable(&mut state);
            state.places.end_wait();
        }
    }

    fn begin_scan<'a>(&'a self, mut state: StateGuard<'a>, place: Place, limit: u32) -> Turn<'a> {
        let is_first = state.places.begins_pass();
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

    fn begin(&self, state: &mut ScanState) -> Step<'_> {
        state.steps = state.steps.saturating_add(1);
        Step(self)
    }

    /// Charges a step to `account`, and does what the shrinker left to the end of a step. `clocks` are
    /// the clocks after the step. Returns how long to sleep to stay within the CPU share, in
    /// milliseconds.
    pub(crate) fn charge(&self, account: &mut Account, clocks: Clocks) -> u32 {
        const NS_PER_MS: u64 = 1_000_000;
        self.backlog.catch_up(&self.sets);
        let mut state = self.lock();
        state.count_run_time(account.ran_since(clocks));
        let ms = account.rest(&state.pacer, clocks).div_ceil(NS_PER_MS);
        u32::try_from(ms).unwrap_or(u32::MAX)
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
        while !is_stopping.load(Relaxed) && state.run != RunMode::Merge {
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
        if ms > 0 && !is_stopping.load(Relaxed) && state.run == RunMode::Merge {
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

impl Cache for Commons {
    fn count(&self) -> usize {
        self.sets.forgettable()
    }

    fn shrink(&self, parts: usize) -> Option<usize> {
        self.backlog.shrink(&self.sets, parts)
    }
}

/// A step in progress: a thread scans or merges pages of a process.
pub(crate) struct Step<'a>(&'a Commons);

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.steps = state.steps.saturating_sub(1);
        // This thread itself will take one of the unfinished places.
        let is_for_others = state.places.has_some_for_others();
        let is_awaited = state.is_closed || state.places.has_none_begun();
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
