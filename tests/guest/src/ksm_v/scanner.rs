// SPDX-License-Identifier: GPL-2.0

//! Controls the module's scanner and waits for its results.

use std::fmt::Display;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::debugfs;
use crate::ksm_v::events::Recorder;
use crate::ksm_v::knob;
use crate::memory::census;
use crate::memory::census::Census;
use crate::process::peer::Peer;
use crate::process::task;
use crate::process::task::PATIENCE;
use crate::Result;
use crate::Span;

/// The number of passes that find every pair of equal pages if one sighting is enough: the rest of
/// the current pass and two whole passes.
pub const ENOUGH_PASSES: u64 = 3;

/// How many times to try what a page that is locked or held for a moment prevents: see [`in_rounds`].
const MOST_ROUNDS: u32 = 5;

/// A `sleep_ms` longer than any test: a pausing scanner resumes only when a knob changes.
pub const UNTIL_TOLD_MS: u64 = 3_600_000;

/// How long counts may take to become exact once all processes are idle. It is a tenth of
/// [`PATIENCE`], so that a test fails before it counts as hung.
const SETTLED_WITHIN: Duration = Duration::from_secs(PATIENCE.as_secs() / 10);

/// Records every sleep of the module's thread with its timeout.
pub fn record_pauses() -> Result<Recorder> {
    let pid = task::scanner()?;
    let filter = format!("common_pid == {pid} && function.function == process_timeout");
    Recorder::of_kernel("timer/timer_start", &filter)
}

/// The pauses that [`record_pauses`] has recorded, in ticks. The kernel counts the ticks that are left when it starts
/// the timer: there are fewer than asked for, and fewer than none, if the CPU was taken away before that.
pub fn ticks(pauses: &Recorder) -> Result<Vec<u64>> {
    let ticks = pauses.numbers("[timeout=")?;
    let not_negative = |ticks: i64| u64::try_from(ticks).unwrap_or(0);
    Ok(ticks.into_iter().map(not_negative).collect())
}

/// Waits until all threads of the module sleep. A thread that was told to sleep may not sleep yet.
pub fn wait_asleep() -> Result {
    let asleep = || task::scanners().into_iter().all(task::sleeps);
    expect::that(task::wait_until(PATIENCE, asleep), || {
        "threads of the scanner: expected all to sleep"
    })
}

/// Starts the scanner.
pub fn start() -> Result {
    knob::set("run", 1)
}

/// Stops the scanner.
pub fn stop() -> Result {
    knob::set("run", 0)
}

/// Stops the scanner and unmerges all pages.
pub fn unmerge() -> Result {
    knob::set("run", 2)
}

/// Merges the pages of one process immediately, whether the scanner runs or not.
pub fn merge_now(peer: &Peer) -> Result {
    merge_at_once(peer.pid())
}

/// The text for `merge_now` that merges a span of a process.
pub fn part(peer: &Peer, span: Span) -> String {
    let end = span.addr + span.bytes();
    format!("{} {:#x} {end:#x}", peer.pid(), span.addr)
}

/// Writes `what` to `merge_now`. Writes it again if pages were refused: the kernel, for example
/// compaction, may have held a page for a moment.
pub fn merge_at_once(what: impl Display) -> Result {
    in_rounds(|| {
        let before = debugfs::refusals().ok();
        knob::set(knob::WRITE_ONLY, &what)?;
        Ok(debugfs::refusals().ok() == before)
    })
}

/// Tries until an attempt returns that it was complete, a few times at most: the kernel may hold a page for a
/// moment. The caller checks what was reached.
pub fn in_rounds(mut attempt: impl FnMut() -> Result<bool>) -> Result {
    for _ in 0..MOST_ROUNDS {
        if attempt()? {
            break;
        }
        drain_lru()?;
    }
    Ok(())
}

/// Drains the batches of the LRU lists on all CPUs, which hold references to pages.
pub fn drain_lru() -> Result {
    procfs::write("/proc/sys/vm/drop_caches", "1")
}

/// Waits until `count` more passes have ended.
pub fn wait_passes(count: u64) -> Result {
    wait_until_pass(knob::number("full_scans")? + count)
}

/// Waits until `target` passes have ended in total.
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

/// Scans for `count` passes, then stops.
pub fn scan(count: u64) -> Result {
    start()?;
    wait_passes(count)?;
    stop()
}

/// Scans for exactly `count` passes, however late the guest wakes the test. Requires a `sleep_ms` of
/// [`UNTIL_TOLD_MS`] and no more pages in scope than one cycle scans.
pub fn passes(count: u64) -> Result {
    for _ in 0..count {
        let target = knob::number("full_scans")? + 1;
        start()?;
        wait_until_pass(target)?;
        stop()?;
    }
    Ok(())
}

/// Scans until everything that can be merged is merged, then stops. Scans again if pages were refused
/// for a temporary reason: in a guest that gets little CPU time, a VMA may be locked, or a page held
/// by compaction, whenever a pass reaches it.
pub fn merge() -> Result {
    in_rounds(|| {
        let before = refused_for_now();
        scan(ENOUGH_PASSES)?;
        Ok(refused_for_now() == before)
    })
}

/// The number of pages refused so far for a temporary reason; `None` if the counts cannot be read.
fn refused_for_now() -> Option<u64> {
    // A pinned twin counts as `target_gone`.
    const FOR_NOW: [&str; 5] = ["locked", "busy", "pinned", "target_gone", "no_memory"];
    let refusals = debugfs::refusals().ok()?;
    Some(
        FOR_NOW
            .iter()
            .filter_map(|&reason| refusals.get(reason))
            .sum(),
    )
}

/// The settings that most tests need: scan at full speed, all pages in each pass, and merge at the
/// second sighting.
pub fn settle_knobs() -> Result {
    unmerge()?;
    stop()?;
    knob::set("scope", "all")?;
    knob::set("domain", "user")?;
    knob::set("undumpable", "siblings")?;
    knob::set("content", "all")?;
    knob::set("promote_after", 1)?;
    knob::set("scan_rate", 10_000)?;
    knob::set("sleep_ms", 0)?;
    knob::set("max_interval", 1)?;
    knob::set("huge_min_parts", 1)?;
    knob::set("max_page_sharing", 1024)?;
    // This is refused if merged pages cannot be moved; the knob reads 0 already then.
    let _ = knob::try_write("movable", b"1");
    knob::set("max_cpu", 100)?;
    knob::set("governor", "manual")?;
    knob::set("threads", 1)?;
    knob::set("promise_floor", 0)?;
    knob::set("promise_swap", 0)?;
    DRIFT.store(
        zero_pages()? - census::zero_pages() as i64,
        Ordering::Relaxed,
    );
    Ok(())
}

/// The value of `zero_pages` without any merged zero page, if an earlier test made it wrong: only
/// that test should fail, not all later ones.
static DRIFT: AtomicI64 = AtomicI64::new(0);

/// The count of zero pages; the kernel's count may be negative.
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
    /// Mappings beyond the first of each merged frame.
    pub sharing: u64,
    /// Pages of zeros merged into the shared zero page.
    pub zero: i64,
}

impl Counts {
    /// The counts that the module reports.
    pub fn read() -> Result<Self> {
        Ok(Counts {
            shared: knob::number("pages_shared")?,
            sharing: knob::number("pages_sharing")?,
            zero: zero_pages()? - DRIFT.load(Ordering::Relaxed),
        })
    }

    /// The counts according to the page tables.
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

/// Expects that the module's counts are exact. Call it while the module is stopped and all processes
/// are idle.
///
/// A process that has just answered may still write to a merged page of its stack, so the counts may
/// take a moment to settle; if they do not settle, this fails.
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
