// SPDX-License-Identifier: GPL-2.0

//! Breaks merged pages apart, in all processes: all of them, or those on some frames.
//!
//! No step is under way meanwhile.

use crate::commons::Closed;
use crate::mm::drain_lru;
use crate::mm::process::Cursor;
use crate::mm::process::Owner;
use crate::mm::process::COMM_LEN;
use crate::mm::shared;
use crate::mm::shared::SharedPage;
use crate::mm::sharers;
use crate::mm::unmerge::Outcome;
use crate::mm::unmerge::Unmerger;
use crate::mm::unmerge::Which;
use crate::mm::zero;
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

/// How long to go on while no fewer pages are left than before, in seconds: areas may be locked for a
/// while, and exiting processes take some time to give up their memory.
const PATIENCE_S: i64 = 10;
/// Rounds over all processes, for what forks hid from the one before, until some frames are left.
const EVACUATION_ROUNDS: u32 = 3;
/// Pause after a round that broke nothing.
const IDLE_PAUSE: Delta = Delta::from_millis(10);

/// Breaks every merged page in every process, then forgets all contents and gives spare memory back.
///
/// # Errors
///
/// `ENOMEM`: no memory for the copies. `EIO`: pages can't be copied since their memory has failed.
/// `EBUSY`: some processes were changing their areas all the time, or a device could not forget pages at
/// once, or pages are left in address spaces that belong to no process. These three are explained in the
/// log, too. `ERESTARTSYS`: the caller has a signal pending. What was broken stays so, and what is left is
/// still counted.
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
    // Whoever has a signal starts again, or is gone.
    result.inspect_err(|&error| {
        if error != ERESTARTSYS {
            rest.report(&stats, error);
        }
    })
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
    // Others are moved by the kernel.
    if !shared::is_any_fixed() {
        return Ok(0);
    }
    let result = few_rounds(Which::On(frames));
    // What is left may have no mapping any more, and wait in a batch of the LRU lists.
    drain_lru();
    trace::unmerge_end(UnmergeCause::Offline, result.map(drop));
    commons.sets().lock().recount();
    result
}

/// Goes over all processes until a round finds nothing, or for the most some times. Returns how many
/// pages were broken apart.
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

/// Goes over all processes until nothing is merged: a round may miss what forks and exits hid from
/// it. `rest` says what the last round left.
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
            // Areas that could not be looked into hold nothing if nothing is left.
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

/// Whether there is no shared page any more: also none that a walk over page tables has missed as it was
/// being moved.
fn is_nothing_left() -> bool {
    sharers::sweep();
    sharers::sets() == 0
}

/// Whether another round would find what one found that broke nothing: there is no memory, or what is
/// left is on frames that can't be copied.
fn is_final(outcome: &Outcome, unmerger: &Unmerger, pages_shared: u64) -> bool {
    if outcome.busy > 0 {
        return false;
    }
    let is_left =
        |&&frame: &&engine::Frame| SharedPage::on(frame).is_some_and(|page| page.mappings() > 0);
    let failed = unmerger.failed().iter().filter(is_left).count() as u64;
    outcome.crowded > 0 || failed > 0 && failed >= pages_shared
}

/// Counts what is still merged.
fn recount(closed: &Closed<'_>) -> KsmStats {
    let mut sets = closed.commons().sets().lock();
    sets.recount();
    sets.engine.get_stats()
}

/// Breaks what is merged in all processes. `rest` says what came of it.
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

/// Goes on as long as less and less is left.
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

    /// Whether to go on with so many pages left.
    fn goes_on(&mut self, left: u64) -> bool {
        if left < self.least {
            self.least = left;
            self.since = Instant::now();
        }
        self.since.elapsed() < Delta::from_secs(PATIENCE_S)
    }
}

/// What a round left, and with whom.
#[derive(Default)]
struct Rest {
    outcome: Outcome,
    names: [Option<Name>; Self::NAMES],
}

/// A process.
struct Name {
    tgid: i32,
    comm: [u8; COMM_LEN],
}

impl Rest {
    /// Processes that are named.
    const NAMES: usize = 4;

    /// Takes note of a process that has merged pages still, as far as there is room.
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

    /// Why something is left.
    fn error(&self) -> Error {
        if self.outcome.crowded > 0 {
            ENOMEM
        } else if self.outcome.uncopied > 0 {
            EIO
        } else {
            EBUSY
        }
    }

    /// Tells the log.
    fn report(&self, stats: &KsmStats, error: Error) {
        let pages = stats.pages_shared.saturating_add(stats.pages_sharing);
        let zeros = zero::count();
        let why = if error == ENOMEM {
            "no memory for copies"
        } else if error == EIO {
            "they can't be copied"
        } else if self.outcome.busy > 0 {
            "their processes are changing their areas, or a device has them mapped"
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
