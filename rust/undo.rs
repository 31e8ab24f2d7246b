// SPDX-License-Identifier: GPL-2.0

//! Breaks merged pages apart, in all processes: all of them, or those on some frames.
//!
//! No step is under way meanwhile.

use crate::commons::Closed;
use crate::mm::process::Cursor;
use crate::mm::unmerge::unmerge;
use crate::mm::unmerge::Which;
use crate::trace;
use crate::trace::UnmergeCause;
use core::ops::Range;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

/// Rounds over all processes in a row that may find nothing to unmerge while pages are shared
/// still: as long as exiting processes take to give up their memory.
const IDLE_ROUNDS: u32 = 500;
/// Rounds over all processes, for what forks hid from the one before, until some frames are left.
const EVACUATION_ROUNDS: u32 = 3;
/// Pause after a round that found nothing.
const IDLE_PAUSE: Delta = Delta::from_millis(10);

/// Breaks every merged page in every process, forgets all contents, gives spare memory back.
///
/// # Errors
///
/// `ENOMEM`: no memory for the copies. `EINTR`: the caller has a signal pending. `EBUSY`: pages are
/// left in address spaces that belong to no process. What was broken stays so.
pub(crate) fn everything(closed: &Closed<'_>) -> Result {
    let commons = closed.commons();
    commons.lock().rewind();
    let result = rounds(closed);
    trace::unmerge_end(UnmergeCause::Run, result);
    commons.lock().unmerged(&mut commons.sets().lock());
    commons.pool().lock().clear();
    result
}

/// Leaves `frames`, as far as shared pages go: breaks those that are merged there, gives spare ones
/// back, and takes none of them for a while. Returns how many pages were broken apart.
///
/// # Errors
///
/// `ENOMEM`: no memory for the copies.
pub(crate) fn on_frames(closed: &Closed<'_>, frames: Range<u64>) -> Result<u64> {
    let commons = closed.commons();
    commons.pool().lock().bar(frames.clone());
    let result = few_rounds(&Which::On(frames));
    trace::unmerge_end(UnmergeCause::Offline, result.map(drop));
    let pages = result?;
    commons.sets().lock().recount();
    Ok(pages)
}

/// Goes over all processes until a round finds nothing, or for the most some times. Returns how many
/// pages were broken apart.
fn few_rounds(which: &Which) -> Result<u64> {
    let mut total = 0u64;
    for _ in 0..EVACUATION_ROUNDS {
        let broken = round(which)?;
        total = total.saturating_add(broken);
        if broken == 0 {
            break;
        }
    }
    Ok(total)
}

/// Goes over all processes until nothing is shared: a round may miss what forks and exits hid from
/// it.
fn rounds(closed: &Closed<'_>) -> Result {
    let mut idle = 0;
    while idle < IDLE_ROUNDS {
        let broken = round(&Which::All)?;
        let mut sets = closed.commons().sets().lock();
        sets.recount();
        let pages_shared = sets.engine.get_stats().pages_shared;
        drop(sets);
        if broken > 0 {
            idle = 0;
            continue;
        }
        if pages_shared == 0 {
            return Ok(());
        }
        idle += 1;
        fsleep(IDLE_PAUSE);
        if current!().signal_pending() {
            return Err(EINTR);
        }
    }
    Err(EBUSY)
}

/// Breaks what is merged in all processes; returns how many pages that were.
fn round(which: &Which) -> Result<u64> {
    let mut cursor = Cursor::default();
    let mut broken = 0u64;
    while let Some(mm) = cursor.next() {
        if let Some(mm) = mm.mmget_not_zero() {
            let mm = MmWithUser::into_mmput_async(mm);
            broken = broken.saturating_add(unmerge(&mm, which)?);
        }
    }
    Ok(broken)
}
