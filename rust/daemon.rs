// SPDX-License-Identifier: GPL-2.0

//! What the knobs do to the scanner, and what else is asked of it from outside.
//!
//! [`crate::threads`] has the threads that scan.

use crate::commons::Commons;
use crate::commons::Run;
use crate::commons::State;
use crate::mm::drain_lru;
use crate::mm::policy::Division;
use crate::mm::pool::Pool;
use crate::mm::refusal::Refusals;
use crate::mm::shared;
use crate::mm::sharers;
use crate::profile::Profile;
use crate::profile::Profiles;
use crate::scanner::Progress;
use crate::scanner::Scanner;
use crate::sets::Sets;
use crate::sets::SetsGuard;
use crate::sys::kthread::cond_resched;
use crate::sys::shrinker::Cache;
use crate::undo;
use core::ops::Range;
use engine::mainline::Passes;
use engine::pace::Account;
use engine::pace::Clocks;
use engine::pace::Pacer;
use engine::shared::Copies;
use engine::Frame;
use engine::HashKind;
use engine::Histogram;
use engine::KsmStats;
use kernel::mm::Mm;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

/// How often `merge_now` comes back to an area that its process is changing.
const BUSY_TRIES: u32 = 100;
/// Pause before.
const BUSY_PAUSE: Delta = Delta::from_millis(10);

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
    /// What mainline counts of passes.
    pub(crate) passes: Passes,
    /// As mainline's `pages_unshared`.
    pub(crate) at_rest: u64,
    /// As mainline's `pages_volatile`.
    pub(crate) pages_volatile: u64,
}

impl Counts {
    fn of(state: &State, sets: &Sets) -> Self {
        let (engine, passes) = (&sets.engine, state.passes);
        let (ksm, at_rest) = (engine.get_stats(), engine.at_rest());
        Counts {
            ksm,
            passes,
            at_rest,
            pages_volatile: passes.pages_volatile(sets.pages_met(), at_rest, &ksm),
            full_scans: state.pass(),
            pages_skipped: engine.pages_skipped(),
            index_bytes: (engine.index_bytes())
                .saturating_add(state.region_bytes())
                .saturating_add(sharers::bytes() as u64),
            index_failures: engine
                .index_failures()
                .wrapping_add(state.forgotten_visits()),
        }
    }
}

/// The scanner as its threads and its knobs share it.
#[pin_data]
pub(crate) struct Daemon {
    #[pin]
    commons: Commons,
    /// For who writes to `merge_now`.
    #[pin]
    at_once: Mutex<Scanner>,
    /// Parts that it is asked to give up, by whoever could not wait for the mutex.
    wanted: Atomic<usize>,
}

impl Daemon {
    /// Makes a daemon that is stopped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(hash: HashKind, seed: u64) -> Result<Arc<Self>> {
        let (state, sets, pool) = (State::new(seed)?, Sets::new(hash, seed)?, Pool::new()?);
        let scanner = Scanner::new()?;
        Arc::pin_init(
            pin_init!(Daemon {
                commons <- Commons::new(state, sets, pool),
                at_once <- new_mutex!(scanner, "ksm_v::at_once"),
                wanted: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// What its threads share.
    pub(crate) fn commons(&self) -> &Commons {
        &self.commons
    }

    /// What the `run` knob says.
    pub(crate) fn run_state(&self) -> Run {
        self.commons.lock().run()
    }

    /// Does what is written to the `run` knob of a profile, which is in force from then on; returns
    /// when it is done.
    ///
    /// # Errors
    ///
    /// Those of [`undo::everything`]; the scanner is stopped then. `ERESTARTSYS`, as from
    /// [`Commons::close`].
    pub(crate) fn set_run(&self, run: Run, profile: Profile) -> Result {
        let closed = self.commons.close()?;
        let mut state = self.commons.lock();
        let mut sets = self.commons.sets().lock();
        state.choose(profile, &mut sets);
        state.set_run(run);
        if run == Run::Stop {
            sets.recount();
        }
        drop((sets, state));
        let result = if run == Run::Unmerge {
            undo::everything(&closed).inspect_err(|_| self.commons.lock().set_run(Run::Stop))
        } else {
            Ok(())
        };
        drop(closed);
        self.commons.wake();
        result
    }

    /// Merges what it can in `range` of an address space, at once; returns when it is done.
    ///
    /// # Errors
    ///
    /// `EBUSY`: everything has been unmerged, and is to stay so. `EPERM`: there is nothing that may
    /// be merged. `EAGAIN`: the process was changing an area all the time. `ERESTARTSYS`: the caller
    /// has a signal pending. What was merged stays so. Those of [`Scanner::merge_at_once`].
    pub(crate) fn merge_now(&self, mm: &Mm, mut range: Range<usize>) -> Result {
        drain_lru();
        let (mut is_admitted, mut in_vain) = (false, 0);
        loop {
            let progress = self.merge_some(mm, range.clone())?;
            is_admitted |= progress.is_admitted;
            if progress.busy == 0 {
                let Some(next) = progress.next else {
                    return if is_admitted { Ok(()) } else { Err(EPERM) };
                };
                range.start = next;
                in_vain = 0;
            } else if in_vain < BUSY_TRIES {
                in_vain += 1;
                fsleep(BUSY_PAUSE);
            } else {
                return Err(EAGAIN);
            }
            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            cond_resched();
        }
    }

    /// Merges a batch of pages. No step is under way meanwhile: where one meets the same pages, both
    /// would leave some for later.
    fn merge_some(&self, mm: &Mm, range: Range<usize>) -> Result<Progress> {
        let closed = self.commons.close()?;
        if self.run_state() == Run::Unmerge {
            return Err(EBUSY);
        }
        let mut scanner = self.at_once.lock();
        scanner.merge_at_once(closed.commons(), mm, range)
    }

    /// Has new shared pages be movable or not.
    ///
    /// # Errors
    ///
    /// Those of [`shared::set_movable`].
    pub(crate) fn set_movable(&self, is_wanted: bool) -> Result {
        shared::set_movable(is_wanted)?;
        // Spare frames are of blocks that suit what was in force before.
        self.commons.pool().lock().clear();
        Ok(())
    }

    /// Leaves frames whose memory is to go offline; see [`undo::on_frames`].
    pub(crate) fn evacuate(&self, frames: Range<u64>) {
        // A work item gets no signal.
        let closed = self.commons.close();
        let result = closed.and_then(|closed| undo::on_frames(&closed, frames.clone()));
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

    /// The counts, as of the last pass where others than the scanner change them. In constant time.
    pub(crate) fn counts(&self) -> Counts {
        let state = self.commons.lock();
        Counts::of(&state, &self.commons.sets().lock())
    }

    /// The counts, at most a pass old while scanning. When stopped, and `is_exact`: of this moment,
    /// which takes as long as there are shared pages; else as of when they were counted last.
    pub(crate) fn counts_now(&self, is_exact: bool) -> Counts {
        let state = self.commons.lock();
        let sets = self.recounted(&state, is_exact);
        Counts::of(&state, &sets)
    }

    /// Which contents have several shared pages: if `is_exact`, of this moment, as for
    /// [`Self::counts_now`]; else as of the last pass.
    pub(crate) fn copies(&self, is_exact: bool) -> Copies {
        let sets = self.recounted(&self.commons.lock(), is_exact);
        if is_exact {
            sets.engine.copies()
        } else {
            sets.engine.last_copies()
        }
    }

    /// What is known of contents; counted anew when stopped, if `is_exact`.
    fn recounted(&self, state: &State, is_exact: bool) -> SetsGuard<'_> {
        let mut sets = self.commons.sets().lock();
        if is_exact && state.run() != Run::Merge {
            sets.recount();
        }
        sets
    }

    /// How often pages were refused since the start.
    pub(crate) fn refusals(&self) -> Refusals {
        self.commons.sets().lock().refusals
    }

    /// By how many page table entries shared pages are mapped, at this moment. Locks them for a
    /// few pages at a time.
    pub(crate) fn sharers(&self) -> Histogram {
        let mut sharers = Histogram::default();
        let (mut some, mut last) = ([Frame(0); 64], None);
        loop {
            let sets = self.commons.sets().lock();
            let frames = sets.engine.shared_frames_after(last);
            let met = some
                .iter_mut()
                .zip(frames)
                .map(|(slot, frame)| *slot = frame);
            let count = met.count();
            drop(sets);
            let some = some.get(..count).unwrap_or(&[]);
            let mappings = some.iter().filter_map(|&frame| shared::mappings(frame));
            mappings.for_each(|mappings| sharers.add(mappings));
            last = some.last().copied();
            if last.is_none() {
                return sharers;
            }
            cond_resched();
        }
    }

    /// Reads a knob.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.commons.lock())
    }

    /// Changes the settings and lets that take effect at once: as soon as they are in force. What
    /// the change returns is returned.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Profiles) -> T) -> T {
        let mut state = self.commons.lock();
        let result = change(&mut state.profiles);
        state.note_change();
        state.obey(&mut self.commons.sets().lock());
        drop(state);
        self.commons.wake();
        result
    }

    /// As [`Self::change`], while no step goes by the settings.
    ///
    /// # Errors
    ///
    /// Those of [`Commons::close`].
    pub(crate) fn change_closed<T>(&self, change: impl FnOnce(&mut Profiles) -> T) -> Result<T> {
        let _closed = self.commons.close()?;
        Ok(self.change(change))
    }

    /// As [`Self::change`], of what can't change while pages are shared. `is_set` says of the settings
    /// that there is nothing to change.
    ///
    /// # Errors
    ///
    /// `EBUSY`: pages are shared. Those of [`Commons::close`].
    pub(crate) fn change_unshared(
        &self,
        is_set: impl FnOnce(&Profiles) -> bool,
        change: impl FnOnce(&mut Profiles),
    ) -> Result {
        let _closed = self.commons.close()?;
        if self.read(|state| is_set(&state.profiles)) {
            return Ok(());
        }
        self.expect_nothing_shared()?;
        self.change(change);
        Ok(())
    }

    /// Changes how fast the scanner is, at once.
    pub(crate) fn change_pacer(&self, change: impl FnOnce(&mut Pacer)) {
        let mut state = self.commons.lock();
        change(&mut state.pacer);
        state.note_change();
        drop(state);
        self.commons.wake();
    }

    /// Sets who may share with whom.
    ///
    /// # Errors
    ///
    /// `EBUSY`: pages are shared, and it would be a change. Those of [`Commons::close`].
    pub(crate) fn set_division(&self, division: Division) -> Result {
        let _closed = self.commons.close()?;
        let mut state = self.commons.lock();
        if division != state.policy.division {
            self.expect_nothing_shared()?;
            state.forget_all(&mut self.commons.sets().lock());
            state.policy.division = division;
        }
        Ok(())
    }

    /// Ends a step of a thread with this account, after which the clocks say this. Returns for how
    /// long it is to rest so that it takes no more than its share, in milliseconds.
    pub(crate) fn end_step(&self, account: &mut Account, clocks: Clocks) -> u32 {
        const NS_PER_MS: u64 = 1_000_000;
        let wanted = self.wanted.xchg(0, Relaxed);
        if wanted > 0 {
            let mut sets = self.commons.sets().lock();
            forget(&mut sets, wanted);
            sets.engine.shrink_index();
        }
        let mut state = self.commons.lock();
        state.count_run_time(account.ran_since(clocks));
        let ms = account.rest(&state.pacer, clocks).div_ceil(NS_PER_MS);
        u32::try_from(ms).unwrap_or(u32::MAX)
    }

    /// # Errors
    ///
    /// `EBUSY`.
    fn expect_nothing_shared(&self) -> Result {
        self.commons.sets().lock().recount();
        sharers::sweep();
        if sharers::sets() > 0 {
            return Err(EBUSY);
        }
        Ok(())
    }
}

/// Gives up so many parts of the index, or as many as there are; returns how many, without those whose
/// memory is to be given back by someone who may allocate.
fn forget(sets: &mut Sets, parts: usize) -> usize {
    let parts = parts.min(sets.engine.forgettable_parts());
    (0..parts).filter(|_| sets.engine.forget_some()).count()
}

/// The unstable set can be gathered anew, at the price of another pass.
impl Cache for Daemon {
    fn count(&self) -> usize {
        self.commons.sets().forgettable()
    }

    fn shrink(&self, parts: usize) -> Option<usize> {
        let Some(mut sets) = self.commons.sets().try_lock() else {
            // Perhaps it is the scanner itself that wants memory: at the end of its step.
            self.wanted.store(parts, Relaxed);
            return None;
        };
        let forgotten = forget(&mut sets, parts);
        if forgotten == 0 {
            // Called while others reclaim, it allocates nothing.
            self.wanted.store(parts, Relaxed);
            return None;
        }
        Some(forgotten)
    }
}
