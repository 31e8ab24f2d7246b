// SPDX-License-Identifier: GPL-2.0

//! The scanner's thread: when it runs, and when it does not.

use std::ops::Range;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use guest::cgroup::Cgroup;
use guest::content::Ids;
use guest::expect;
use guest::freezer;
use guest::knob;
use guest::lab::Lab;
use guest::lab::SkippableTest;
use guest::lab::Test;
use guest::module;
use guest::pages;
use guest::peer::Kind;
use guest::peer::Peer;
use guest::peer::User;
use guest::scanner;
use guest::task;
use guest::Result;
use libtest_mimic::Completion;

pub(super) const TESTS: &[Test] = &[
    ("is_one_kernel_thread_of_nice_5", identity),
    ("does_not_wake_up_while_stopped", asleep),
    ("does_not_wake_up_after_unmerging", asleep_after_unmerging),
    ("runs_while_started", awake),
    ("cpu_ns_is_its_run_time", cpu_time),
    ("keeps_the_pause", pause),
    ("keeps_the_scan_rate", rate),
    ("keeps_to_its_share_of_a_cpu", share),
    ("works_by_itself_under_the_governor", governor),
    ("stops_at_once_in_an_endless_cycle", endless_cycle),
    ("starts_at_once_out_of_a_long_pause", long_pause),
    ("a_pause_is_cut_short_whenever_that_is_written", cut_short),
    ("unloads_at_once_out_of_a_long_pause", unload_in_pause),
    ("unloads_at_once_out_of_an_endless_cycle", unload_in_cycle),
    ("several_threads_stop_at_once", many_threads),
];

pub(super) const SKIPPABLE: &[SkippableTest] = &[
    (
        "the_governor_hurries_while_others_wait_for_memory",
        pressure,
    ),
    ("is_frozen_while_it_scans", freeze_scanning),
    ("is_frozen_in_a_pause", freeze_pausing),
    ("is_frozen_while_stopped", freeze_stopped),
];

/// How long anything may take that is to happen at once, in a slow guest.
const AT_ONCE: Duration = Duration::from_secs(3);

fn number(pid: i32, field: usize) -> Result<i64> {
    let text = task::stat(pid, field)?;
    text.parse()
        .map_err(|_| format!("field {field} of stat: expected a number, found {text:?}").into())
}

fn identity(_: &Lab) -> Result {
    let pid = task::scanner()?;
    expect::eq("nice value", 5, number(pid, 19)?)?;
    let flags = number(pid, 9)? as u64;
    expect::that(flags & task::PF_KTHREAD != 0, || {
        format!("flags: expected a kernel thread, found {flags:#x}")
    })?;
    expect::eq("PF_NOFREEZE", 0, flags & task::PF_NOFREEZE)
}

/// Expects the thread to do nothing for two seconds.
fn expect_asleep(pid: i32) -> Result {
    // It may be on its way to sleep.
    sleep(Duration::from_millis(200));
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
    expect::eq("state of the thread", "S", strip_idle(&task::stat(pid, 3)?))
}

/// A sleep that does not count as load is as good.
fn strip_idle(state: &str) -> &str {
    if state == "I" {
        "S"
    } else {
        state
    }
}

fn asleep(_: &Lab) -> Result {
    let pid = task::scanner()?;
    expect_asleep(pid)?;
    scanner::scan(2)?;
    expect_asleep(pid)
}

fn asleep_after_unmerging(_: &Lab) -> Result {
    scanner::start()?;
    scanner::wait_passes(1)?;
    scanner::unmerge()?;
    expect_asleep(task::scanner()?)
}

fn awake(_: &Lab) -> Result {
    let pid = task::scanner()?;
    let before = (task::run_time_ns(pid)?, knob::number("cpu_ns")?);
    scanner::scan(3)?;
    let after = (task::run_time_ns(pid)?, knob::number("cpu_ns")?);
    expect::that(after.0 > before.0 && after.1 > before.1, || {
        format!("run time and cpu_ns: expected more than {before:?}, found {after:?}")
    })
}

fn cpu_time(_: &Lab) -> Result {
    let pid = task::scanner()?;
    let look = || -> Result<_> { Ok((task::run_time_ns(pid)?, knob::number("cpu_ns")?)) };
    let before = look()?;
    scanner::start()?;
    sleep(Duration::from_millis(500));
    scanner::stop()?;
    sleep(Duration::from_millis(100));
    let after = look()?;
    let (run_time, cpu_ns) = (after.0 - before.0, after.1 - before.1);
    let slack = run_time / 4 + 2_000_000;
    expect::within(
        "cpu_ns of half a second, against the thread's run time",
        run_time.saturating_sub(slack)..=run_time + slack,
        cpu_ns,
    )
}

/// Pages scanned in three seconds with these knobs.
fn scanned(scan_rate: u32, sleep_ms: u32) -> Result<u64> {
    knob::set("scan_rate", scan_rate)?;
    knob::set("sleep_ms", sleep_ms)?;
    scanner::start()?;
    let before = knob::number("pages_scanned")?;
    sleep(Duration::from_secs(3));
    let after = knob::number("pages_scanned")?;
    scanner::stop()?;
    Ok(after - before)
}

/// Run time of the thread in two seconds, in percent of them.
fn share_taken() -> Result<u64> {
    let pid = task::scanner()?;
    let (start, before) = (Instant::now(), task::run_time_ns(pid)?);
    sleep(Duration::from_secs(2));
    let ran = task::run_time_ns(pid)? - before;
    Ok(ran * 100 / start.elapsed().as_nanos() as u64)
}

fn share(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    peer.anon(2000, Ids::each(1))?;
    knob::set("max_cpu", 10)?;
    scanner::start()?;
    expect::within(
        "percent of a CPU, where 10 are allowed",
        3..=12,
        share_taken()?,
    )?;
    knob::set("max_cpu", 50)?;
    expect::within(
        "percent of a CPU, where 50 are allowed",
        25..=55,
        share_taken()?,
    )?;
    knob::set("max_cpu", 100)?;
    expect::within("percent of a CPU without a limit", 60..=101, share_taken()?)
}

/// Whatever the other knobs say; and slower, where there is nothing to merge.
fn governor(lab: &Lab) -> Result {
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
    expect::within(
        "percent of a CPU with nothing to merge",
        0..=3,
        share_taken()?,
    )
}

/// Has a page to merge come in each pass, one for each of these contents: too few for the governor to
/// let the scanner run for more than a little, however fast the guest is. Returns the scanner's share
/// of a CPU meanwhile, in percent.
fn share_taken_by_a_little(peers: &[Peer; 2], contents: Range<u64>) -> Result<u64> {
    let pid = task::scanner()?;
    let (start, before) = (Instant::now(), task::run_time_ns(pid)?);
    for content in contents {
        for peer in peers {
            peer.anon(1, Ids::same(content))?;
        }
        scanner::wait_passes(1)?;
    }
    let ran = task::run_time_ns(pid)? - before;
    Ok(ran * 100 / start.elapsed().as_nanos() as u64)
}

/// There is enough memory; only one cgroup waits for some.
fn pressure(lab: &Lab) -> Result<Completion> {
    if std::fs::read("/proc/pressure/memory").is_err() {
        return Ok(Completion::ignored_with("no waits for memory are counted"));
    }
    let cgroup = Cgroup::new("waiting")?;
    let waiting = lab.peer_in(User::Bob, &cgroup)?;
    let peers = [lab.alice()?, lab.alice()?];
    peers[0].anon(5000, Ids::each(1))?;
    knob::set("governor", "auto")?;
    scanner::start()?;
    share_taken_by_a_little(&peers, 10_000..10_005)?;
    let share = share_taken_by_a_little(&peers, 10_005..10_007)?;
    expect::within("percent of a CPU while nobody waits", 0..=6, share)?;
    let span = waiting.map(Kind::Anon, 20_000)?;
    cgroup.throttle(1 << 20)?;
    waiting.begin("touch", &[span.addr, span.pages])?;
    share_taken_by_a_little(&peers, 10_007..10_015)?;
    let share = share_taken_by_a_little(&peers, 10_015..10_025)?;
    cgroup.unthrottle()?;
    waiting.finish("touch")?;
    expect::within("percent of a CPU while others wait", 12..=101, share)?;
    Ok(Completion::Completed)
}

fn pause(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    peer.anon(256, Ids::each(1))?;
    // 3 s hold 30 pauses of 100 ms; a cycle begins before the first and ends after the last.
    expect::within(
        "pages scanned, 20 every 100 ms, in 3 s",
        10 * 20..=33 * 20,
        scanned(20, 100)?,
    )?;
    // 3 s hold 3 pauses of a second; the cycle at the end of a pass is shorter.
    expect::within(
        "pages scanned, 20 every s, in 3 s",
        15..=5 * 20,
        scanned(20, 1000)?,
    )
}

fn rate(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    peer.anon(1024, Ids::each(1))?;
    let (few, many) = (scanned(10, 100)?, scanned(50, 100)?);
    expect::within(
        "pages scanned at 10 a cycle, in 3 s",
        10 * 10..=33 * 10,
        few,
    )?;
    expect::within(
        "pages scanned at 50 a cycle, in 3 s",
        10 * 50..=33 * 50,
        many,
    )
}

/// Expects `action` to be done soon.
fn at_once(what: &str, action: impl FnOnce() -> Result) -> Result {
    let start = Instant::now();
    action()?;
    let took = start.elapsed();
    expect::that(took < AT_ONCE, || {
        format!("{what}: expected to take less than {AT_ONCE:?}, found {took:?}")
    })
}

fn begin_endless_cycle() -> Result {
    knob::set("scan_rate", u32::MAX)?;
    knob::set("sleep_ms", 0)?;
    scanner::start()?;
    sleep(Duration::from_millis(200));
    Ok(())
}

fn endless_cycle(lab: &Lab) -> Result {
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

fn long_pause(lab: &Lab) -> Result {
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

/// Also between the end of a pass and its pause, which is when these writes come.
fn cut_short(_: &Lab) -> Result {
    begin_long_pause()?;
    for _ in 0..1000 {
        let (start, before) = (Instant::now(), knob::number("full_scans")?);
        knob::set("sleep_ms", scanner::UNTIL_TOLD_MS)?;
        while knob::number("full_scans")? == before {
            expect::that(start.elapsed() < AT_ONCE, || {
                format!("full_scans: expected one more than {before} in {AT_ONCE:?}")
            })?;
        }
    }
    scanner::stop()
}

fn unload_in_pause(_: &Lab) -> Result {
    begin_long_pause()?;
    at_once("unloading", module::unload)
}

fn unload_in_cycle(_: &Lab) -> Result {
    begin_endless_cycle()?;
    at_once("unloading", module::unload)
}

fn many_threads(lab: &Lab) -> Result {
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
    expect::that(task::wait_until(AT_ONCE, is_done), || {
        format!("threads: expected 2, found {:?}", task::scanners())
    })?;
    at_once("a pass", || scanner::wait_passes(1))?;
    at_once("unloading", module::unload)?;
    expect::eq("threads that are left", 0, task::scanners().len())
}

/// Freezes in some state of the scanner, and expects it to go on merging then.
fn expect_freezes(lab: &Lab, begin: impl FnOnce() -> Result) -> Result<Completion> {
    begin()?;
    if !freezer::is_there() {
        return Ok(Completion::ignored_with(
            "the kernel has no test of freezing",
        ));
    }
    freezer::freeze()?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, Ids::each(1))?, b.anon(8, Ids::each(1))?);
    knob::set("sleep_ms", 0)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    Ok(Completion::Completed)
}

fn freeze_scanning(lab: &Lab) -> Result<Completion> {
    expect_freezes(lab, begin_endless_cycle)
}

fn freeze_pausing(lab: &Lab) -> Result<Completion> {
    expect_freezes(lab, begin_long_pause)
}

fn freeze_stopped(lab: &Lab) -> Result<Completion> {
    expect_freezes(lab, || Ok(()))
}
