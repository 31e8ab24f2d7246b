// SPDX-License-Identifier: GPL-2.0

//! Unmerges pages in all processes: every merged page, or those on some frames.
//!
//! No step is in progress meanwhile: the state is closed.

use crate::mm::drain_lru;
use crate::mm::movable;
use crate::mm::process::Cursor;
use crate::mm::process::Owner;
use crate::mm::process::COMM_LEN;
use crate::mm::shared::SharedPage;
use crate::mm::sharers;
use crate::mm::unmerge::UnmergeOutcome;
use crate::mm::unmerge::Unmerger;
use crate::mm::unmerge::Which;
use crate::mm::zero;
use crate::scan::turns::Closed;
use crate::trace;
use crate::trace::UnmergeCause;
use core::ops::Range;
use engine::KsmStats;
use kernel::fmt;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::rcu;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// How long to go on while the number of merged pages does not fall, in seconds. VMAs may stay locked
/// for a while, and exiting processes take some time to free their memory.
const PATIENCE_S: i64 = 10;
/// Largest number of rounds over all processes to vacate some frames: a fork may hide pages from one
/// round.
const EVACUATION_ROUNDS: u32 = 3;
/// Pause after a round that unmerged nothing.
const IDLE_PAUSE: Delta = Delta::from_millis(10);

/// Unmerges every merged page in every process, then forgets all contents and frees spare frames.
///
/// # Errors
///
/// `ENOMEM`: no memory for the copies. `EIO`: pages can't be copied because their memory has failed.
/// `EBUSY`: some VMAs stayed locked, or a device could not give up pages at once, or pages are left in
/// address spaces that belong to no process. These three are also explained in the log. `ERESTARTSYS`:
/// the caller has a signal pending. After an error, unmerged pages stay unmerged, and the remaining
/// merged pages are still counted.
pub(crate) fn everything(closed: &Closed<'_>) -> Result {
    let commons = closed.commons();
    commons.lock().rewind();
    let mut rest = Rest::default();
    let result = rounds(closed, &mut rest);
    trace::unmerge_end(UnmergeCause::Run, result);
    let mut state = commons.lock();
    let mut sets = commons.sets().lock();
    sets.recount();
    match result {
        Ok(()) => state.unmerged(&mut sets),
        Err(_) => state.forget_visits(),
    }
    let stats = sets.engine.get_stats();
    drop((sets, state));
    commons.pool().lock().clear();
    zero::correct_sum();
    // After a signal nothing is logged: the caller restarts the write, or has been killed.
    result.inspect_err(|&error| {
        if error != ERESTARTSYS {
            rest.report(&stats, error);
        }
    })
}

/// Vacates `frames`: unmerges the pages that are merged there, frees spare frames there, and takes no
/// frame of the range for a while. Returns the number of pages that were unmerged.
///
/// # Errors
///
/// `ENOMEM`: no memory for the copies.
pub(crate) fn on_frames(closed: &Closed<'_>, frames: Range<u64>) -> Result<u64> {
    let commons = closed.commons();
    commons.pool().lock().bar(frames.clone());
    // The kernel can migrate all other shared pages.
    if !movable::is_any_fixed() {
        return Ok(0);
    }
    let result = few_rounds(Which::On(frames));
    // A shared page that has lost its last mapping may still be in an LRU batch.
    drain_lru();
    trace::unmerge_end(UnmergeCause::Offline, result.map(drop));
    commons.sets().lock().recount();
    result
}

/// Walks all processes until a round unmerges nothing, at most [`EVACUATION_ROUNDS`] times. Returns the
/// number of pages that were unmerged.
fn few_rounds(which: Which) -> Result<u64> {
    let mut unmerger = Unmerger::new(which)?;
    let mut total = 0u64;
    for _ in 0..EVACUATION_ROUNDS {
        let mut rest = Rest::default();
        round(&mut unmerger, &mut rest)?;
        total = total.saturating_add(rest.outcome.broken);
        if rest.outcome.broken == 0 {
            return if rest.outcome.crowded > 0 {
                Err(ENOMEM)
            } else {
                Ok(total)
            };
        }
    }
    Ok(total)
}

/// Walks all processes until nothing is merged: forks and exits may hide pages from one round. `rest`
/// receives what the last round left.
fn rounds(closed: &Closed<'_>, rest: &mut Rest) -> Result {
    let mut unmerger = Unmerger::new(Which::All)?;
    let mut patience = Patience::new();
    loop {
        *rest = Rest::default();
        round(&mut unmerger, rest)?;
        let stats = recount(closed);
        let outcome = &rest.outcome;
        let is_idle = outcome.broken == 0;
        if is_idle && stats.pages_shared == 0 && !outcome.is_partial() && is_nothing_left() {
            return Ok(());
        }
        let left = stats.pages_shared.saturating_add(stats.pages_sharing);
        let left = left.saturating_add(zero::count());
        if !patience.goes_on(left) || is_idle && is_final(outcome, &unmerger, stats.pages_shared) {
            // If no merged page is left, the locked VMAs hold none either.
            return if left == 0 { Ok(()) } else { Err(rest.error()) };
        }
        if is_idle {
            fsleep(IDLE_PAUSE);
        }
        if current!().signal_pending() {
            return Err(ERESTARTSYS);
        }
    }
}

/// Whether no shared page is left, including any that the walks missed because it was being migrated.
fn is_nothing_left() -> bool {
    sharers::sweep();
    sharers::sets() == 0
}

/// Whether another round would be vain after one that unmerged nothing: memory is short, or the
/// remaining pages can't be copied.
fn is_final(outcome: &UnmergeOutcome, unmerger: &Unmerger, pages_shared: u64) -> bool {
    if outcome.busy > 0 {
        return false;
    }
    let is_left =
        |&&frame: &&engine::Frame| SharedPage::on(frame).is_some_and(|page| page.mappings() > 0);
    let failed = unmerger.failed().iter().filter(is_left).count() as u64;
    outcome.crowded > 0 || failed > 0 && failed >= pages_shared
}

/// Recounts the pages that are still merged.
fn recount(closed: &Closed<'_>) -> KsmStats {
    let mut sets = closed.commons().sets().lock();
    sets.recount();
    sets.engine.get_stats()
}

/// Unmerges pages in all processes, once. `rest` receives what is left.
fn round(unmerger: &mut Unmerger, rest: &mut Rest) -> Result {
    let mut cursor = Cursor::default();
    while let Some(mm) = cursor.next() {
        if let Some(mm) = mm.mmget_not_zero() {
            let mm = MmWithUser::into_mmput_async(mm);
            let outcome = unmerger.unmerge(&mm).inspect_err(|_| rest.note(&mm))?;
            rest.outcome.add(&outcome);
            if outcome.is_partial() {
                rest.note(&mm);
            }
        }
    }
    Ok(())
}

/// Decides when to give up: when the number of merged pages has not fallen for [`PATIENCE_S`].
struct Patience {
    least: u64,
    since: Instant<Monotonic>,
}

impl Patience {
    fn new() -> Self {
        Patience {
            least: u64::MAX,
            since: Instant::now(),
        }
    }

    /// Whether to go on while `left` pages are merged.
    fn goes_on(&mut self, left: u64) -> bool {
        if left < self.least {
            self.least = left;
            self.since = Instant::now();
        }
        self.since.elapsed() < Delta::from_secs(PATIENCE_S)
    }
}

/// The pages that a round left, and some of their processes.
#[derive(Default)]
struct Rest {
    outcome: UnmergeOutcome,
    names: [Option<Name>; Self::NAMES],
}

/// The name of a process.
struct Name {
    tgid: i32,
    comm: [u8; COMM_LEN],
}

impl Rest {
    /// Largest number of processes named in the log.
    const NAMES: usize = 4;

    /// Remembers a process that still has merged pages, if there is room.
    fn note(&mut self, mm: &Mm) {
        let rcu = rcu::read_lock();
        let Some(owner) = Owner::of(mm, &rcu) else {
            return;
        };
        if let Some(vacant) = self.names.iter_mut().find(|name| name.is_none()) {
            *vacant = Some(Name {
                tgid: owner.tgid(),
                comm: owner.comm(),
            });
        }
    }

    /// The error that says why pages are left.
    fn error(&self) -> Error {
        if self.outcome.crowded > 0 {
            ENOMEM
        } else if self.outcome.uncopied > 0 {
            EIO
        } else {
            EBUSY
        }
    }

    /// Logs how many pages stay merged, why, and in which processes.
    fn report(&self, stats: &KsmStats, error: Error) {
        let pages = stats.pages_shared.saturating_add(stats.pages_sharing);
        let zeros = zero::count();
        let why = if error == ENOMEM {
            "no memory for copies"
        } else if error == EIO {
            "they can't be copied"
        } else if self.outcome.busy > 0 {
            "their VMAs are locked, or a device maps them"
        } else {
            "they belong to no process"
        };
        pr_warn!("{pages} pages and {zeros} zero pages stay merged: {why}{self}\n");
    }
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "; in ";
        for Name { tgid, comm } in self.names.iter().flatten() {
            let comm = comm.split(|&byte| byte == 0).next().unwrap_or(&[]);
            let comm = core::str::from_utf8(comm).unwrap_or("?");
            write!(f, "{separator}{tgid} ({comm})")?;
            separator = ", ";
        }
        Ok(())
    }
}
