// SPDX-License-Identifier: GPL-2.0

//! Merged pages without the module, and a module that finds merged pages.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use guest::census;
use guest::content::Ids;
use guest::expect;
use guest::expect::FailureContext;
use guest::knob;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::module;
use guest::pagemap::Frame;
use guest::pages;
use guest::peer::Kind;
use guest::peer::Peer;
use guest::peer::User;
use guest::procfs;
use guest::rng;
use guest::rng::Rng;
use guest::scanner;
use guest::scanner::Counts;
use guest::task;
use guest::Context;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;

const TESTS: &[Test] = &[
    ("merged_pages_outlive_the_module", outlive),
    (
        "merged_pages_are_copied_on_write_without_the_module",
        writes_without,
    ),
    (
        "merged_pages_are_forked_and_freed_without_the_module",
        forks_without,
    ),
    ("zero_pages_outlive_the_module", zeros),
    ("merged_pages_are_adopted", adopt),
    ("adopted_pages_are_merged_with", adopt_and_merge),
    ("adopted_pages_are_unmerged", adopt_and_unmerge),
    ("found_pages_are_unmerged_without_a_pass", unmerge_at_once),
    ("pages_of_two_domains_are_not_adopted", mixed_domains),
    ("is_unloaded_in_the_middle_of_a_scan", mid_scan),
    ("is_unloaded_while_its_files_are_open", open_files),
    ("is_unloaded_while_its_files_are_read", readers),
    ("is_unloaded_while_it_unmerges", while_unmerging),
    ("is_unloaded_while_a_frame_goes_offline", while_leaving),
    ("is_reloaded_twenty_times_under_load", twenty_times),
];

/// The tests.
pub fn trials() -> Vec<Trial> {
    lab::trials("reload", TESTS)
}

const PAGES: u64 = 16;
const IDS: Ids = Ids::each(100);
const NEW: Ids = Ids::each(900);

/// Two processes that share merged pages.
struct Pair {
    a: Peer,
    in_a: Span,
    b: Peer,
    in_b: Span,
    frames: Vec<Frame>,
}

impl Pair {
    fn new(lab: &Lab) -> Result<Self> {
        let (a, b) = lab.pair()?;
        let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
        scanner::merge()?;
        let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        Ok(Pair {
            a,
            in_a,
            b,
            in_b,
            frames,
        })
    }

    fn expect_unchanged(&self, when: &str) -> Result {
        pages::expect_frames(when, (&self.a, self.in_a), &self.frames)?;
        pages::expect_frames(when, (&self.b, self.in_b), &self.frames)?;
        self.a.check(self.in_a, IDS)?;
        self.b.check(self.in_b, IDS)
    }
}

/// Loads the module with the knobs the tests want, without unmerging anything.
fn load_and_set() -> Result {
    module::load("")?;
    knob::set("promote_after", 1)?;
    knob::set("scan_rate", 10_000)?;
    knob::set("sleep_ms", 0)
}

fn unload_in_time() -> Result {
    let start = Instant::now();
    module::unload()?;
    let limit = task::PATIENCE;
    expect::within("time to unload", Duration::ZERO..=limit, start.elapsed())
}

fn outlive(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    unload_in_time()?;
    pair.expect_unchanged("without the module")?;
    pages::expect_merged(&[(&pair.a, pair.in_a), (&pair.b, pair.in_b)]).map(drop)
}

fn writes_without(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    unload_in_time()?;
    pair.a.fill(pair.in_a, NEW)?;
    pair.a.check(pair.in_a, NEW)?;
    pair.b.check(pair.in_b, IDS)?;
    pages::expect_not_merged((&pair.a, pair.in_a))?;
    pages::expect_frames("the other sharer", (&pair.b, pair.in_b), &pair.frames)?;
    pair.b.fill(pair.in_b, Ids::each(2000))?;
    pair.b.check(pair.in_b, Ids::each(2000))?;
    pair.a.check(pair.in_a, NEW)
}

fn forks_without(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    unload_in_time()?;
    let child = pair.a.fork()?;
    pages::expect_frames("a child", (&child, pair.in_a), &pair.frames)?;
    child.fill(pair.in_a.part(0, 4), NEW)?;
    child.exit()?;
    pair.expect_unchanged("after the child's end")?;
    let moved = pair.a.remap(pair.in_a)?;
    pair.a.check(moved, IDS)?;
    pair.a.exit()?;
    pair.b.check(pair.in_b, IDS)?;
    pair.b.exit()?;
    for frame in pair.frames {
        let flags = frame.flags()?;
        expect::that(!flags.ksm(), || {
            format!("{frame:?}: expected to be free, found {flags:?}")
        })?;
    }
    Ok(())
}

/// The kernel's count of merged zero pages can't be kept right without the module: they become
/// ordinary ones, which nobody counts.
fn zeros(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = peer.anon(PAGES, Ids::ZERO)?;
    scanner::merge()?;
    scanner::expect_exact_counts("before unloading")?;
    unload_in_time()?;
    pages::expect_zero_page((&peer, span))?;
    let count = procfs::read(&format!("{}/ksm_zero_pages", knob::MAINLINE))?;
    expect::eq(
        "mainline's ksm_zero_pages without the module",
        "0\n",
        &count,
    )?;
    expect::eq("ksm_zero_pages of all processes", 0, census::zero_pages())?;
    peer.check(span, Ids::ZERO)?;
    peer.fill(span.part(0, 4), NEW)?;
    load_and_set()?;
    scanner::merge()?;
    scanner::expect_exact_counts("after loading again and a pass")?;
    scanner::unmerge()?;
    expect::eq("zero_pages after run=2", 0, Counts::read()?.zero)?;
    peer.check(span.part(0, 4), NEW)?;
    peer.check(span.part(4, PAGES - 4), Ids::ZERO)?;
    peer.fill(span, IDS)?;
    peer.check(span, IDS)
}

fn adopt(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    let before = scanner::expect_exact_counts("before unloading")?;
    unload_in_time()?;
    load_and_set()?;
    scanner::merge()?;
    pair.expect_unchanged("after a pass of the new module")?;
    let after = scanner::expect_exact_counts("after a pass of the new module")?;
    expect::that(after.shared >= PAGES && after.sharing >= PAGES, || {
        format!("counts: expected about {before:?} as before, found {after:?}")
    })
}

fn adopt_and_merge(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    unload_in_time()?;
    let late = lab.alice()?;
    let in_late = late.anon(PAGES, IDS)?;
    load_and_set()?;
    scanner::scan(6)?;
    pages::expect_frames("a late process", (&late, in_late), &pair.frames)?;
    pair.expect_unchanged("after a late process joined")?;
    pages::expect_mappings(&pair.frames, 3)?;
    late.fill(in_late, NEW)?;
    pair.expect_unchanged("after the late process wrote")?;
    scanner::expect_exact_counts("after adoption, a merge and a write").map(drop)
}

fn adopt_and_unmerge(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    unload_in_time()?;
    load_and_set()?;
    scanner::merge()?;
    expect_unmerged(&pair)
}

/// What an earlier module merged is merged by the module: `run=2` need not have met it before.
fn unmerge_at_once(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    unload_in_time()?;
    module::load("")?;
    expect_unmerged(&pair)
}

fn expect_unmerged(pair: &Pair) -> Result {
    scanner::unmerge()?;
    let zero = Counts {
        shared: 0,
        sharing: 0,
        zero: 0,
    };
    expect::eq(
        "counts after run=2",
        zero,
        scanner::expect_exact_counts("after run=2")?,
    )?;
    let in_a = pages::expect_not_merged((&pair.a, pair.in_a))?;
    let in_b = pages::expect_not_merged((&pair.b, pair.in_b))?;
    pages::expect_disjoint("frames of the two", &in_a, &in_b)?;
    pair.a.check(pair.in_a, IDS)?;
    pair.b.check(pair.in_b, IDS)
}

/// A frame that Alice and Bob share already must get no new sharers while domains are users.
fn mixed_domains(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let (alice, bob) = (lab.alice()?, lab.peer(User::Bob)?);
    let (in_alice, in_bob) = (alice.anon(PAGES, IDS)?, bob.anon(PAGES, IDS)?);
    scanner::merge()?;
    let mixed = pages::expect_merged(&[(&alice, in_alice), (&bob, in_bob)])?;
    unload_in_time()?;
    load_and_set()?;
    let others = [
        lab.alice()?,
        lab.alice()?,
        lab.peer(User::Bob)?,
        lab.peer(User::Bob)?,
    ];
    let mut spans = Vec::new();
    for peer in &others {
        spans.push((peer, peer.anon(PAGES, IDS)?));
    }
    scanner::scan(6)?;
    let of_alice = pages::expect_merged(&spans[..2])?;
    let of_bob = pages::expect_merged(&spans[2..])?;
    pages::expect_disjoint("Alice's new frames and the mixed ones", &of_alice, &mixed)?;
    pages::expect_disjoint("Bob's new frames and the mixed ones", &of_bob, &mixed)?;
    pages::expect_disjoint("Alice's and Bob's new frames", &of_alice, &of_bob)?;
    scanner::expect_exact_counts("with frames of two domains").map(drop)
}

fn mid_scan(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(512, IDS)?, b.anon(512, IDS)?);
    let mut rng = Rng::new(rng::seed());
    for _ in 0..12 {
        scanner::settle_knobs()?;
        scanner::start()?;
        // From before the first merge to after the last one.
        std::thread::sleep(Duration::from_millis(rng.below(120)));
        unload_in_time()?;
        a.check(in_a, IDS)?;
        b.check(in_b, IDS)?;
        module::load("")?;
    }
    scanner::settle_knobs()?;
    pages::expect_not_merged((&a, in_a))?;
    pages::expect_not_merged((&b, in_b)).map(drop)
}

/// Who has a file open must not be able to keep the module, nor to use it when it is gone.
fn open_files(_: &Lab) -> Result {
    let open = |name: &&str| File::open(knob::path(name)).context(|| name.to_string());
    let files = knob::READ_ONLY.iter().chain(&knob::WRITABLE).map(open);
    let mut files = files.collect::<Result<Vec<File>>>()?;
    unload_in_time()?;
    let mut text = String::new();
    for file in &mut files {
        let read = file.read_to_string(&mut text);
        expect::errno(
            "reading a file of a module that is gone",
            libc::ENODEV,
            read,
        )?;
    }
    module::load("")
}

/// Readers see the files, or that they are gone.
fn readers(_: &Lab) -> Result {
    let done = AtomicBool::new(false);
    let read_all = || {
        while !done.load(Ordering::Relaxed) {
            for name in knob::READ_ONLY.iter().chain(&knob::WRITABLE) {
                // Any error will do, as long as it returns.
                let _ = std::fs::read(knob::path(name));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(read_all), scope.spawn(read_all)];
        let cycled = (0..10).try_for_each(|_| {
            unload_in_time()?;
            load_and_set()?;
            scanner::start()?;
            std::thread::sleep(Duration::from_millis(30));
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| "a reader failed")?;
        }
        cycled
    })
}

/// The module leaves the frame in a work item, which walks all processes: zeroes that were only read make
/// that longer than unloading takes up to where it waits for the item. What would run on in a module that
/// is gone brings the guest down.
fn while_leaving(lab: &Lab) -> Result {
    const MADV_SOFT_OFFLINE: i32 = 101;
    const ZEROES: u64 = 50_000;
    knob::set("scope", "registered")?;
    let peers = (0..12)
        .map(|_| lab.peer(User::Root))
        .collect::<Result<Vec<Peer>>>()?;
    for peer in &peers {
        let zeroes = peer.map(Kind::Anon, ZEROES)?;
        peer.keep_small(zeroes)?;
        peer.fill(zeroes.page(0), Ids::each(1))?;
        peer.read_touch(zeroes.part(1, ZEROES - 1))?;
    }
    let (a, b) = (lab.peer(User::Root)?, lab.peer(User::Root)?);
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    for (peer, span) in [(&a, in_a), (&b, in_b)] {
        peer.advise(span, libc::MADV_MERGEABLE)?;
    }
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    for page in 0..4 {
        if a.advise(in_a.page(page), MADV_SOFT_OFFLINE).is_ok() {
            eprintln!("page {page} went offline at once");
        }
        // An item that has not begun by then is cancelled: the page may stay where it is.
        module::unload()?;
        load_and_set()?;
    }
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)
}

/// The file goes once the write to it has returned.
fn while_unmerging(lab: &Lab) -> Result {
    const MANY: u64 = 4000;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(MANY, IDS)?, b.anon(MANY, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(scanner::unmerge);
        std::thread::sleep(Duration::from_millis(5));
        let unloaded = unload_in_time();
        writer.join().map_err(|_| "the writer failed")??;
        unloaded
    })?;
    pages::expect_not_merged((&a, in_a))?;
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)
}

fn twenty_times(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    let workers = lab.alices(3)?;
    for (index, worker) in workers.iter().enumerate() {
        worker.churn(
            rng::seed().wrapping_add(index as u64),
            Duration::from_secs(20),
        )?;
    }
    let mut rng = Rng::new(rng::seed());
    for _ in 0..20 {
        unload_in_time()?;
        std::thread::sleep(Duration::from_millis(rng.below(100)));
        load_and_set()?;
        scanner::start()?;
        std::thread::sleep(Duration::from_millis(rng.below(500)));
    }
    for worker in &workers {
        worker
            .churned()
            .during(|| format!("KSM_V_SEED={}", rng::seed()))?;
    }
    drop(workers);
    scanner::stop()?;
    pair.a.check(pair.in_a, IDS)?;
    pair.b.check(pair.in_b, IDS)?;
    scanner::merge()?;
    pages::expect_merged(&[(&pair.a, pair.in_a), (&pair.b, pair.in_b)])?;
    scanner::expect_exact_counts("after twenty times").map(drop)
}
