// SPDX-License-Identifier: GPL-2.0

//! The kernel thread `ksm_v_scand`, and what the knobs do to it.
//!
//! One mutex, around the [`Scanner`]: the thread holds it for a batch of pages, and so does whoever
//! writes to `merge_now`; a reader or writer of a knob for a moment; whoever writes 2 to `run` until
//! everything is unmerged.

use crate::mm::is_memory_short;
use crate::mm::policy::Policy;
use crate::scanner::drain_lru;
use crate::scanner::Scanner;
use crate::shim;
use crate::sys::kthread::own_cpu_ns;
use crate::sys::kthread::should_stop;
use crate::sys::kthread::Body;
use crate::sys::shrinker::Cache;
use core::ops::Range;
use engine::pace::Clocks;
use engine::pace::Governor;
use engine::pace::Pacer;
use engine::KsmStats;
use kernel::mm::Mm;
use kernel::new_condvar;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::CondVar;
use kernel::sync::Mutex;
use kernel::time::msecs_to_jiffies;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Pause after a pass that found nothing to look at, in milliseconds.
const EMPTY_PASS_MS: u32 = 20;
const NS_PER_MS: u64 = 1_000_000;

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

/// All that is counted, at one moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// The documented statistics.
    pub(crate) ksm: KsmStats,
    /// Completed passes.
    pub(crate) full_scans: u64,
    /// Pages of regions that were not due.
    pub(crate) pages_skipped: u64,
    /// Memory of the engine's tables.
    pub(crate) index_bytes: u64,
    /// What could not be remembered for want of memory.
    pub(crate) index_failures: u64,
}

impl Counts {
    fn of(scanner: &Scanner) -> Self {
        let engine = &scanner.engine;
        Counts {
            ksm: engine.get_stats(),
            full_scans: engine.full_scans(),
            pages_skipped: engine.pages_skipped(),
            index_bytes: engine.index_bytes(),
            index_failures: engine.index_failures(),
        }
    }
}

struct State {
    scanner: Scanner,
    pacer: Pacer,
    run: Run,
    /// The module is being unloaded.
    stopping: bool,
}

impl State {
    /// Pages of a cycle, and the pause between two, in milliseconds.
    fn speed(&self) -> (u32, u32) {
        match self.pacer.governor() {
            Governor::Manual => {
                let engine = &self.scanner.engine;
                (engine.scan_rate(), engine.sleep_ms())
            }
            // All of its share, as it comes.
            Governor::Auto => (u32::MAX, 0),
        }
    }

    /// For how long to rest so that the scanner takes no more than its share, in milliseconds.
    fn rest_ms(&mut self, clocks: Clocks) -> u32 {
        let ms = self.pacer.rest(clocks).div_ceil(NS_PER_MS);
        u32::try_from(ms).unwrap_or(u32::MAX)
    }

    fn end_pass(&mut self) {
        self.pacer
            .end_pass(self.scanner.totals(), is_memory_short());
    }
}

/// The scanner as its thread and its knobs share it.
#[pin_data]
pub(crate) struct Daemon {
    #[pin]
    state: Mutex<State>,
    /// The counts as of the last batch, for readers that can't wait for an unmerge.
    #[pin]
    published: Mutex<(Counts, bool)>,
    /// What the index could give up when memory is short, in parts, as of the last step.
    forgettable: Atomic<usize>,
    /// Parts that it is asked to give up, by whoever could not wait for the mutex.
    wanted: Atomic<usize>,
    /// Wakes the thread: a knob has changed.
    #[pin]
    changed: CondVar,
    /// When the module was loaded.
    start: Instant<Monotonic>,
}

impl Daemon {
    /// Makes a daemon that is stopped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(scanner: Scanner) -> Result<Arc<Self>> {
        let state = State {
            scanner,
            pacer: Pacer::new(),
            run: Run::Stop,
            stopping: false,
        };
        Arc::pin_init(
            pin_init!(Daemon {
                state <- new_mutex!(state, "ksm_v::state"),
                published <- new_mutex!((Counts::default(), false), "ksm_v::published"),
                forgettable: Atomic::new(0),
                wanted: Atomic::new(0),
                changed <- new_condvar!("ksm_v::changed"),
                start: Instant::now(),
            }),
            GFP_KERNEL,
        )
    }

    /// What the `run` knob says.
    pub(crate) fn run_state(&self) -> Run {
        self.state.lock().run
    }

    /// Does what is written to the `run` knob; returns when it is done.
    ///
    /// # Errors
    ///
    /// Those of [`Scanner::unmerge`]; the scanner is stopped then.
    pub(crate) fn set_run(&self, run: Run) -> Result {
        let mut state = self.state.lock();
        if run == Run::Merge {
            state.scanner.engine.enable();
        } else {
            state.scanner.engine.disable();
        }
        state.run = run;
        let result = if run == Run::Unmerge {
            self.unmerge(&mut state)
        } else {
            Ok(())
        };
        drop(state);
        self.changed.notify_all();
        result
    }

    fn unmerge(&self, state: &mut State) -> Result {
        self.publish(&state.scanner, true);
        let result = state.scanner.unmerge();
        self.publish(&state.scanner, false);
        if result.is_err() {
            state.run = Run::Stop;
        }
        result
    }

    /// Merges what it can in `range` of an address space, at once; returns when it is done.
    ///
    /// # Errors
    ///
    /// `EBUSY`: everything has been unmerged, and is to stay so. `EPERM`: there is nothing that may
    /// be merged. `EINTR`: the caller has a signal pending; what was merged stays so. Those of
    /// [`Scanner::merge_at_once`].
    pub(crate) fn merge_now(&self, mm: &Mm, mut range: Range<usize>) -> Result {
        drain_lru();
        let mut is_admitted = false;
        loop {
            let mut state = self.state.lock();
            if state.run == Run::Unmerge {
                return Err(EBUSY);
            }
            let progress = state.scanner.merge_at_once(mm, range.clone())?;
            self.offer(&state.scanner);
            drop(state);
            is_admitted |= progress.is_admitted;
            let Some(next) = progress.next else {
                return if is_admitted { Ok(()) } else { Err(EPERM) };
            };
            range.start = next;
            if current!().signal_pending() {
                return Err(EINTR);
            }
            // SAFETY: No lock is held.
            unsafe { shim::ksm_v_cond_resched_tasks_rcu_qs() };
        }
    }

    /// Leaves frames whose memory is to go offline; see [`Scanner::evacuate`].
    pub(crate) fn evacuate(&self, frames: Range<u64>) {
        let mut state = self.state.lock();
        self.publish(&state.scanner, true);
        let result = state.scanner.evacuate(frames.clone());
        self.publish(&state.scanner, false);
        drop(state);
        let (first, end) = (frames.start, frames.end);
        match result {
            Ok(0) => (),
            Ok(pages) => pr_info!(
                "{pages} pages unmerged, as memory is to go offline (frames {first} to {end})\n"
            ),
            Err(_) => {
                pr_warn!("no memory to unmerge what is to go offline (frames {first} to {end})\n")
            }
        }
    }

    /// The counts, as of the last pass where others than the scanner change them.
    pub(crate) fn counts(&self) -> Counts {
        self.counts_after(|_| ())
    }

    /// The counts: of this moment when stopped, at most a pass old while scanning.
    pub(crate) fn exact_counts(&self) -> Counts {
        self.counts_after(|state| {
            if state.run != Run::Merge {
                state.scanner.recount();
            }
        })
    }

    fn counts_after(&self, update: impl FnOnce(&mut State)) -> Counts {
        let (counts, unmerging) = *self.published.lock();
        if unmerging {
            return counts;
        }
        let mut state = self.state.lock();
        update(&mut state);
        Counts::of(&state.scanner)
    }

    /// Reads something of the scanner.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Scanner) -> T) -> T {
        read(&self.state.lock().scanner)
    }

    /// Changes a knob of the scanner and lets it take effect at once.
    ///
    /// # Errors
    ///
    /// Those of `change`.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Scanner) -> Result) -> Result {
        change(&mut self.state.lock().scanner)?;
        self.changed.notify_all();
        Ok(())
    }

    /// Reads something of the pacer.
    pub(crate) fn read_pacer<T>(&self, read: impl FnOnce(&Pacer) -> T) -> T {
        read(&self.state.lock().pacer)
    }

    /// Changes how fast the scanner is, at once.
    pub(crate) fn change_pacer(&self, change: impl FnOnce(&mut Pacer)) {
        change(&mut self.state.lock().pacer);
        self.changed.notify_all();
    }

    /// Changes the rules; see [`Scanner::set_policy`].
    ///
    /// # Errors
    ///
    /// `EBUSY`: not while pages are shared.
    pub(crate) fn change_policy(&self, change: impl FnOnce(&mut Policy)) -> Result {
        self.change(|scanner| {
            let mut policy = scanner.policy();
            change(&mut policy);
            scanner.set_policy(policy)
        })
    }

    fn publish(&self, scanner: &Scanner, unmerging: bool) {
        *self.published.lock() = (Counts::of(scanner), unmerging);
    }

    /// Sleeps until there is something to scan. Returns false when the module is unloaded.
    fn wait_until_enabled(&self) -> bool {
        let mut state = self.state.lock();
        while !state.stopping && !state.scanner.engine.is_enabled() {
            // Kernel threads get no signals.
            let _ = self.changed.wait_interruptible_freezable(&mut state);
        }
        !state.stopping
    }

    /// Looks at as many pages as a cycle has, a batch at a time, unless it has to rest before.
    /// Returns for how long to sleep then, in milliseconds.
    fn cycle(&self) -> u32 {
        let mut done = 0u32;
        loop {
            let mut state = self.state.lock();
            let (rate, sleep_ms) = state.speed();
            let left = rate.saturating_sub(done);
            if left == 0 || state.stopping || !state.scanner.engine.is_enabled() {
                return sleep_ms;
            }
            let step = state.scanner.step(left);
            self.forget(&mut state.scanner, self.wanted.xchg(0, Relaxed));
            if step.end_of_pass {
                state.end_pass();
            }
            let rest_ms = state.rest_ms(self.clocks());
            drop(state);
            done = done.saturating_add(step.pages);
            if step.end_of_pass {
                let sleep_ms = if done == 0 {
                    sleep_ms.max(EMPTY_PASS_MS)
                } else {
                    sleep_ms
                };
                return sleep_ms.max(rest_ms);
            }
            if rest_ms > 0 {
                self.pause(rest_ms);
            }
            // SAFETY: No lock is held.
            unsafe { shim::ksm_v_cond_resched_tasks_rcu_qs() };
            if should_stop() {
                return sleep_ms;
            }
        }
    }

    /// Gives up so many parts of the index, or as many as there are; returns how many. Has the
    /// kernel know what is left.
    fn forget(&self, scanner: &mut Scanner, parts: usize) -> usize {
        let parts = parts.min(scanner.engine.forgettable_parts());
        for _ in 0..parts {
            scanner.engine.forget_some();
        }
        self.offer(scanner);
        parts
    }

    /// Has the kernel know what could be given up.
    fn offer(&self, scanner: &Scanner) {
        let parts = scanner.engine.forgettable_parts();
        self.forgettable.store(parts, Relaxed);
    }

    /// What the clocks say, to the scanner's thread.
    fn clocks(&self) -> Clocks {
        Clocks {
            now: u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(0),
            ran: own_cpu_ns(),
        }
    }

    /// Sleeps between two cycles, unless a knob changes.
    fn pause(&self, ms: u32) {
        let mut state = self.state.lock();
        if ms > 0 && !state.stopping && state.scanner.engine.is_enabled() {
            let jiffies = msecs_to_jiffies(ms);
            // Woken by time or by a knob: the next cycle comes either way.
            let _ = self.changed.wait_interruptible_timeout(&mut state, jiffies);
        }
    }
}

impl Body for Daemon {
    fn run(&self) {
        while self.wait_until_enabled() && !should_stop() {
            let sleep_ms = self.cycle();
            self.pause(sleep_ms);
        }
        wait_for_stop();
    }

    fn interrupt(&self) {
        self.state.lock().stopping = true;
        self.changed.notify_all();
    }
}

/// The unstable set can be gathered anew, at the price of another pass.
impl Cache for Daemon {
    fn count(&self) -> usize {
        self.forgettable.load(Relaxed)
    }

    fn shrink(&self, parts: usize) -> Option<usize> {
        let Some(mut state) = self.state.try_lock() else {
            // Perhaps it is the scanner itself that wants memory: at the end of its step.
            self.wanted.store(parts, Relaxed);
            return None;
        };
        Some(self.forget(&mut state.scanner, parts))
    }
}

/// Waits until the owner's `kthread_stop()` is on its way, which it is: a thread must not end
/// before.
fn wait_for_stop() {
    while !should_stop() {
        kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
    }
}
