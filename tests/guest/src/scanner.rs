// SPDX-License-Identifier: GPL-2.0

//! Making the module scan, and waiting for what it did.

use std::fmt::Display;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::census;
use crate::census::Census;
use crate::debugfs;
use crate::events::Recorder;
use crate::expect;
use crate::knob;
use crate::peer::Peer;
use crate::task;
use crate::task::PATIENCE;
use crate::Result;
use crate::Span;

/// Passes that find every pair of equal pages if one sighting is enough: the rest of the pass
/// that is under way, and two whole ones.
pub const ENOUGH_PASSES: u64 = 3;

/// How often so many passes are made, where something is locked or held all the time.
const MOST_ROUNDS: u32 = 5;

/// A `sleep_ms` that no test waits for: a scanner that pauses goes on only as a knob changes.
pub const UNTIL_TOLD_MS: u64 = 3_600_000;

/// How long counts may take to become exact once nothing happens any more: a tenth of what a test that
/// hangs is given, since tests go on to fail otherwise.
const SETTLED_WITHIN: Duration = Duration::from_secs(PATIENCE.as_secs() / 10);

/// What stands before the number of ticks in the events of [`record_pauses`].
pub const TICKS: &str = "[timeout=";

/// Records for how long the module's thread asks to sleep, each time that it does.
pub fn record_pauses() -> Result<Recorder> {
    let pid = task::scanner()?;
    let filter = format!("common_pid == {pid} && function.function == process_timeout");
    Recorder::of_kernel("timer/timer_start", &filter)
}

/// Waits until all threads of the module sleep. One that has been told to may be on its way.
pub fn wait_asleep() -> Result {
    let asleep = || task::scanners().into_iter().all(task::sleeps);
    expect::that(task::wait_until(PATIENCE, asleep), || {
        "threads of the scanner: expected all to sleep"
    })
}

/// Lets the module scan.
pub fn start() -> Result {
    knob::set("run", 1)
}

/// Stops it.
pub fn stop() -> Result {
    knob::set("run", 0)
}

/// Stops it and takes all merged pages apart.
pub fn unmerge() -> Result {
    knob::set("run", 2)
}

/// Merges what one process has, at once, whether it scans or not.
pub fn merge_now(peer: &Peer) -> Result {
    merge_at_once(peer.pid())
}

/// What is written to that knob to merge the pages of a span of a process.
pub fn part(peer: &Peer, span: Span) -> String {
    let end = span.addr + span.bytes();
    format!("{} {:#x} {end:#x}", peer.pid(), span.addr)
}

/// Merges what is written to the knob. Where pages were refused, once more: the kernel may have held
/// one for a moment, as compaction does, and who asks again gets that, too.
pub fn merge_at_once(what: impl Display) -> Result {
    let before = debugfs::refusals().ok();
    knob::set(knob::WRITE_ONLY, &what)?;
    if debugfs::refusals().ok() == before {
        return Ok(());
    }
    knob::set(knob::WRITE_ONLY, &what)
}

/// Waits for `count` more passes to end.
pub fn wait_passes(count: u64) -> Result {
    wait_until_pass(knob::number("full_scans")? + count)
}

/// Waits until so many passes have ended in all.
pub fn wait_until_pass(target: u64) -> Result {
    let start = Instant::now();
    loop {
        let found = knob::number("full_scans")?;
        if found >= target {
            return Ok(());
        }
        expect::that(start.elapsed() < PATIENCE, || {
            format!("full_scans: expected {target} within {PATIENCE:?}, found {found}")
        })?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Scans for `count` passes, and stops.
pub fn scan(count: u64) -> Result {
    start()?;
    wait_passes(count)?;
    stop()
}

/// Scans for `count` passes and not one more, however late the guest wakes us. Wants a `sleep_ms` of
/// [`UNTIL_TOLD_MS`], and no more pages in scope than a cycle has.
pub fn passes(count: u64) -> Result {
    for _ in 0..count {
        let target = knob::number("full_scans")? + 1;
        start()?;
        wait_until_pass(target)?;
        stop()?;
    }
    Ok(())
}

/// Scans until everything is merged that can be, and stops. Scans again where something was refused that may
/// be granted the next time: in a guest that is not served for a while, an area may be locked whenever a pass
/// comes to it, and a page held by compaction.
pub fn merge() -> Result {
    for _ in 0..MOST_ROUNDS {
        let before = refused_for_now();
        scan(ENOUGH_PASSES)?;
        if refused_for_now() == before {
            break;
        }
    }
    Ok(())
}

/// How often something was refused so far that may be granted later; `None` where nobody is told.
fn refused_for_now() -> Option<u64> {
    // A twin that is pinned counts as gone.
    const FOR_NOW: [&str; 4] = ["locked", "busy", "pinned", "target_gone"];
    let refusals = debugfs::refusals().ok()?;
    Some(
        FOR_NOW
            .iter()
            .filter_map(|&reason| refusals.get(reason))
            .sum(),
    )
}

/// The settings most tests want: as fast as it can, all pages in each pass, merging at the second
/// sighting.
pub fn settle_knobs() -> Result {
    unmerge()?;
    stop()?;
    knob::set("scope", "all")?;
    knob::set("domain", "user")?;
    knob::set("promote_after", 1)?;
    knob::set("scan_rate", 10_000)?;
    knob::set("sleep_ms", 0)?;
    knob::set("max_interval", 1)?;
    knob::set("max_page_sharing", 1024)?;
    // Refused where merged pages can't be moved, as it says already.
    let _ = knob::try_write("movable", b"1");
    knob::set("max_cpu", 100)?;
    knob::set("governor", "manual")?;
    knob::set("threads", 1)?;
    DRIFT.store(
        zero_pages()? - census::zero_pages() as i64,
        Ordering::Relaxed,
    );
    Ok(())
}

/// What `zero_pages` says while there is none, where an earlier test made it wrong: one test is
/// to fail for that, not all that follow.
static DRIFT: AtomicI64 = AtomicI64::new(0);

/// The count of zero pages; the kernel's own may be negative.
fn zero_pages() -> Result<i64> {
    let text = knob::read("zero_pages")?;
    text.trim()
        .parse()
        .map_err(|_| format!("zero_pages: expected a number, found {text:?}").into())
}

/// The counts of merged pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Merged frames.
    pub shared: u64,
    /// Mappings beyond the first of each.
    pub sharing: u64,
    /// Pages of zeros merged into the kernel's own.
    pub zero: i64,
}

impl Counts {
    /// What the module says.
    pub fn read() -> Result<Self> {
        Ok(Counts {
            shared: knob::number("pages_shared")?,
            sharing: knob::number("pages_sharing")?,
            zero: zero_pages()? - DRIFT.load(Ordering::Relaxed),
        })
    }

    /// What the page tables say.
    pub fn truth() -> Result<Self> {
        Census::take().map(|census| Self::of(&census))
    }

    fn of(census: &Census) -> Self {
        Counts {
            shared: census.shared(),
            sharing: census.sharing(),
            zero: census::zero_pages() as i64,
        }
    }
}

/// Expects the module's counts to be exact: call it while the module is stopped, and while no
/// process does anything.
///
/// A process that has just answered may still write to a merged page of its stack: what does not
/// settle is a failure.
pub fn expect_exact_counts(when: &str) -> Result<Counts> {
    let start = Instant::now();
    loop {
        let exact = compare_counts(when);
        if exact.is_ok() || start.elapsed() > SETTLED_WITHIN {
            return exact;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn compare_counts(when: &str) -> Result<Counts> {
    let found = Counts::read()?;
    let census = Census::take()?;
    let truth = Counts::of(&census);
    expect::that(truth == found, || {
        format!(
            "counts {when}: the page tables say {truth:?}, found {found:?}; merged are\n{}",
            census.sample()
        )
    })?;
    expect::eq(
        format!("merge_ratio_x100 {when}, from {found:?}"),
        (found.sharing * 100).checked_div(found.shared).unwrap_or(0),
        knob::number("merge_ratio_x100")?,
    )?;
    Ok(found)
}
