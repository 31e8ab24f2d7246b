// SPDX-License-Identifier: GPL-2.0

//! The scanner's thread: when it runs and when it sleeps.

use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::freezer;
use guest::ksm_v::events::Event;
use guest::ksm_v::events::Recorder;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::SkippableTest;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::process::task::PATIENCE;
use guest::tests;
use guest::Result;
use libtest_mimic::Completion;

pub(super) const TESTS: &[Test] = tests![
    is_one_kernel_thread_of_nice_5,
    does_not_wake_up_while_stopped,
    does_not_wake_up_after_unmerging,
    runs_while_started,
    cpu_ns_is_its_run_time,
    keeps_the_pause,
    keeps_the_scan_rate,
    keeps_to_its_share_of_a_cpu,
    works_by_itself_under_the_governor,
    stops_at_once_in_an_endless_cycle,
    starts_at_once_out_of_a_long_pause,
    a_pause_is_cut_short_whenever_that_is_written,
    unloads_at_once_out_of_a_long_pause,
    unloads_at_once_out_of_an_endless_cycle,
    several_threads_stop_at_once,
];

pub(super) const SKIPPABLE: &[SkippableTest] = tests![
    the_governor_hurries_while_others_wait_for_memory,
    is_frozen_while_it_scans,
    is_frozen_in_a_pause,
    is_frozen_while_stopped,
];

fn number(pid: i32, field: usize) -> Result<i64> {
    let text = task::stat(pid, field)?;
    text.parse()
        .map_err(|_| format!("field {field} of stat: expected a number, found {text:?}").into())
}

fn is_one_kernel_thread_of_nice_5(_: &Lab) -> Result {
    let pid = task::scanner()?;
    expect::eq("nice value", 5, number(pid, 19)?)?;
    let flags = number(pid, 9)? as u64;
    expect::that(flags & task::PF_KTHREAD != 0, || {
        format!("flags: expected a kernel thread, found {flags:#x}")
    })?;
    expect::eq("PF_NOFREEZE", 0, flags & task::PF_NOFREEZE)
}

/// Expects that all threads go to sleep, and that thread `pid` then does nothing for two seconds.
fn expect_asleep(pid: i32) -> Result {
    scanner::wait_asleep()?;
    let look = || -> Result<_> {
        Ok((
            task::switches(pid)?,
            task::run_time_ns(pid)?,
            knob::number("cpu_ns")?,
        ))
    };
    let before = look()?;
    sleep(Duration::from_secs(2));
    expect::eq(
        "switches, run time and cpu_ns after 2 s of sleep",
        before,
        look()?,
    )?;
    expect::that(task::sleeps(pid), || {
        "the thread: expected to be still asleep"
    })
}

fn does_not_wake_up_while_stopped(_: &Lab) -> Result {
    let pid = task::scanner()?;
    expect_asleep(pid)?;
    scanner::scan(2)?;
    expect_asleep(pid)
}

fn does_not_wake_up_after_unmerging(_: &Lab) -> Result {
    scanner::start()?;
    scanner::wait_passes(1)?;
    scanner::unmerge()?;
    expect_asleep(task::scanner()?)
}

fn runs_while_started(_: &Lab) -> Result {
    let pid = task::scanner()?;
    let before = (task::run_time_ns(pid)?, knob::number("cpu_ns")?);
    scanner::scan(3)?;
    let after = (task::run_time_ns(pid)?, knob::number("cpu_ns")?);
    expect::that(after.0 > before.0 && after.1 > before.1, || {
        format!("run time and cpu_ns: expected more than {before:?}, found {after:?}")
    })
}

fn cpu_ns_is_its_run_time(_: &Lab) -> Result {
    let pid = task::scanner()?;
    let look = || -> Result<_> { Ok((task::run_time_ns(pid)?, knob::number("cpu_ns")?)) };
    let before = look()?;
    scanner::scan(20)?;
    scanner::wait_asleep()?;
    let after = look()?;
    let (run_time, cpu_ns) = (after.0 - before.0, after.1 - before.1);
    let slack = run_time / 4 + 2_000_000;
    expect::within(
        "cpu_ns of 20 passes, against the thread's run time",
        run_time.saturating_sub(slack)..=run_time + slack,
        cpu_ns,
    )
}

/// The scanner's run time and the elapsed time, in nanoseconds.
#[derive(Clone, Copy)]
struct Spent {
    ran: u64,
    passed: u64,
}

/// Measures the run time of a thread and the elapsed time since its start.
struct Meter {
    pid: i32,
    start: Instant,
    before: u64,
}

impl Meter {
    fn start() -> Result<Self> {
        let (pid, start) = (task::scanner()?, Instant::now());
        let before = task::run_time_ns(pid)?;
        Ok(Meter { pid, start, before })
    }

    /// The elapsed time is read last, so a delay between the two can only make the share look smaller.
    fn read(&self) -> Result<Spent> {
        let ran = task::run_time_ns(self.pid)? - self.before;
        let passed = self.start.elapsed().as_nanos() as u64;
        Ok(Spent { ran, passed })
    }
}

/// Expects the scanner to keep scanning and its share of the time, from now on, to be at most
/// `percent` at some time after it has run for `run_ns`. If a step takes longer than its share
/// allows, the scanner sleeps longer before the next step, so the share may be exceeded for a while
/// if the machine interrupted the step. How long the scanner takes to return to its share is not
/// checked. Too long sleeps are tested on the host.
fn expect_share(percent: u64, run_ns: u64) -> Result {
    /// The budget that may be saved up (10 ms), the debt allowed without a sleep (2 ms), and a tick.
    const SLACK_NS: u64 = 16_000_000;
    let meter = Meter::start()?;
    scanner::wait_passes(2)?;
    let most = |spent: Spent| spent.passed / 100 * percent + SLACK_NS;
    let holds = || {
        meter
            .read()
            .is_ok_and(|spent| (run_ns..=most(spent)).contains(&spent.ran))
    };
    let held = task::wait_until(PATIENCE, holds);
    let spent = meter.read()?;
    expect::that(held, || {
        format!(
            "run time in {} ns: expected {percent}%, found {} ns",
            spent.passed, spent.ran
        )
    })
}

/// The run time of a measurement: long enough that the saved-up budget hardly matters.
const RUN_NS: u64 = 200_000_000;

fn keeps_to_its_share_of_a_cpu(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    peer.anon(2000, Ids::each(1))?;
    scanner::start()?;
    for percent in [10, 50] {
        knob::set("max_cpu", percent)?;
        expect_share(percent, RUN_NS)?;
    }
    Ok(())
}

/// The governor sets the share, whatever the other knobs say, and lowers it if there is nothing to
/// merge.
fn works_by_itself_under_the_governor(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(2000, ids)?, b.anon(2000, ids)?);
    knob::set("scan_rate", 1)?;
    knob::set("sleep_ms", u32::MAX)?;
    knob::set("governor", "auto")?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    scanner::start()?;
    scanner::wait_passes(8)?;
    // A third of the run time suffices: the lowest share is 1%, so the measurement takes long.
    expect_share(3, RUN_NS / 3)
}

/// The number of recorded choices that the governor made because memory was short.
fn hurried(recorder: &Recorder) -> Result<usize> {
    let events = recorder.events()?;
    let is_hurried = |event: &&Event| {
        event.name == "pace" && event.text("cause").is_ok_and(|cause| cause == "short")
    };
    Ok(events.iter().filter(is_hurried).count())
}

/// Creates one page to merge per pass, too few for the governor to raise the share for that alone.
fn merge_a_little(peers: &[Peer; 2], content: u64) -> Result {
    for peer in peers {
        peer.anon(1, Ids::same(content))?;
    }
    scanner::wait_passes(1)
}

/// The system has enough memory; only one cgroup is throttled.
fn the_governor_hurries_while_others_wait_for_memory(lab: &Lab) -> Result<Completion> {
    if std::fs::read("/proc/pressure/memory").is_err() {
        return Ok(Completion::ignored_with(
            "the kernel does not count waits for memory",
        ));
    }
    let cgroup = Cgroup::new("waiting")?;
    let waiting = lab.peer_in(User::Bob, &cgroup)?;
    let peers = [lab.alice()?, lab.alice()?];
    peers[0].anon(5000, Ids::each(1))?;
    knob::set("governor", "auto")?;
    let recorder = Recorder::start()?;
    scanner::start()?;
    let mut contents = 10_000..;
    let mut merge_a_little = || merge_a_little(&peers, contents.next().unwrap_or(0));
    for _ in 0..7 {
        merge_a_little()?;
    }
    expect::eq(
        "number of hurries while nobody waits",
        0,
        hurried(&recorder)?,
    )?;
    let span = waiting.map(Kind::Anon, 20_000)?;
    cgroup.throttle(1 << 20)?;
    waiting.begin("touch", &[span.addr, span.pages])?;
    let start = Instant::now();
    while hurried(&recorder)? == 0 {
        merge_a_little()?;
        expect::that(start.elapsed() < PATIENCE, || {
            "expected the governor to hurry while others wait for memory"
        })?;
    }
    cgroup.unthrottle()?;
    waiting.finish("touch")?;
    Ok(Completion::Completed)
}

/// The result of scanning with pauses.
struct Paused {
    pages: u64,
    /// The requested length of each pause in ticks.
    pauses: Vec<u64>,
    passed: Duration,
}

impl Paused {
    /// Scans with these knobs until there were `pauses` pauses.
    fn scan(scan_rate: u64, sleep_ms: u64, pauses: usize) -> Result<Self> {
        knob::set("scan_rate", scan_rate)?;
        knob::set("sleep_ms", sleep_ms)?;
        let recorder = scanner::record_pauses()?;
        let (start, before) = (Instant::now(), knob::number("pages_scanned")?);
        scanner::start()?;
        let is_done = || recorder.count().is_ok_and(|count| count > pauses);
        let done = task::wait_until(PATIENCE, is_done);
        scanner::stop()?;
        let passed = start.elapsed();
        let pages = knob::number("pages_scanned")? - before;
        let pauses = scanner::ticks(&recorder)?;
        expect::that(done, || format!("expected more pauses, found {pauses:?}"))?;
        Ok(Paused {
            pages,
            pauses,
            passed,
        })
    }

    /// Expects that the cycles between the pauses scanned at most `scan_rate` pages each and not far
    /// fewer: skipped pages count towards the rate, and the last cycle of a pass is shorter.
    fn expect_cycles_of(&self, scan_rate: u64) -> Result {
        let cycles = self.pauses.len() as u64 + 1;
        expect::within(
            format!("pages scanned in {cycles} cycles"),
            cycles * scan_rate / 3..=cycles * scan_rate,
            self.pages,
        )
    }

    /// Expects that all pauses together lasted at least this long, except the last pause, which was
    /// cut short. Returns the requested length of a pause in ticks; it is one less if the clock ticks
    /// during the request.
    fn expect_pauses_of(&self, sleep_ms: u64) -> Result<u64> {
        /// Kernel timers count whole ticks: a pause that begins within a tick is shorter, by up to 10
        /// ms at 100 Hz.
        const TICK_MS: u64 = 10;
        let pauses = self.pauses.len() as u32 - 1;
        let least = Duration::from_millis(sleep_ms - TICK_MS) * pauses;
        expect::within("time of the pauses", least..=Duration::MAX, self.passed)?;
        Ok(self.pauses.iter().copied().max().unwrap_or(0))
    }
}

fn keeps_the_pause(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    peer.anon(256, Ids::each(1))?;
    let short = Paused::scan(20, 100, 10)?.expect_pauses_of(100)?;
    let long = Paused::scan(20, 1000, 3)?.expect_pauses_of(1000)?;
    expect::within(
        "ticks of a pause of a second, of 100 ms",
        10 * short - 10..=10 * short + 10,
        long,
    )
}

fn keeps_the_scan_rate(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    peer.anon(1024, Ids::each(1))?;
    for scan_rate in [10, 50] {
        Paused::scan(scan_rate, 100, 10)?.expect_cycles_of(scan_rate)?;
    }
    Ok(())
}

/// Expects that `action` ends long before the end of an endless cycle or of a pause of days.
fn at_once(what: &str, action: impl FnOnce() -> Result) -> Result {
    let start = Instant::now();
    action()?;
    let took = start.elapsed();
    expect::that(took < PATIENCE, || {
        format!("{what}: expected to take less than {PATIENCE:?}, found {took:?}")
    })
}

fn begin_endless_cycle() -> Result {
    knob::set("scan_rate", u32::MAX)?;
    knob::set("sleep_ms", 0)?;
    scanner::start()?;
    sleep(Duration::from_millis(200));
    Ok(())
}

fn stops_at_once_in_an_endless_cycle(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    peer.touch(peer.map(Kind::Anon, 40_000)?)?;
    begin_endless_cycle()?;
    at_once("stopping", scanner::stop)?;
    let scanned = knob::number("pages_scanned")?;
    sleep(Duration::from_millis(300));
    expect::eq(
        "pages_scanned after stopping",
        scanned,
        knob::number("pages_scanned")?,
    )?;
    expect_asleep(task::scanner()?)?;
    begin_endless_cycle()?;
    at_once("unmerging", scanner::unmerge)?;
    expect_asleep(task::scanner()?)
}

fn begin_long_pause() -> Result {
    knob::set("sleep_ms", u32::MAX)?;
    scanner::start()?;
    sleep(Duration::from_millis(500));
    Ok(())
}

fn starts_at_once_out_of_a_long_pause(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    begin_long_pause()?;
    let (in_a, in_b) = (a.anon(8, Ids::each(1))?, b.anon(8, Ids::each(1))?);
    knob::set("sleep_ms", 0)?;
    at_once("three passes", || scanner::wait_passes(3))?;
    scanner::stop()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    begin_long_pause()?;
    at_once("stopping", scanner::stop)
}

/// A write wakes the scanner even between the end of a pass and its pause, which is when these writes
/// happen.
fn a_pause_is_cut_short_whenever_that_is_written(_: &Lab) -> Result {
    begin_long_pause()?;
    for _ in 0..1000 {
        let (start, before) = (Instant::now(), knob::number("full_scans")?);
        knob::set("sleep_ms", scanner::UNTIL_TOLD_MS)?;
        while knob::number("full_scans")? == before {
            expect::that(start.elapsed() < PATIENCE, || {
                format!("full_scans: expected one more than {before} in {PATIENCE:?}")
            })?;
        }
    }
    scanner::stop()
}

/// Limits the scanner to the pages of one process. They all differ, so none is merged.
fn only_different_pages(lab: &Lab) -> Result<Peer> {
    knob::set("scope", "registered")?;
    let peer = lab.alice()?;
    peer.registered(4096, Ids::each(1))?;
    Ok(peer)
}

fn unloads_at_once_out_of_a_long_pause(lab: &Lab) -> Result {
    let _peer = only_different_pages(lab)?;
    begin_long_pause()?;
    at_once("unloading", module::unload_as_it_is)
}

fn unloads_at_once_out_of_an_endless_cycle(lab: &Lab) -> Result {
    let _peer = only_different_pages(lab)?;
    begin_endless_cycle()?;
    at_once("unloading", module::unload_as_it_is)
}

fn several_threads_stop_at_once(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    peer.touch(peer.map(Kind::Anon, 40_000)?)?;
    knob::set("threads", 8)?;
    for pid in task::scanners() {
        expect::eq("nice value", 5, number(pid, 19)?)?;
    }
    begin_endless_cycle()?;
    at_once("stopping", scanner::stop)?;
    for pid in task::scanners() {
        expect_asleep(pid)?;
    }
    begin_endless_cycle()?;
    at_once("ending six threads", || knob::set("threads", 2))?;
    let is_done = || task::scanners().len() == 2;
    expect::that(task::wait_until(PATIENCE, is_done), || {
        format!("threads: expected 2, found {:?}", task::scanners())
    })?;
    at_once("a pass", || scanner::wait_passes(1))?;
    at_once("unloading", module::unload)?;
    expect::eq("remaining threads", 0, task::scanners().len())
}

/// Freezes all tasks in some state of the scanner, and expects that merging works afterwards.
fn expect_freezes(lab: &Lab, begin: impl FnOnce() -> Result) -> Result<Completion> {
    begin()?;
    if !freezer::is_there() {
        return Ok(Completion::ignored_with("the kernel has no freezer test"));
    }
    freezer::freeze()?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, Ids::each(1))?, b.anon(8, Ids::each(1))?);
    knob::set("sleep_ms", 0)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    Ok(Completion::Completed)
}

fn is_frozen_while_it_scans(lab: &Lab) -> Result<Completion> {
    expect_freezes(lab, begin_endless_cycle)
}

fn is_frozen_in_a_pause(lab: &Lab) -> Result<Completion> {
    expect_freezes(lab, begin_long_pause)
}

fn is_frozen_while_stopped(lab: &Lab) -> Result<Completion> {
    expect_freezes(lab, || Ok(()))
}
