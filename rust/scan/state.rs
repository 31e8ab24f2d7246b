// SPDX-License-Identifier: GPL-2.0

//! The settings in force, and what the scanner counts.

use crate::mm::policy::Division;
use crate::mm::policy::Policy;
use crate::mm::policy::Scope;
use crate::mm::policy::Undumpable;
use crate::mm::shared;
use crate::mm::shortage::copies;
use crate::mm::shortage::is_memory_short;
use crate::mm::shortage::memory;
use crate::mm::storage::KernelStorage;
use crate::scan::places::Places;
use crate::scan::profile::Contents;
use crate::scan::profile::Profile;
use crate::scan::profile::Profiles;
use crate::scan::sets::Sets;
use crate::sys::kthread::ns_since;
use crate::trace;
use core::mem::take;
use engine::advisor::Pass;
use engine::drain::Drains;
use engine::hash::mix;
use engine::huge::SplitRule;
use engine::mainline::Passes;
use engine::pace::Governor;
use engine::pace::Pacer;
use engine::pace::Totals;
use engine::promise::Floor;
use engine::promise::Promise;
use engine::region::Plan;
use engine::region::Regions;
use engine::region::Visit;
use engine::region::VisitOutcome;
use kernel::prelude::*;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Pause after a cycle that found nothing to scan, in milliseconds.
pub(crate) const IDLE_MS: u32 = 20;

/// Pause after a pass that found no memory in scope, in milliseconds: the longest time that newly
/// registered memory waits. ksmd sleeps until a process registers memory; the module gets no
/// notification of that.
const UNREGISTERED_MS: u32 = 200;

/// Pause while merging is held by the floor, in milliseconds. The floor is not asked more often.
pub(crate) const HELD_MS: u32 = 100;

/// Values of the `run` knob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunMode {
    /// Do not scan; merged pages stay merged.
    Stop,
    /// Scan and merge.
    Merge,
    /// Do not scan, and everything has been unmerged.
    Unmerge,
}

/// The part of the settings in force that a step works with, copied when the step begins.
#[derive(Clone, Copy)]
pub(crate) struct StepSettings {
    pub(crate) policy: Policy,
    /// Number of page table entries that merges may map to one shared page.
    pub(crate) max_page_sharing: u32,
    /// Which contents are merged.
    pub(crate) contents: Contents,
    /// Which large pages are split.
    pub(crate) split: SplitRule,
}

/// The settings and the progress of the scanner.
pub(crate) struct ScanState {
    pub(crate) policy: Policy,
    pub(crate) pacer: Pacer,
    /// The floor under what merging has promised.
    pub(crate) promise: KBox<Promise>,
    /// When the floor was asked last, in nanoseconds since `start`.
    promise_asked: Option<u64>,
    pub(crate) profiles: Profiles,
    pub(super) run: RunMode,
    /// Number of changes of the knobs, which end the pause of a thread.
    pub(super) changes: u32,
    /// Pass counts as mainline defines them.
    pub(crate) passes: Passes,
    /// Whether this pass has met a process with registered memory.
    is_any_registered: bool,
    /// Which contents are merged.
    pub(super) contents: Contents,
    /// Which large pages are split.
    pub(super) split: SplitRule,
    /// CPU time of all threads, as of the ends of their last steps, in nanoseconds.
    ran_ns: u64,
    pass_began: Option<Instant<Monotonic>>,
    /// When the scanner was made.
    start: Instant<Monotonic>,
    drains: Drains,
    /// Number of completed passes; the number of the current pass.
    pub(super) pass: u64,
    pub(super) regions: Regions<KernelStorage>,
    /// Visits that were not remembered because an allocation failed.
    forgotten_visits: u64,
    /// Pages merged since the module was loaded.
    pages_merged: u64,
    pub(crate) places: Places,
    /// Number of steps in progress.
    pub(super) steps: u32,
    /// Whether the state is closed: no step may begin.
    pub(super) is_closed: bool,
}

/// Not inlined, to keep it off the stack on which the state is made.
///
/// # Errors
///
/// `ENOMEM`.
#[inline(never)]
fn new_promise() -> Result<KBox<Promise>> {
    Ok(KBox::new(Promise::new(), GFP_KERNEL)?)
}

impl ScanState {
    /// Makes a scanner that is stopped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(seed: u64) -> Result<Self> {
        let profiles = Profiles::default();
        let settings = profiles.in_force();
        Ok(ScanState {
            policy: Policy {
                scope: settings.scope,
                division: Division::default(),
                undumpable: Undumpable::default(),
                merge_across_nodes: settings.merge_across_nodes,
            },
            pacer: Pacer::new(),
            promise: new_promise()?,
            promise_asked: None,
            profiles,
            run: RunMode::Stop,
            changes: 0,
            passes: Passes::default(),
            is_any_registered: false,
            contents: settings.contents,
            split: settings.split,
            ran_ns: 0,
            pass_began: None,
            start: Instant::now(),
            drains: Drains::default(),
            pass: 0,
            regions: Regions::new(mix(seed ^ 3)),
            forgotten_visits: 0,
            pages_merged: 0,
            places: Places::new()?,
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
        let is_spaced_anew = settings.engine.max_interval() != sets.engine.max_interval();
        let has_other_contents = settings.contents != self.contents;
        if is_spaced_anew || has_other_contents || settings.split != self.split {
            self.regions.clear();
        }
        sets.engine.configure(settings.engine);
        self.pacer.set_governor(settings.governor);
        self.policy.scope = settings.scope;
        self.contents = settings.contents;
        self.split = settings.split;
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
    pub(crate) fn end_visit(&mut self, visit: Visit, outcome: VisitOutcome) {
        let plan = self.plan();
        let remembered = self
            .regions
            .end_visit(&KernelStorage, visit, &plan, outcome);
        let failed = u64::from(remembered.is_err());
        self.forgotten_visits = self.forgotten_visits.wrapping_add(failed);
    }

    pub(super) fn plan(&self) -> Plan {
        let settings = self.profiles.in_force();
        Plan {
            pass: self.pass,
            patience: settings.engine.promote_after(),
            longest_interval: settings.engine.max_interval(),
            split: settings.split,
        }
    }

    /// The value of the `run` knob.
    pub(crate) fn run(&self) -> RunMode {
        self.run
    }

    /// Sets `run` with immediate effect.
    pub(crate) fn set_run(&mut self, run: RunMode) {
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

    /// Starts over with the first process.
    pub(crate) fn rewind(&mut self) {
        self.places.rewind();
        self.pass_began = None;
        self.is_any_registered = false;
    }

    /// Begins a pass; returns whether to drain the LRU batches first.
    pub(super) fn begin_pass(&mut self, sets: &Sets) -> bool {
        self.pass_began = Some(Instant::now());
        let refused = sets.refusals.for_references();
        self.drains.begin_pass(ns_since(self.start), refused)
    }

    /// Ends a pass; returns the shortest pause after it, in milliseconds.
    pub(super) fn end_pass(&mut self, sets: &mut Sets) -> u32 {
        sets.engine.end_pass(shared::count);
        self.regions.end_pass(&KernelStorage, self.pass);
        self.pass = sets.engine.full_scans();
        let stats = sets.engine.get_stats();
        let totals = Totals {
            scanned: stats.pages_scanned,
            merged: self.pages_merged,
        };
        let is_any_in_scope =
            take(&mut self.is_any_registered) || self.policy.scope != Scope::Registered;
        self.passes.end_pass(sets.pages_met(), is_any_in_scope);
        let previous = self.pacer.share();
        let review = self.pacer.end_pass(totals, is_memory_short());
        trace::stop_scan(self.pass, review.pass, &stats);
        if self.pacer.governor() == Governor::Auto {
            trace::pace(self.pass, self.pacer.share(), previous, review.cause);
        }
        self.advise(sets);
        self.places.end_pass();
        if !is_any_in_scope {
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

    /// Sets how much memory must be available so that merging goes on.
    pub(crate) fn set_promise_floor(&mut self, floor: Floor) {
        self.promise.set_floor(floor);
        self.promise_asked = None;
        self.note_change();
    }

    /// Sets whether free swap space counts as available.
    pub(crate) fn set_promise_swap(&mut self, is_counted: bool) {
        self.promise.set_swap_counted(is_counted);
        self.promise_asked = None;
        self.note_change();
    }

    /// Whether no page may be merged now, because too little memory is available for copies.
    pub(crate) fn holds_merging(&mut self) -> bool {
        const NS_PER_S: u64 = 1_000_000_000;
        const MAX_AGE_NS: u64 = HELD_MS as u64 * 1_000_000;
        if self.promise.floor().is_off() {
            return false;
        }
        let now = ns_since(self.start);
        let is_recent = |asked: u64| now.saturating_sub(asked) < MAX_AGE_NS;
        if !self.promise_asked.is_some_and(is_recent) {
            self.promise_asked = Some(now);
            let balance = self.promise.review(now / NS_PER_S, copies(), memory());
            balance.into_iter().for_each(trace::promise);
        }
        self.promise.is_held()
    }

    /// Whether a thread would scan, but merging is held, as of its last look.
    pub(crate) fn is_held(&self) -> bool {
        self.run == RunMode::Merge && self.promise.is_held()
    }

    /// Whether passes begin and end. If not, counts are as old as the last pass.
    pub(crate) fn is_scanning(&self) -> bool {
        self.run == RunMode::Merge && !self.promise.is_held()
    }

    /// Pages per cycle, and the pause between two cycles in milliseconds.
    pub(super) fn speed(&self) -> (u32, u32) {
        let settings = self.profiles.in_force().engine;
        match self.pacer.governor() {
            Governor::Manual if settings.scan_rate() == 0 => (0, settings.sleep_ms().max(IDLE_MS)),
            Governor::Manual => (settings.scan_rate(), settings.sleep_ms()),
            // No fixed rate: the thread uses up its CPU share.
            Governor::Auto => (u32::MAX, 0),
        }
    }
}
