// SPDX-License-Identifier: GPL-2.0

//! What the scanner's threads share, and how they take turns.
//!
//! One mutex, around the [`State`], held for moments: to ask the engine about pages that were met, to
//! tell it which were merged. No lock of an address space or of a page is ever asked for under it, so
//! that it may be taken under those that one can sleep with. Between such moments a thread is in a
//! [`Step`]; whoever must not meet one *closes* the state.

use crate::mm::drain_lru;
use crate::mm::is_memory_short;
use crate::mm::neighbours;
use crate::mm::policy::Division;
use crate::mm::policy::Policy;
use crate::mm::policy::Scope;
use crate::mm::pool::Pool;
use crate::mm::process::Cursor;
use crate::mm::refusal::Refusals;
use crate::mm::shared;
use crate::mm::storage::KernelStorage;
use crate::profile::Profile;
use crate::profile::Profiles;
use crate::trace;
use crate::visits::Region;
use core::mem::take;
use engine::advisor::Pass;
use engine::mainline::Passes;
use engine::pace::Governor;
use engine::pace::Pacer;
use engine::pace::Totals;
use engine::HashKind;
use engine::Key;
use engine::Keys;
use engine::KsmScanner;
use engine::Target;
use kernel::mm::Mm;
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

/// Threads at the most: as many address spaces may have been begun.
pub(crate) const MOST_THREADS: u32 = 64;

/// Pause after a cycle in which there was nothing to look at, in milliseconds.
pub(crate) const IDLE_MS: u32 = 20;

/// Pause after a pass in which nobody was met whose memory is in scope, in milliseconds: as long as
/// one who registers memory may wait. ksmd sleeps until someone does, of which nobody tells us.
const UNREGISTERED_MS: u32 = 200;

/// Contents that are claimed at a time, at the most: each thread has as many as it replaces pages
/// at once, and who writes to `merge_now` has them, too.
const MOST_CLAIMS: usize = (MOST_THREADS as usize + 1) * neighbours::MOST;

pub(crate) type Engine = KsmScanner<KernelStorage>;
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

/// An address space, and up to where it has been scanned in this pass.
pub(crate) struct Place {
    /// Does not keep the memory of a process that exits.
    pub(crate) mm: ARef<Mm>,
    pub(crate) addr: usize,
    /// The region in which that is, if its visit has begun.
    pub(crate) visit: Option<Region>,
}

/// What a step goes by.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// How many page table entries may be made to map a shared page.
    pub(crate) max_page_sharing: u32,
    /// Whether pages of zeroes are merged with the kernel's zero page; else with each other.
    pub(crate) use_zero_pages: bool,
    /// As [`KsmScanner::is_watchful`].
    pub(crate) is_watchful: bool,
}

/// The scanner, as its threads and its knobs share it.
pub(crate) struct State {
    /// Decides, counts and has those of the settings in force that it needs.
    pub(crate) engine: Engine,
    pub(crate) policy: Policy,
    pub(crate) pacer: Pacer,
    pub(crate) profiles: Profiles,
    pub(crate) run: Run,
    /// What mainline counts of passes.
    pub(crate) passes: Passes,
    /// A process with registered memory was met in this pass.
    is_any_registered: bool,
    use_zero_pages: bool,
    /// Run time of all threads, as of their last steps, in nanoseconds.
    ran_ns: u64,
    pass_began: Option<Instant<Monotonic>>,
    /// How often pages were refused since the start.
    pub(crate) refusals: Refusals,
    /// Pages merged since the start.
    pages_merged: u64,
    cursor: Cursor,
    /// Address spaces that are not scanned to their end and that no step is in.
    begun: KVec<Place>,
    at_start_of_pass: bool,
    /// The cursor has come to its end.
    at_end_of_pass: bool,
    /// Contents for which a thread is about to make a shared page.
    claims: KVVec<Key>,
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
    pub(crate) fn new(hash: HashKind, seed: u64) -> Result<Self> {
        let profiles = Profiles::default();
        let settings = profiles.in_force();
        Ok(State {
            engine: KsmScanner::with(KernelStorage, hash, seed),
            policy: Policy {
                scope: settings.scope,
                division: Division::default(),
                merge_across_nodes: settings.merge_across_nodes,
            },
            pacer: Pacer::new(),
            profiles,
            run: Run::Stop,
            passes: Passes::default(),
            is_any_registered: false,
            use_zero_pages: settings.use_zero_pages,
            ran_ns: 0,
            pass_began: None,
            refusals: Refusals::default(),
            pages_merged: 0,
            cursor: Cursor::default(),
            begun: KVec::with_capacity(MOST_THREADS as usize, GFP_KERNEL)?,
            at_start_of_pass: true,
            at_end_of_pass: false,
            claims: KVVec::with_capacity(MOST_CLAIMS, GFP_KERNEL)?,
            steps: 0,
            is_closed: false,
        })
    }

    /// Has the scanner go by this profile's settings. The state is closed, unless it is a change of
    /// knobs only.
    pub(crate) fn choose(&mut self, profile: Profile) {
        self.profiles.chosen = profile;
        self.obey();
    }

    /// Has the scanner go by the settings in force, which have changed. As for [`Self::choose`].
    pub(crate) fn obey(&mut self) {
        let settings = self.profiles.in_force();
        self.engine.set_knobs(settings.knobs);
        self.pacer.set_governor(settings.governor);
        self.policy.scope = settings.scope;
        self.use_zero_pages = settings.use_zero_pages;
        if self.policy.merge_across_nodes != settings.merge_across_nodes {
            self.policy.merge_across_nodes = settings.merge_across_nodes;
            // Contents have other keys now.
            self.engine.init();
        }
    }

    /// Pages that were met since the start, passed over or not.
    pub(crate) fn pages_met(&self) -> u64 {
        let scanned = self.engine.get_stats().pages_scanned;
        scanned.wrapping_add(self.engine.pages_skipped())
    }

    /// Takes note that everything has been unmerged.
    pub(crate) fn unmerged(&mut self) {
        let met = self.pages_met();
        self.passes.reset(met);
    }

    /// Takes note that a thread has run for so many nanoseconds.
    pub(crate) fn count_run_time(&mut self, ns: u64) {
        self.ran_ns = self.ran_ns.saturating_add(ns);
    }

    /// Takes note of a process with registered memory.
    pub(crate) fn meet_registered(&mut self) {
        self.is_any_registered = true;
    }

    /// Brings the counts up to date.
    pub(crate) fn recount(&mut self) {
        self.engine.recount(shared::mappings);
    }

    /// Takes note of pages that were merged.
    pub(crate) fn count_merged(&mut self, pages: u64) {
        self.pages_merged = self.pages_merged.wrapping_add(pages);
    }

    /// Has a step go on at `place`, in this pass.
    pub(crate) fn put_back(&mut self, place: Place) {
        // There is room: one for each thread.
        let _ = self.begun.push_within_capacity(place);
    }

    /// With what to merge a page of this key now. Who makes a shared page for it has the key until
    /// [`Self::disclaim`]: nobody else makes another meanwhile.
    pub(crate) fn claim(&mut self, key: Key) -> Option<Target> {
        let target = self.engine.target(key)?;
        if let Target::Twin(_) = target {
            let is_free = !self.claims.contains(&key);
            // There is room for all that threads may claim at a time.
            (is_free && self.claims.push_within_capacity(key).is_ok()).then_some(())?;
        }
        Some(target)
    }

    /// Takes back a claim, if it is one that this target comes with.
    pub(crate) fn disclaim(&mut self, key: Key, target: Option<Target>) {
        let Some(Target::Twin(_)) = target else {
            return;
        };
        if let Some(position) = self.claims.iter().position(|&claimed| claimed == key) {
            // The last one takes its place.
            let last = self.claims.pop();
            if let (Some(place), Some(last)) = (self.claims.get_mut(position), last) {
                *place = last;
            }
        }
    }

    /// Begins with the first process anew.
    pub(crate) fn rewind(&mut self) {
        self.begun.clear();
        self.pass_began = None;
        self.is_any_registered = false;
        self.cursor = Cursor::default();
        self.at_start_of_pass = true;
        self.at_end_of_pass = false;
    }

    fn next_place(&mut self) -> Option<Place> {
        let begun = self.begun.pop();
        begun.or_else(|| self.next_process())
    }

    fn next_process(&mut self) -> Option<Place> {
        if self.at_end_of_pass {
            return None;
        }
        let mm = self.cursor.next();
        self.at_end_of_pass = mm.is_none();
        mm.map(|mm| Place {
            mm,
            addr: 0,
            visit: None,
        })
    }

    /// Ends a pass, and says how long to pause then at least, in milliseconds.
    fn end_pass(&mut self) -> u32 {
        self.engine.end_pass(shared::mappings);
        let stats = self.engine.get_stats();
        let totals = Totals {
            scanned: stats.pages_scanned,
            merged: self.pages_merged,
        };
        let is_any_registered = take(&mut self.is_any_registered);
        self.passes.end_pass(self.pages_met(), is_any_registered);
        let previous = self.pacer.share();
        let review = self.pacer.end_pass(totals, is_memory_short());
        let pass = self.engine.full_scans();
        trace::stop_scan(pass, review.pass, &stats);
        if self.pacer.governor() == Governor::Auto {
            trace::pace(pass, self.pacer.share(), previous, review.cause);
        }
        self.advise();
        self.at_start_of_pass = true;
        self.at_end_of_pass = false;
        if self.policy.scope == Scope::Registered && !is_any_registered {
            UNREGISTERED_MS
        } else {
            0
        }
    }

    /// Has mainline's advisor, if it is in force, see how long the pass took.
    fn advise(&mut self) {
        let began = self.pass_began.take();
        let Some(began) = began.filter(|_| self.profiles.chosen == Profile::Mainline) else {
            return;
        };
        self.profiles.mainline.end_pass(Pass {
            took_ns: u64::try_from(began.elapsed().as_nanos()).unwrap_or(0),
            cpu_ns: self.ran_ns,
        });
        self.obey();
    }

    /// Pages of a cycle, and the pause between two, in milliseconds.
    fn speed(&self) -> (u32, u32) {
        match self.pacer.governor() {
            Governor::Manual if self.engine.scan_rate() == 0 => {
                (0, self.engine.sleep_ms().max(IDLE_MS))
            }
            Governor::Manual => (self.engine.scan_rate(), self.engine.sleep_ms()),
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
    /// Whoever closes the state.
    #[pin]
    closing: Mutex<()>,
    #[pin]
    pool: Mutex<Pool>,
    /// A knob has changed.
    #[pin]
    changed: CondVar,
    /// A step has ended, or one may begin.
    #[pin]
    turned: CondVar,
    keys: Keys,
}

impl Commons {
    /// Shares a state, and spare frames out of `pool`.
    pub(crate) fn new(state: State, pool: Pool) -> impl PinInit<Self> {
        pin_init!(Commons {
            keys: *state.engine.keys(),
            state <- new_mutex!(state, "ksm_v::state"),
            closing <- new_mutex!((), "ksm_v::closing"),
            pool <- new_mutex!(pool, "ksm_v::pool"),
            changed <- new_condvar!("ksm_v::changed"),
            turned <- new_condvar!("ksm_v::turned"),
        })
    }

    /// Locks the state, for a moment.
    pub(crate) fn lock(&self) -> StateGuard<'_> {
        self.state.lock()
    }

    /// As [`Self::lock`], unless someone has it.
    pub(crate) fn try_lock(&self) -> Option<StateGuard<'_>> {
        self.state.try_lock()
    }

    /// Spare frames for shared pages.
    pub(crate) fn pool(&self) -> &Mutex<Pool> {
        &self.pool
    }

    /// How contents get their keys.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What a step goes by that begins now.
    pub(crate) fn rules(&self) -> Rules {
        let state = self.lock();
        Rules {
            policy: state.policy,
            max_page_sharing: state.engine.max_page_sharing(),
            use_zero_pages: state.use_zero_pages,
            is_watchful: state.engine.is_watchful(),
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
        let pass = state.engine.full_scans();
        loop {
            let (rate, sleep_ms) = state.speed();
            let limit = rate.saturating_sub(done);
            let is_over = limit == 0 || state.engine.full_scans() != pass;
            if is_over || is_stopping.load(Relaxed) || !state.engine.is_enabled() {
                return Turn::Sleep(sleep_ms);
            }
            if !state.is_closed {
                if let Some(place) = state.next_place() {
                    return self.begin_scan(state, place, limit);
                }
                if state.steps == 0 {
                    let sleep_ms = sleep_ms.max(state.end_pass());
                    let step = self.begin(&mut state);
                    return Turn::EndPass { step, sleep_ms };
                }
            }
            // Kernel threads get no signals.
            let _ = self.turned.wait_interruptible_freezable(&mut state);
        }
    }

    fn begin_scan<'a>(&'a self, mut state: StateGuard<'a>, place: Place, limit: u32) -> Turn<'a> {
        let is_first = take(&mut state.at_start_of_pass);
        if is_first {
            state.pass_began = Some(Instant::now());
        }
        let pass = state.engine.full_scans().wrapping_add(1);
        let step = self.begin(&mut state);
        drop(state);
        if is_first {
            trace::start_scan(pass);
            drain_lru();
        }
        Turn::Scan { step, place, limit }
    }

    fn begin(&self, state: &mut State) -> Step<'_> {
        state.steps = state.steps.saturating_add(1);
        Step(self)
    }

    /// Waits until no step is under way. None begins until what is returned is dropped.
    pub(crate) fn close(&self) -> Closed<'_> {
        let closing = self.closing.lock();
        let mut state = self.lock();
        state.is_closed = true;
        while state.steps > 0 {
            self.turned.wait(&mut state);
        }
        Closed {
            commons: self,
            _closing: closing,
        }
    }

    /// Sleeps until there is something to scan. Returns false for a thread that is to stop.
    pub(crate) fn wait_until_enabled(&self, is_stopping: &Atomic<bool>) -> bool {
        let mut state = self.lock();
        while !is_stopping.load(Relaxed) && !state.engine.is_enabled() {
            let _ = self.changed.wait_interruptible_freezable(&mut state);
        }
        !is_stopping.load(Relaxed)
    }

    /// Sleeps between two cycles, unless a knob changes.
    pub(crate) fn pause(&self, is_stopping: &Atomic<bool>, ms: u32) {
        let mut state = self.lock();
        if ms > 0 && !is_stopping.load(Relaxed) && state.engine.is_enabled() {
            // Woken by time or by a knob: the next cycle comes either way.
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
        // Of an address space that is to be gone on with nobody needs to know.
        let is_awaited = state.is_closed || state.begun.is_empty();
        if state.steps == 0 && is_awaited {
            self.0.turned.notify_all();
        }
    }
}

/// No step is under way.
pub(crate) struct Closed<'a> {
    commons: &'a Commons,
    _closing: Guard<'a, (), MutexBackend>,
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
