// SPDX-License-Identifier: GPL-2.0

//! Sweeps through all sets, to drop what is no longer needed: stale records, sets of pages that are gone, and
//! anon_vmas without records. Passes do that at their end; while nothing is scanned, a work item does.

use crate::mm::anon_vmas;
use crate::mm::set_table;
use crate::mm::sharers::lifetime::clear_if_unused;
use crate::mm::sharers::lifetime::count;
use crate::mm::sharers::lifetime::sets;
use crate::mm::sharers::lifetime::TIDY_MS;
use crate::mm::sharers::lookup::page;
use crate::mm::sharers::stale::drop_unused;
use crate::mm::sharers::token::SetId;
use crate::sys::kthread::cond_resched;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::time::Instant;
use kernel::time::Monotonic;

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
                drop_unused(&page);
            }
        }
        cond_resched();
    }
    anon_vmas::sweep();
    clear_if_unused();
}

/// Frees all memory when the module is unloaded. No merged page may be left.
pub(super) fn end() {
    sweep();
    anon_vmas::end();
}
