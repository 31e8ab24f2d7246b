// SPDX-License-Identifier: GPL-2.0

//! Unloading the module: it fails while pages are merged, and works otherwise, whatever the module is
//! doing at the time.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::ksm_v::scanner::Counts;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::census;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::rng;
use guest::rng::Rng;
use guest::tests;
use guest::Context;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;

const TESTS: &[Test] = tests![
    rmmod_is_refused_while_pages_are_merged,
    rmmod_works_after_run_2,
    rmmod_works_once_the_merging_processes_have_exited,
    rmmod_works_once_the_merging_processes_have_exited_beside_the_scanner,
    rmmod_works_once_all_merged_pages_were_written_to,
    rmmod_is_refused_while_a_child_has_merged_pages,
    rmmod_works_while_zero_pages_are_merged,
    is_unloaded_in_the_middle_of_a_scan,
    is_unloaded_beside_the_first_merges,
    is_unloaded_while_its_files_are_open,
    is_unloaded_while_its_files_are_read,
    is_unloaded_while_it_unmerges,
    is_unloaded_while_a_frame_goes_offline,
    is_reloaded_fifty_times_with_merges_in_between,
    is_reloaded_twenty_times_under_load,
];

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    lab::trials("reload", TESTS)
}

const PAGES: u64 = 16;
/// Enough pages to keep a pass busy for a while.
const MANY: u64 = 512;
const IDS: Ids = Ids::each(100);
const NEW: Ids = Ids::each(900);

/// Two processes that share merged pages and nothing else: only these pages are registered, and only
/// registered pages are scanned.
struct Pair {
    a: Peer,
    in_a: Span,
    b: Peer,
    in_b: Span,
    frames: Vec<Frame>,
}

impl Pair {
    fn new(lab: &Lab) -> Result<Self> {
        knob::set("scope", "registered")?;
        let (a, b) = lab.pair()?;
        let (in_a, in_b) = (a.registered(PAGES, IDS)?, b.registered(PAGES, IDS)?);
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
        self.check()
    }

    fn expect_not_merged(&self) -> Result {
        let in_a = pages::expect_not_merged((&self.a, self.in_a))?;
        let in_b = pages::expect_not_merged((&self.b, self.in_b))?;
        pages::expect_disjoint("frames of the two processes", &in_a, &in_b)?;
        self.check()
    }

    fn check(&self) -> Result {
        self.a.check(self.in_a, IDS)?;
        self.b.check(self.in_b, IDS)
    }
}

/// Loads the module and sets the knobs as the tests need them, without unmerging anything.
fn load_and_set() -> Result {
    module::load("")?;
    knob::set("promote_after", 1)?;
    knob::set("scan_rate", 10_000)?;
    knob::set("sleep_ms", 0)
}

fn rmmod_is_refused_while_pages_are_merged(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    for _ in 0..3 {
        module::expect_in_use("while pages are merged and the scanner is stopped")?;
    }
    pair.expect_unchanged("after unloading was refused")?;
    scanner::start()?;
    for _ in 0..3 {
        module::expect_in_use("while pages are merged and the scanner runs")?;
        scanner::wait_passes(1)?;
    }
    scanner::stop()?;
    pair.expect_unchanged("after unloading was refused while the scanner ran")?;
    let late = lab.alice()?;
    let in_late = late.registered(PAGES, IDS)?;
    scanner::merge()?;
    pages::expect_frames("a late process", (&late, in_late), &pair.frames)?;
    pages::expect_mappings(&pair.frames, 3)?;
    late.fill(in_late, NEW)?;
    pair.expect_unchanged("after the late process wrote")?;
    scanner::expect_exact_counts("after unloading was refused").map(drop)
}

fn rmmod_works_after_run_2(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    module::expect_in_use("before run=2")?;
    scanner::unmerge()?;
    expect::eq("use count after run=2", 0, module::use_count()?)?;
    module::unload_as_it_is()?;
    pair.expect_not_merged()?;
    load_and_set()?;
    knob::set("scope", "registered")?;
    scanner::merge()?;
    pages::expect_merged(&[(&pair.a, pair.in_a), (&pair.b, pair.in_b)])?;
    pair.check()?;
    module::expect_in_use("after loading again and a merge")?;
    scanner::expect_exact_counts("after loading again and a merge").map(drop)
}

/// Unloads the module as soon as the kernel allows it: the module may need a while to notice that no
/// page is merged any more. Then loads it again.
fn unload_in_the_end(when: &str) -> Result {
    let mut last = Ok(());
    let unloaded = task::wait_until(task::PATIENCE, || {
        last = module::try_unload();
        last.is_ok()
    });
    expect::that(unloaded, || {
        let limit = task::PATIENCE;
        format!("unloading {when}: expected to work within {limit:?}, found {last:?}")
    })?;
    expect::that(!module::is_loaded(), || {
        format!("the module should be gone {when}")
    })?;
    module::load("")
}

fn rmmod_works_once_the_merging_processes_have_exited(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    pair.a.exit()?;
    module::expect_in_use("while one process has the pages")?;
    pair.b.check(pair.in_b, IDS)?;
    pair.b.exit()?;
    unload_in_the_end("once the processes have exited")
}

fn rmmod_works_once_the_merging_processes_have_exited_beside_the_scanner(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    scanner::start()?;
    module::expect_in_use("while the scanner runs")?;
    pair.a.exit()?;
    pair.b.exit()?;
    unload_in_the_end("once the processes have exited, while the scanner runs")
}

fn rmmod_works_once_all_merged_pages_were_written_to(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    pair.a.fill(pair.in_a, NEW)?;
    module::expect_in_use("while one process has not written")?;
    pair.b.check(pair.in_b, IDS)?;
    pair.b.fill(pair.in_b, Ids::each(2000))?;
    unload_in_the_end("once all merged pages were written to")?;
    pair.a.check(pair.in_a, NEW)?;
    pair.b.check(pair.in_b, Ids::each(2000))
}

/// A fork shares merged pages with a child without involving the module.
fn rmmod_is_refused_while_a_child_has_merged_pages(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    let child = pair.a.fork()?;
    pair.a.exit()?;
    pair.b.exit()?;
    for _ in 0..3 {
        scanner::scan(1)?;
        module::expect_in_use("while a child has merged pages")?;
        pages::expect_frames("a child", (&child, pair.in_a), &pair.frames)?;
    }
    child.check(pair.in_a, IDS)?;
    child.exit()?;
    unload_in_the_end("once the child has exited")
}

/// Merged pages of zeros do not need the module, but only the module can keep the kernel's count of
/// them right. So unloading turns them into ordinary zero pages, which are not counted.
fn rmmod_works_while_zero_pages_are_merged(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = peer.anon(PAGES, Ids::ZERO)?;
    scanner::merge_at_once(scanner::part(&peer, span))?;
    pages::expect_zero_page((&peer, span))?;
    let counts = scanner::expect_exact_counts("before unloading")?;
    expect::eq("pages_shared", 0, counts.shared)?;
    module::unload_as_it_is()?;
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

/// All pages differ, so none is merged.
fn is_unloaded_in_the_middle_of_a_scan(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let of_b = Ids::each(10_000);
    let (in_a, in_b) = (a.registered(MANY, IDS)?, b.registered(MANY, of_b)?);
    let mut rng = Rng::new(rng::seed());
    for _ in 0..12 {
        scanner::settle_knobs()?;
        knob::set("scope", "registered")?;
        scanner::start()?;
        std::thread::sleep(Duration::from_millis(rng.below(120)));
        module::unload_as_it_is()?;
        a.check(in_a, IDS)?;
        b.check(in_b, of_b)?;
        module::load("")?;
    }
    Ok(())
}

/// Unloading races with the first merge: either the module is unloaded and no page is merged, or it
/// stays loaded.
fn is_unloaded_beside_the_first_merges(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.registered(MANY, IDS)?, b.registered(MANY, IDS)?);
    let mut rng = Rng::new(rng::seed());
    let mut refusals = 0;
    for _ in 0..20 {
        scanner::settle_knobs()?;
        knob::set("scope", "registered")?;
        scanner::start()?;
        // The time of unloading varies from before the first merge to after the last one.
        std::thread::sleep(Duration::from_millis(rng.below(120)));
        match module::try_unload() {
            Err(error) if module::is_in_use(&error) => {
                refusals += 1;
                a.check(in_a, IDS)?;
                b.check(in_b, IDS)?;
                module::unload()?;
            }
            result => result.context(|| "unloading beside the first merges")?,
        }
        pages::expect_not_merged((&a, in_a))?;
        pages::expect_not_merged((&b, in_b))?;
        a.check(in_a, IDS)?;
        b.check(in_b, IDS)?;
        module::load("")?;
    }
    eprintln!("{refusals} of 20 attempts to unload were refused");
    Ok(())
}

/// An open file does not keep the module loaded, and cannot be read after the module is unloaded.
fn is_unloaded_while_its_files_are_open(_: &Lab) -> Result {
    let open = |name: &&str| File::open(knob::path(name)).context(|| name.to_string());
    let files = knob::READ_ONLY.iter().chain(&knob::WRITABLE).map(open);
    let mut files = files.collect::<Result<Vec<File>>>()?;
    module::unload()?;
    let mut text = String::new();
    for file in &mut files {
        let read = file.read_to_string(&mut text);
        expect::errno("reading a file of an unloaded module", libc::ENODEV, read)?;
    }
    module::load("")
}

/// Readers either read the files or find that they are gone.
fn is_unloaded_while_its_files_are_read(_: &Lab) -> Result {
    let done = AtomicBool::new(false);
    let read_all = || {
        while !done.load(Ordering::Relaxed) {
            for name in knob::READ_ONLY.iter().chain(&knob::WRITABLE) {
                // Any error is fine, as long as the call returns.
                let _ = std::fs::read(knob::path(name));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(read_all), scope.spawn(read_all)];
        let cycled = (0..10).try_for_each(|_| {
            module::unload()?;
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

/// A work item of the module empties the frame and walks all processes. Many read-only zero pages
/// make the walk longer than the time until unloading waits for the item. A work item that runs on in
/// an unloaded module crashes the guest.
fn is_unloaded_while_a_frame_goes_offline(lab: &Lab) -> Result {
    const MADV_SOFT_OFFLINE: i32 = 101;
    const ZEROES: u64 = 50_000;
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
    let (in_a, in_b) = (a.registered(PAGES, IDS)?, b.registered(PAGES, IDS)?);
    for page in 0..4 {
        knob::set("scope", "registered")?;
        // Movable pages need no work item.
        knob::set("movable", 0)?;
        scanner::merge()?;
        pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        if a.advise(in_a.page(page), MADV_SOFT_OFFLINE).is_ok() {
            eprintln!("page {page} went offline at once");
        }
        // An item that has not started yet is cancelled, and the page may then stay in its frame.
        module::unload()?;
        load_and_set()?;
    }
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)
}

/// The module is in use until nothing is merged; its file disappears after the write to it has
/// returned.
fn is_unloaded_while_it_unmerges(lab: &Lab) -> Result {
    const PLENTY: u64 = 4000;
    knob::set("scope", "registered")?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.registered(PLENTY, IDS)?, b.registered(PLENTY, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(scanner::unmerge);
        let unloaded = unload_in_the_end("while it unmerges");
        writer.join().map_err(|_| "the writer failed")??;
        unloaded
    })?;
    pages::expect_not_merged((&a, in_a))?;
    pages::expect_not_merged((&b, in_b))?;
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)
}

/// Each load merges the pages, and each unload finds them merged.
fn is_reloaded_fifty_times_with_merges_in_between(lab: &Lab) -> Result {
    let pair = Pair::new(lab)?;
    for _ in 0..50 {
        module::unload()?;
        pair.expect_not_merged()?;
        module::load("")?;
        knob::set("promote_after", 1)?;
        scanner::merge_at_once(scanner::part(&pair.a, pair.in_a))?;
        scanner::merge_at_once(scanner::part(&pair.b, pair.in_b))?;
        pages::expect_merged(&[(&pair.a, pair.in_a), (&pair.b, pair.in_b)])?;
        module::expect_in_use("after a merge")?;
    }
    pair.check()
}

fn is_reloaded_twenty_times_under_load(lab: &Lab) -> Result {
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
        module::unload()?;
        pair.expect_not_merged()?;
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
    pair.check()?;
    scanner::merge()?;
    pages::expect_merged(&[(&pair.a, pair.in_a), (&pair.b, pair.in_b)])?;
    scanner::expect_exact_counts("after twenty times").map(drop)
}
