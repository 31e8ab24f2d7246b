// SPDX-License-Identifier: GPL-2.0

//! Drops what is no longer needed: stale records, sets of pages that are gone, and anon_vmas without records.

use crate::mm::anon_vmas;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::rmap::Mapping;
use crate::mm::rmap_ksm;
use crate::mm::set_table;
use crate::mm::sharers::lifetime::clear_if_unused;
use crate::mm::sharers::lifetime::count;
use crate::mm::sharers::lifetime::sets;
use crate::mm::sharers::lookup::load;
use crate::mm::sharers::lookup::of;
use crate::mm::sharers::lookup::page;
use crate::mm::sharers::set::forget;
use crate::mm::sharers::set::Record;
use crate::mm::sharers::set::Set;
use crate::mm::sharers::token::SetId;
use crate::sys::kthread::cond_resched;
use core::ops::ControlFlow;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::rcu;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Drops records of a page that has more records than mappings.
pub(super) fn drop_stale(page: &PageRef, mappings: usize) {
    let is_too_many = |set: &Set| set.len() > mappings;
    drop_records(page, is_too_many, |page, record| {
        !is_mapped_by(page, record)
    });
}

/// Drops the records of a page that `is_stale` accepts, except for the last one. Does so only if
/// `is_to_look` accepts the set.
fn drop_records(
    page: &PageRef,
    is_to_look: impl Fn(&Set) -> bool,
    is_stale: impl Fn(&LockedPage<'_>, Record) -> bool,
) {
    // Most pages have nothing to drop, so check that before locking the folio.
    let Some(token) = page.token() else {
        return;
    };
    let is_due = {
        let _rcu = rcu::read_lock();
        // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is
        // held.
        load(token.id()).is_some_and(|set| is_to_look(unsafe { set.as_ref() }))
    };
    if !is_due || !rmap_ksm::is_redirected() {
        return;
    }
    let Some(locked) = page.try_lock() else {
        return;
    };
    let Some(set) = of(&locked) else {
        return;
    };
    for index in (0..set.len()).rev() {
        // SAFETY: The folio is locked, and the record is copied, so that the borrow ends with this line.
        let record = unsafe { set.records() }.get(index).copied();
        if set.len() > 1 && record.is_some_and(|record| is_stale(&locked, record)) {
            // SAFETY: The folio is locked, and no record is borrowed.
            unsafe { set.remove(index) }.into_iter().for_each(forget);
        }
    }
}

/// Whether an entry maps the page where `record` says; true if that can't be told.
fn is_mapped_by(page: &LockedPage<'_>, record: Record) -> bool {
    let mut is_mapped = false;
    let looked = rmap_ksm::each_area(record, true, &mut |vma, addr| {
        is_mapped = Mapping::find_surely(page, vma, addr).is_some();
        if is_mapped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    is_mapped || !looked
}

/// Number of passes between two sweeps.
const SWEEP_EVERY: u32 = 16;

/// Number of passes that have ended.
static PASSES: Atomic<u32> = Atomic::new(0);

/// Ends a pass, and [sweeps](sweep) after every [`SWEEP_EVERY`] passes.
pub(crate) fn end_pass() {
    let passes = PASSES.fetch_add(1, Relaxed);
    if passes % SWEEP_EVERY == SWEEP_EVERY - 1 {
        sweep();
    }
}

/// Shortest time, in milliseconds, between the last pass or sweep and the next sweep from the work item. If
/// nothing is scanned, only the work item notices that shared pages are gone; without it the module would
/// stay in use.
pub(super) const TIDY_MS: u32 = 10_000;
/// The work item spends at most one part in `TIDY_SHARE` of the time sweeping.
const TIDY_SHARE: u32 = 100;

/// Sweeps, unless a pass has ended since the last call. Returns the number of milliseconds after which to
/// call it again; 0 if no set is left.
#[no_mangle]
extern "C" fn ksm_v_tidy() -> u32 {
    static SEEN: Atomic<u32> = Atomic::new(0);
    let passes = PASSES.load(Relaxed);
    if SEEN.xchg(passes, Relaxed) != passes {
        return TIDY_MS;
    }
    let start = Instant::<Monotonic>::now();
    sweep();
    if sets() == 0 {
        return 0;
    }
    let took_ms = u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX);
    took_ms
        .saturating_mul(TIDY_SHARE)
        .clamp(TIDY_MS, 10 * 60 * 1000)
}

/// Counts all sets and gives up those whose pages are gone. Drops records of exited processes, and
/// anon_vmas without records. May sleep.
pub(crate) fn sweep() {
    for number in 1..=set_table::last() {
        let set = SetId(number);
        if count(set).is_some() {
            if let Some(page) = page(set) {
                drop_records(&page, |set| set.len() > 1, |_, record| record.is_unused());
            }
        }
        cond_resched();
    }
    anon_vmas::sweep();
    clear_if_unused();
}

/// Frees all memory when the module is unloaded. No merged page may be left.
pub(in crate::mm) fn end() {
    sweep();
    anon_vmas::end();
}
