// SPDX-License-Identifier: GPL-2.0

//! The floor under what merging has promised: `promise_floor`.

use std::time::Duration;

use guest::expect;
use guest::kernel::kmsg::QuietConsole;
use guest::kernel::procfs;
use guest::ksm_v::events::Recorder;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::SkippableTest;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::memory::span::Span;
use guest::memory::swap::Swap;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Result;
use libtest_mimic::Completion;

pub(super) const TESTS: &[Test] = tests![
    a_storm_of_writes_kills_somebody_unless_there_is_a_floor,
    nothing_is_merged_below_the_floor,
    the_worst_minute_is_counted,
];

pub(super) const SKIPPABLE: &[SkippableTest] = tests![swap_counts_as_available_if_wanted];

/// Processes that share.
const SHARERS: usize = 32;
/// Pages of each; every process has the same.
const PAGES: u64 = 4096;
const IDS: Ids = Ids::each(1);
/// What the tenant leaves available, in KiB. A quarter of the sharers' pages is eight times that, and more than
/// the kernel's reserves.
const LEFT: u64 = 16 * 1024;
/// The floor of the test, in MiB: a quarter of the sharers' pages.
const FLOOR: u64 = SHARERS as u64 * PAGES / 4 / 256;

fn available() -> Result<u64> {
    procfs::number_in("/proc/meminfo", "MemAvailable")
}

fn killed() -> Result<u64> {
    procfs::number_in("/proc/vmstat", "oom_kill")
}

/// A tenant that takes all memory but [`LEFT`], and again what becomes available.
struct Tenant {
    peer: Peer,
    next_id: u64,
}

impl Tenant {
    fn new(lab: &Lab) -> Result<Self> {
        let peer = lab.peer(User::Root)?;
        procfs::write(&format!("/proc/{}/oom_score_adj", peer.pid()), "1000")?;
        Ok(Tenant {
            peer,
            next_id: 1_000_000,
        })
    }

    fn take_all(&mut self) -> Result {
        const PART: u64 = 1024;
        while available()? > LEFT + 4 * PART {
            self.peer.anon(PART, Ids::each(self.next_id))?;
            self.next_id += PART;
        }
        Ok(())
    }
}

fn await_held(is_held: bool) -> Result {
    let wanted = u64::from(is_held);
    let shows = || knob::number("promise_held").is_ok_and(|held| held == wanted);
    expect::that(task::wait_until(task::PATIENCE, shows), || {
        format!("promise_held does not become {wanted}")
    })
}

/// Expects that no pass ends in half a second; at full speed there would be many.
fn expect_no_pass() -> Result {
    let passes = || knob::number("full_scans");
    let before = passes()?;
    std::thread::sleep(Duration::from_millis(500));
    expect::eq("passes while merging is held", before, passes()?)
}

/// Lets a tenant take the memory before and after the scanner has merged; then all sharers write to a quarter
/// of their pages. Returns how many processes were killed for want of memory.
fn storm(lab: &Lab, floor: u64) -> Result<u64> {
    knob::set("promise_floor", floor)?;
    let sharers = (0..SHARERS).map(|_| {
        let peer = lab.alice()?;
        let span = peer.anon(PAGES, IDS)?;
        peer.keep_small(span)?;
        Ok((peer, span))
    });
    let sharers = sharers.collect::<Result<Vec<(Peer, Span)>>>()?;
    let before = killed()?;
    let mut tenant = Tenant::new(lab)?;
    tenant.take_all()?;
    scanner::start()?;
    if floor == 0 {
        scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    } else {
        await_held(true)?;
        expect_no_pass()?;
        expect::eq("pages_sharing", 0, knob::number("pages_sharing")?)?;
    }
    tenant.take_all()?;
    expect::eq("processes killed before the storm", before, killed()?)?;
    let mut written = Vec::new();
    for (number, (peer, span)) in sharers.iter().enumerate() {
        let changed = Ids::each(100_000 * (2 + number as u64));
        match peer.fill(span.part(0, PAGES / 4), changed) {
            Ok(()) => written.push((peer, *span)),
            // Without a floor, a sharer may be killed besides the tenant.
            Err(_) if floor == 0 => (),
            error => error?,
        }
    }
    scanner::stop()?;
    for (peer, span) in written {
        let kept = span.part(PAGES / 4, PAGES - PAGES / 4);
        peer.check(kept, Ids::each(1 + PAGES / 4))?;
    }
    Ok(killed()? - before)
}

fn a_storm_of_writes_kills_somebody_unless_there_is_a_floor(lab: &Lab) -> Result {
    let _quiet = QuietConsole::begin()?;
    let without = storm(lab, 0)?;
    expect::within("processes killed without a floor", 1..=u64::MAX, without)?;
    scanner::unmerge()?;
    let with = storm(lab, FLOOR)?;
    expect::eq("processes killed with a floor", 0, with)
}

fn nothing_is_merged_below_the_floor(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(64, IDS)?, b.anon(64, IDS)?);
    let zeroes = a.anon(64, Ids::ZERO)?;
    let recorder = Recorder::start()?;
    // So much is never available.
    knob::set("promise_floor", "100%")?;
    scanner::start()?;
    await_held(true)?;
    let at_once = knob::try_write(knob::WRITE_ONLY, a.pid().to_string().as_bytes());
    expect::errno("merge_now below the floor", libc::ENOMEM, at_once)?;
    expect_no_pass()?;
    pages::expect_not_merged((&a, in_a))?;
    pages::expect_not_merged((&b, in_b))?;
    knob::set("promise_floor", "0%")?;
    await_held(false)?;
    scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    knob::set("promise_floor", "100%")?;
    await_held(true)?;
    // Counts are exact though no pass ends.
    b.fill(in_b.part(0, 1), Ids::same(7777))?;
    scanner::expect_exact_counts("while merging is held")?;
    b.fill(in_b.part(0, 1), IDS)?;
    expect_no_pass()?;
    scanner::stop()?;
    expect::eq(
        "promise_held while stopped",
        0,
        knob::number("promise_held")?,
    )?;
    pages::expect_merged(&[(&a, in_a.part(1, 63)), (&b, in_b.part(1, 63))])?;
    pages::expect_not_merged((&b, in_b.part(0, 1)))?;
    a.check(zeroes, Ids::ZERO)?;
    let told = recorder.events()?;
    let told: Vec<_> = told
        .iter()
        .filter(|event| event.name == "promise")
        .collect();
    let total = procfs::number_in("/proc/meminfo", "MemTotal")? / 4;
    for event in &told {
        expect::eq("held", 1, event.number("held")?)?;
        expect::eq("wanted", total as i64, event.number("wanted")?)?;
        expect::within(
            "available",
            1..=total as i64 - 1,
            event.number("available")?,
        )?;
    }
    expect::eq("times that merging was held", 2, told.len())
}

/// Without swap space, less than all memory is available; with as much again, more is.
fn swap_counts_as_available_if_wanted(_: &Lab) -> Result<Completion> {
    let total = procfs::number_in("/proc/meminfo", "MemTotal")? / 1024;
    let swap = match Swap::open(total)? {
        Ok(swap) => swap,
        Err(why) => return Ok(Completion::ignored_with(why)),
    };
    knob::set("promise_floor", "100%")?;
    scanner::start()?;
    await_held(true)?;
    knob::set("promise_swap", 1)?;
    await_held(false)?;
    swap.off()?;
    await_held(true)?;
    swap.on_again()?;
    await_held(false)?;
    knob::set("promise_swap", 0)?;
    await_held(true)?;
    Ok(Completion::Completed)
}

fn the_worst_minute_is_counted(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(512, IDS)?, b.anon(512, IDS)?);
    a.keep_small(in_a)?;
    b.keep_small(in_b)?;
    knob::set("promise_floor", 1)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    expect::eq("promise_worst before", 0, knob::number("promise_worst")?)?;
    a.fill(in_a.part(0, 100), Ids::each(10_000))?;
    await_worst(100)?;
    // What the module itself copies is no burst of writes.
    scanner::unmerge()?;
    scanner::merge()?;
    b.fill(in_b.part(500, 3), Ids::each(20_000))?;
    await_worst(103)?;
    knob::set("promise_floor", 1)?;
    expect::eq(
        "promise_worst afterwards",
        0,
        knob::number("promise_worst")?,
    )
}

/// Scans until the worst minute had this number of copies.
fn await_worst(pages: u64) -> Result {
    scanner::start()?;
    let worst = || knob::number("promise_worst");
    task::wait_until(task::PATIENCE, || worst().is_ok_and(|worst| worst >= pages));
    scanner::stop()?;
    expect::eq("promise_worst", pages, worst()?)
}
