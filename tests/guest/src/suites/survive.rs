// SPDX-License-Identifier: GPL-2.0

//! A scanner at full speed together with processes that change their memory in all possible ways.
//!
//! All random choices depend on the seed that the program prints; `KSM_V_SEED` replays it.

use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::kmsg::QuietConsole;
use guest::kernel::probe::CallCount;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::rng;
use guest::rng::Rng;
use guest::tests;
use guest::Result;
use libtest_mimic::Trial;

mod offline;
mod promise;
mod shortage;

const TESTS: &[Test] = tests![
    processes_that_work_on_their_memory,
    processes_that_work_while_knobs_change,
    processes_that_work_beside_ksmd,
    processes_that_come_and_go,
    processes_that_run_new_programs,
    nobody_waits_long_for_the_scanner,
    many_small_mappings,
    a_little_memory_left,
    knobs_written_by_many_at_once,
    memory_that_fails,
];

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let tests: Vec<Test> = [TESTS, offline::TESTS, promise::TESTS, shortage::TESTS].concat();
    let mut trials = lab::trials("survive", &tests);
    trials.extend(lab::skippable_trials("survive", promise::SKIPPABLE));
    trials
}

/// Starts processes that work for some time, with seeds derived from `seed`.
fn start_churn(lab: &Lab, seed: u64, count: u64, time: Duration) -> Result<Vec<Peer>> {
    let mut workers = Vec::new();
    for index in 0..count {
        let user = if index % 4 == 3 {
            User::Bob
        } else {
            User::Alice
        };
        let worker = lab.peer(user)?;
        worker.churn(seed.wrapping_add(index), time)?;
        workers.push(worker);
    }
    Ok(workers)
}

/// Waits for the workers; a worker fails if one of its pages had wrong contents.
fn finish_churn(workers: Vec<Peer>, seed: u64) -> Result {
    let mut steps = 0;
    for worker in &workers {
        steps += worker.churned().during(|| format!("KSM_V_SEED={seed}"))?;
    }
    let least = workers.len() as u64 * 20;
    expect::that(steps >= least, || {
        format!("steps done: expected at least {least}, found {steps}")
    })
}

/// Expects that the scanner has scanned pages meanwhile.
fn expect_scanned_since(before: u64) -> Result {
    let after = knob::number("pages_scanned")?;
    expect::that(after > before, || {
        format!("pages_scanned: expected more than {before}, found {after}")
    })
}

fn processes_that_work_on_their_memory(lab: &Lab) -> Result {
    let seed = rng::seed();
    let scanned = knob::number("pages_scanned")?;
    scanner::start()?;
    let mut most = 0;
    // One round is enough unless the scanner gets little CPU time.
    for round in 0..10 {
        let seed = seed.wrapping_add(round * 100);
        let workers = start_churn(lab, seed, 4, Duration::from_secs(12))?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(11) {
            most = most.max(knob::number("pages_sharing")?);
            std::thread::sleep(Duration::from_millis(100));
        }
        finish_churn(workers, seed)?;
        if most >= 20 {
            break;
        }
    }
    scanner::stop()?;
    expect_scanned_since(scanned)?;
    expect::that(most >= 20, || {
        format!("pages_sharing: expected 20 or more meanwhile, found {most}")
    })?;
    scanner::expect_exact_counts("after the work")?;
    scanner::unmerge()
}

/// Changes a random knob.
fn change_a_knob(rng: &mut Rng) -> Result {
    let scan_rates = [1, 10, 100, 10_000, u64::from(u32::MAX)];
    match rng.below(11) {
        0 => knob::set("run", 0),
        1 => knob::set("run", 2),
        2 => knob::set("sleep_ms", rng.below(5)),
        3 => knob::set("scan_rate", rng.pick(&scan_rates)),
        4 => knob::set("promote_after", 1 + rng.below(4)),
        5 => knob::set("scope", rng.pick(&["all", "registered"])),
        6 => change_domain(rng),
        7 => knob::set("threads", 1 + rng.below(4)),
        _ => knob::set("run", 1),
    }
}

fn change_domain(rng: &mut Rng) -> Result {
    knob::set("run", 2)?;
    knob::set("domain", rng.pick(&["user", "process", "cgroup", "global"]))
}

fn processes_that_work_while_knobs_change(lab: &Lab) -> Result {
    let seed = rng::seed();
    let mut rng = Rng::new(seed);
    scanner::start()?;
    let workers = start_churn(lab, seed, 4, Duration::from_secs(12))?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(11) {
        change_a_knob(&mut rng).during(|| format!("KSM_V_SEED={seed}"))?;
        for name in knob::READ_ONLY {
            knob::read(name)?;
        }
        std::thread::sleep(Duration::from_millis(rng.below(60)));
    }
    scanner::stop()?;
    finish_churn(workers, seed)?;
    scanner::expect_exact_counts("after the work").map(drop)
}

/// Both ksmd and the module merge the memory that the workers register.
fn processes_that_work_beside_ksmd(lab: &Lab) -> Result {
    let mainline =
        |name: &str, value: &str| procfs::write(&format!("{}/{name}", knob::MAINLINE), value);
    let seed = rng::seed();
    mainline("sleep_millisecs", "1")?;
    mainline("run", "1")?;
    scanner::start()?;
    let workers = start_churn(lab, seed, 4, Duration::from_secs(8))?;
    let finished = finish_churn(workers, seed);
    scanner::stop()?;
    mainline("run", "2")?;
    mainline("run", "0")?;
    finished
}

/// Processes with equal pages start and get killed at any time while they are scanned.
fn processes_that_come_and_go(lab: &Lab) -> Result {
    let mut rng = Rng::new(rng::seed());
    let resident = lab.alice()?;
    let span = resident.anon(32, Ids::each(100))?;
    scanner::start()?;
    let (start, mut peers) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(6) {
        let peer = lab.alice()?;
        let own = peer.anon(32, Ids::each(100))?;
        if rng.below(2) == 0 {
            peers.push(peer.fork()?);
        }
        if rng.below(2) == 0 {
            peer.unmap(own.part(rng.below(16), 16))?;
        }
        peers.push(peer);
        while peers.len() > 6 {
            drop(peers.swap_remove(rng.below(peers.len() as u64) as usize));
        }
        resident.check(span, Ids::each(100))?;
    }
    drop(peers);
    scanner::stop()?;
    resident.check(span, Ids::each(100))?;
    scanner::expect_exact_counts("after all had gone").map(drop)
}

fn processes_that_run_new_programs(lab: &Lab) -> Result {
    let peers = lab.alices(3)?;
    scanner::start()?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        for peer in &peers {
            let span = peer.anon(16, Ids::each(100))?;
            peer.check(span, Ids::each(100))?;
            peer.exec()?;
        }
    }
    scanner::stop()?;
    scanner::expect_exact_counts("after many programs").map(drop)
}

/// A task that changes a VMA waits for the VMA's lock, which the scanner holds only while it reads at
/// most one batch of pages.
fn nobody_waits_long_for_the_scanner(lab: &Lab) -> Result {
    const PAGES: u64 = 16_384;
    /// `BATCH` of rust/scan/gather.rs.
    const BATCH: u64 = 512;
    /// `CHUNK` of rust/mm/walk.rs: the entries that one call reads.
    const CHUNK: u64 = 32;
    let peer = lab.alice()?;
    let span = peer.map(Kind::Anon, PAGES)?;
    peer.keep_small(span)?;
    peer.fill(span, Ids::each(10_000))?;
    scanner::stop()?;
    let (reads, locks) = (
        CallCount::start("ksm_v_ptes_mapped")?,
        CallCount::start("ksm_v_vma_start_read")?,
    );
    knob::set(knob::WRITE_ONLY, scanner::part(&peer, span))?;
    let (reads, locks) = (reads.calls()?, locks.calls()?);
    expect::within("chunks read", PAGES / CHUNK..=u64::MAX, reads)?;
    expect::within(
        "VMA locks taken for these reads",
        PAGES / BATCH..=u64::MAX,
        locks,
    )
}

fn knobs_written_by_many_at_once(lab: &Lab) -> Result {
    let seed = rng::seed();
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(64, Ids::each(100))?, b.anon(64, Ids::each(100))?);
    let write = |index: u64| -> Result {
        let (mut rng, start) = (Rng::new(seed.wrapping_add(index)), Instant::now());
        while start.elapsed() < Duration::from_secs(5) {
            // Another writer may have caused merges between the two writes.
            if rng.below(10) == 0 {
                let _ = change_domain(&mut rng);
            } else {
                change_a_knob(&mut rng).or_else(|failed| match failed.message() {
                    Some(why) if why.contains("domain") => Ok(()),
                    _ => Err(failed),
                })?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads = [0, 1, 2].map(|index| scope.spawn(move || write(index)));
        for thread in threads {
            thread.join().map_err(|_| "a writer failed")??;
        }
        Result::Ok(())
    })?;
    a.check(in_a, Ids::each(100))?;
    b.check(in_b, Ids::each(100))?;
    scanner::settle_knobs()?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    scanner::expect_exact_counts("after many writers").map(drop)
}

/// The kernel is told that the memory of an unmovable merged page has failed. It finds no mapping of
/// the page; nothing else may break, and no more pages may be merged into it.
fn memory_that_fails(lab: &Lab) -> Result {
    const MADV_HWPOISON: i32 = 100;
    knob::set("movable", 0)?;
    let ids = Ids::each(100);
    let (a, b) = (lab.peer(User::Root)?, lab.peer(User::Root)?);
    let (in_a, in_b) = (a.anon(8, ids)?, b.anon(8, ids)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    // The kernel finds no mapping of such a page and returns an error.
    let poisoned = a.advise(in_a.page(1), MADV_HWPOISON);
    expect::that(poisoned.is_err(), || {
        "MADV_HWPOISON: expected to fail, found success"
    })?;
    let c = lab.peer(User::Root)?;
    let in_c = c.anon(8, ids)?;
    scanner::merge()?;
    expect::ne("frame of a new page", frames[1], c.frame(in_c, 1)?)?;
    c.check(in_c, ids)?;
    b.check(in_b.part(2, 6), Ids::each(102))?;
    // The failed page is not read again, but it is still counted.
    let unmerged = knob::try_write("run", b"2");
    expect::errno("run=2 with failed memory", libc::EIO, unmerged)?;
    expect::eq(
        "pages_shared with failed memory",
        1,
        knob::number("pages_shared")?,
    )?;
    pages::expect_not_merged((&b, in_b.part(2, 6)))?;
    b.check(in_b.part(2, 6), Ids::each(102))
}

/// Every other page has a different protection, so there are as many VMAs as pages.
fn many_small_mappings(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let ids = Ids::each(100);
    let (in_a, in_b) = (a.anon(600, ids)?, b.anon(600, ids)?);
    for index in (0..600).step_by(2) {
        a.protect(in_a.page(index), libc::PROT_READ)?;
    }
    scanner::start()?;
    scanner::wait_passes(1)?;
    for index in (0..600).step_by(3) {
        a.unmap(in_a.page(index))?;
    }
    scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    scanner::stop()?;
    for index in (0..600).filter(|index| index % 3 != 0) {
        a.check(in_a.page(index), Ids::same(ids.of(index)))?;
    }
    b.check(in_b, ids)?;
    pages::expect_merged(&[(&a, in_a.part(1, 2)), (&b, in_b.part(1, 2))])?;
    scanner::expect_exact_counts("with many mappings").map(drop)
}

/// The module needs memory to free memory. Without free memory it must wait, not fail.
fn a_little_memory_left(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(2048, Ids::each(100))?, b.anon(2048, Ids::each(100))?);
    let hog = lab.alice()?;
    hog.set_dumpable(false)?;
    let free = procfs::number_in("/proc/meminfo", "MemAvailable")? / 4;
    let held = hog.map(Kind::Anon, free.saturating_sub(4096))?;
    // The OOM killer prefers the process that takes the most memory, and that is this one.
    procfs::write(&format!("/proc/{}/oom_score_adj", hog.pid()), "1000")?;
    let _quiet = QuietConsole::begin()?;
    scanner::start()?;
    let filled = hog.touch(held);
    scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    scanner::stop()?;
    expect::that(filled.is_ok() || task::ended(hog.pid()), || {
        format!("the process that takes all memory: {:?}", filled.err())
    })?;
    drop(hog);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, Ids::each(100))?;
    scanner::expect_exact_counts("after memory was short").map(drop)
}
