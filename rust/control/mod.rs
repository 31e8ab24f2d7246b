// SPDX-License-Identifier: GPL-2.0

//! Operations on the scanner for the knobs, memory offlining and debugfs.
//!
//! The threads that scan are in [`crate::scan::worker`].

use crate::mm::drain_lru;
use crate::mm::movable;
use crate::mm::policy::Division;
use crate::mm::policy::Scope;
use crate::mm::policy::Undumpable;
use crate::mm::pool::Pool;
use crate::mm::refusal::Refusals;
use crate::mm::shared;
use crate::mm::sharers;
use crate::scan::profile::Profile;
use crate::scan::profile::Profiles;
use crate::scan::sets::Sets;
use crate::scan::sets::SetsGuard;
use crate::scan::state::RunMode;
use crate::scan::state::ScanState;
use crate::scan::step::Progress;
use crate::scan::step::Scanner;
use crate::scan::turns::Commons;
use crate::sys::kthread::cond_resched;
use core::ops::Range;
use engine::mainline::Passes;
use engine::promise::Floor;
use engine::shared::Copies;
use engine::Frame;
use engine::HashKind;
use engine::Histogram;
use engine::KsmStats;
use kernel::mm::Mm;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

mod debugfs;
mod hotplug;
pub(crate) mod observers;
pub(crate) mod parameters;
mod unmerge_all;

/// How often `merge_now` retries a VMA that is locked.
const BUSY_TRIES: u32 = 100;
/// Pause before each retry.
const BUSY_PAUSE: Delta = Delta::from_millis(10);

/// A snapshot of all counts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// The documented statistics.
    pub(crate) ksm: KsmStats,
    /// Completed passes.
    pub(crate) full_scans: u64,
    /// Pages skipped because their regions were not due.
    pub(crate) pages_skipped: u64,
    /// Pages scanned or skipped in the present pass.
    pub(crate) pass_pages: u64,
    /// Memory of the tables, in bytes.
    pub(crate) index_bytes: u64,
    /// Entries that were not remembered because an allocation failed.
    pub(crate) index_failures: u64,
    /// Pass counts as mainline defines them.
    pub(crate) passes: Passes,
    /// Mainline's `pages_unshared`.
    pub(crate) at_rest: u64,
    /// Mainline's `pages_volatile`.
    pub(crate) pages_volatile: u64,
}

impl Counts {
    fn of(state: &ScanState, sets: &Sets) -> Self {
        let (engine, passes) = (&sets.engine, state.passes);
        let (ksm, at_rest) = (engine.get_stats(), engine.at_rest());
        Counts {
            ksm,
            passes,
            at_rest,
            pass_pages: passes.seen(sets.pages_met()),
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

/// The scanner, as the knobs, the probes and debugfs see it.
#[pin_data]
pub(crate) struct Daemon {
    commons: Arc<Commons>,
    /// The scanner of `merge_now`.
    #[pin]
    at_once: Mutex<Scanner>,
}

impl Daemon {
    /// Makes a daemon that is stopped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(hash: HashKind, seed: u64) -> Result<Arc<Self>> {
        let (state, sets, pool) = (ScanState::new(seed)?, Sets::new(hash, seed)?, Pool::new()?);
        let commons = Arc::pin_init(Commons::new(state, sets, pool), GFP_KERNEL)?;
        let scanner = Scanner::new()?;
        Arc::pin_init(
            pin_init!(Daemon {
                commons,
                at_once <- new_mutex!(scanner, "ksm_v::at_once"),
            }),
            GFP_KERNEL,
        )
    }

    /// The state shared by the threads.
    pub(crate) fn commons(&self) -> Arc<Commons> {
        self.commons.clone()
    }

    /// The value of the `run` knob.
    pub(crate) fn run_mode(&self) -> RunMode {
        self.commons.lock().run()
    }

    /// Carries out a write to the `run` knob of `profile`, and puts that profile in force. Returns when
    /// it is done.
    ///
    /// # Errors
    ///
    /// Those of [`unmerge_all::everything`], after which the scanner is stopped. `ERESTARTSYS` from
    /// [`Commons::close`].
    pub(crate) fn set_run(&self, run: RunMode, profile: Profile) -> Result {
        let closed = self.commons.close()?;
        let mut state = self.commons.lock();
        let mut sets = self.commons.sets().lock();
        state.choose(profile, &mut sets);
        state.set_run(run);
        if run == RunMode::Stop {
            sets.recount();
        }
        drop((sets, state));
        let result = if run == RunMode::Unmerge {
            unmerge_all::everything(&closed)
                .inspect_err(|_| self.commons.lock().set_run(RunMode::Stop))
        } else {
            Ok(())
        };
        drop(closed);
        self.commons.wake();
        result
    }

    /// Merges what can be merged in `range` of an address space. Returns when it is done.
    ///
    /// # Errors
    ///
    /// `EBUSY`: everything has been unmerged and must stay so. `EPERM`: the range has no VMA whose
    /// pages may be merged. `ENOMEM`: less memory is available than `promise_floor` demands. `EAGAIN`: a
    /// VMA stayed locked. `ERESTARTSYS`: the caller has a signal pending. Those of [`Scanner::merge_at_once`].
    /// After an error, pages merged so far stay merged.
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

    /// Why [`Self::merge_now`] of `mm` failed with `EPERM`, in words for the kernel log.
    pub(crate) fn objection(&self, mm: &Mm) -> &'static str {
        let policy = self.read(|state| state.policy);
        policy.objection(mm)
    }

    /// Merges a batch of pages, while no step is in progress: if a step and this function saw the same
    /// pages, each would leave some of them for later.
    fn merge_some(&self, mm: &Mm, range: Range<usize>) -> Result<Progress> {
        let closed = self.commons.close()?;
        let mut state = self.commons.lock();
        if state.run() == RunMode::Unmerge {
            return Err(EBUSY);
        }
        if state.holds_merging() {
            return Err(ENOMEM);
        }
        drop(state);
        let mut scanner = self.at_once.lock();
        scanner.merge_at_once(closed.commons(), mm, range)
    }

    /// Sets whether new shared pages are movable.
    ///
    /// # Errors
    ///
    /// Those of [`movable::set_movable`].
    pub(crate) fn set_movable(&self, is_wanted: bool) -> Result {
        movable::set_movable(is_wanted)?;
        // The spare frames are from pageblocks that suit the former setting.
        self.commons.pool().lock().clear();
        Ok(())
    }

    /// Vacates `frames`, whose memory is going offline; see [`unmerge_all::on_frames`].
    pub(crate) fn evacuate(&self, frames: Range<u64>) {
        // A work item gets no signal.
        let closed = self.commons.close();
        let result = closed.and_then(|closed| unmerge_all::on_frames(&closed, frames.clone()));
        let (first, end) = (frames.start, frames.end);
        match result {
            Ok(0) => (),
            Ok(pages) => pr_info!(
                "unmerged {pages} pages: memory is going offline (frames {first} to {end})\n"
            ),
            Err(_) => {
                pr_warn!("no memory to unmerge pages going offline (frames {first} to {end})\n")
            }
        }
    }

    /// The counts, in constant time. Counts that change without the scanner are as of the last pass.
    pub(crate) fn counts(&self) -> Counts {
        let state = self.commons.lock();
        Counts::of(&state, &self.commons.sets().lock())
    }

    /// The counts. They are at most one pass old while the scanner runs. While it is stopped or held, they are
    /// exact if `is_exact`, which takes time proportional to the number of shared pages; otherwise they
    /// are as of the last count.
    pub(crate) fn counts_now(&self, is_exact: bool) -> Counts {
        let state = self.commons.lock();
        let sets = self.recounted(&state, is_exact);
        Counts::of(&state, &sets)
    }

    /// Counts the contents with several shared pages: exactly if `is_exact`, under the conditions of
    /// [`Self::counts_now`]; otherwise as of the last pass.
    pub(crate) fn copies(&self, is_exact: bool) -> Copies {
        let sets = self.recounted(&self.commons.lock(), is_exact);
        if is_exact {
            sets.engine.copies()
        } else {
            sets.engine.last_copies()
        }
    }

    /// Locks the sets; recounts them if the scanner is stopped or held, and `is_exact`.
    fn recounted(&self, state: &ScanState, is_exact: bool) -> SetsGuard<'_> {
        let mut sets = self.commons.sets().lock();
        if is_exact && !state.is_scanning() {
            sets.recount();
        }
        sets
    }

    /// How often pages were refused since the module was loaded.
    pub(crate) fn refusals(&self) -> Refusals {
        self.commons.sets().lock().refusals
    }

    /// A histogram of the mappings of shared pages, as of now. Locks the sets for a few pages at a
    /// time.
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
    pub(crate) fn read<T>(&self, read: impl FnOnce(&ScanState) -> T) -> T {
        read(&self.commons.lock())
    }

    /// Changes the settings, and applies the settings in force at once. Returns the value of `change`.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Profiles) -> T) -> T {
        let mut state = self.commons.lock();
        let result = change(&mut state.profiles);
        state.note_change();
        state.obey(&mut self.commons.sets().lock());
        drop(state);
        self.commons.wake();
        result
    }

    /// Sets which memory is scanned under the module's own settings, while no step is in progress.
    ///
    /// # Errors
    ///
    /// Those of [`Commons::close`].
    pub(crate) fn set_scope(&self, scope: Scope) -> Result {
        let _closed = self.commons.close()?;
        self.change(|profiles| profiles.own.scope = scope);
        Ok(())
    }

    /// Like [`Self::change`], for a setting that can't change while pages are shared. `is_set` returns
    /// whether the setting has the wanted value already.
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

    /// Sets the largest share of one CPU that a thread may take, in percent, with immediate effect.
    pub(crate) fn set_max_cpu(&self, percent: u8) {
        let mut state = self.commons.lock();
        state.pacer.set_max_cpu(percent);
        state.note_change();
        drop(state);
        self.commons.wake();
    }

    /// Sets how much memory must be available so that merging goes on, with immediate effect.
    pub(crate) fn set_promise_floor(&self, floor: Floor) {
        self.commons.lock().set_promise_floor(floor);
        self.commons.wake();
    }

    /// Sets whether free swap space counts as available for that, with immediate effect.
    pub(crate) fn set_promise_swap(&self, is_counted: bool) {
        self.commons.lock().set_promise_swap(is_counted);
        self.commons.wake();
    }

    /// Sets which processes may share pages with each other.
    ///
    /// # Errors
    ///
    /// `EBUSY`: pages are shared, and `division` would be a change. Those of [`Commons::close`].
    pub(crate) fn set_division(&self, division: Division) -> Result {
        let _closed = self.commons.close()?;
        if self.read(|state| state.policy.division == division) {
            return Ok(());
        }
        // Without the lock of the state: a sweep may wait for the lock of an anon_vma.
        self.expect_nothing_shared()?;
        let mut state = self.commons.lock();
        state.forget_all(&mut self.commons.sets().lock());
        state.policy.division = division;
        Ok(())
    }

    /// Sets what is done with processes that are not dumpable, while no step is in progress. Pages that are
    /// shared stay so: no family has the domain of other processes.
    ///
    /// # Errors
    ///
    /// Those of [`Commons::close`].
    pub(crate) fn set_undumpable(&self, undumpable: Undumpable) -> Result {
        let _closed = self.commons.close()?;
        self.commons.lock().policy.undumpable = undumpable;
        Ok(())
    }

    /// # Errors
    ///
    /// `EBUSY`: pages are shared.
    fn expect_nothing_shared(&self) -> Result {
        self.commons.sets().lock().recount();
        sharers::sweep();
        if sharers::sets() > 0 {
            return Err(EBUSY);
        }
        Ok(())
    }
}
