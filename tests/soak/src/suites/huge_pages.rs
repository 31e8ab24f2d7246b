// SPDX-License-Identifier: GPL-2.0

//! Transparent huge pages of all sizes: faults and khugepaged (which runs at full speed) make them;
//! they are split, mapped in part, and forked. Huge pages that cannot be merged stay huge.

use std::io;
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use guest::expect;
use guest::kernel::procfs;
use guest::memory::content::PAGE_SIZE;
use guest::process::peer::memory;
use guest::Context;
use guest::Result;
use guest::Span;

use crate::child;
use crate::region::Region;
use crate::shadow::Content;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod settings;

/// The suite.
pub const SUITE: Suite = Suite {
    lacks: || {
        (!Path::new(settings::DIRECTORY).exists()).then(|| "no transparent huge pages".to_owned())
    },
    direct: settings::change,
    ..Suite::new(
        "huge_pages",
        "huge pages made, split, mapped in part, collapsed by khugepaged; unique ones stay",
        work,
    )
};

/// 4 KiB pages of a huge page.
const HUGE: u64 = 512;
const HUGE_KB: u64 = HUGE * PAGE_SIZE / 1024;
/// Number of huge pages that a worker works on.
const COUNT: u64 = 2;

const MADV_COLLAPSE: i32 = 25;

const STEPS: &[Step<State>] = &[
    ("fill a page", 20, fill),
    ("write a word", 10, poke),
    ("verify a page", 30, verify),
    ("discard a part", 3, discard),
    ("protect a part", 3, protect),
    ("MADV_COLLAPSE", 3, collapse),
    ("fill a huge page", 1, fill_huge),
    ("fork, write and verify", 1, fork),
    ("look at a unique huge page", 4, |state, _| {
        state.expect_still_huge()
    }),
];

/// The state of a worker.
struct State {
    region: Region,
    /// A huge page without parts that equal other pages.
    unique: Region,
}

fn work(worker: &mut Worker) -> Result {
    let mut state = State {
        region: map_huge(COUNT).context(|| "mmap")?,
        unique: map_huge(1).context(|| "mmap")?,
    };
    for index in 0..HUGE {
        state.unique.fill(index, Content::unique(&mut worker.rng));
    }
    make_huge(state.unique.span())?;
    worker.work(&mut state, STEPS)?;
    state.expect_still_huge()?;
    worker.finish([&state.region, &state.unique])
}

/// Maps memory for huge pages, aligned to their size.
fn map_huge(count: u64) -> io::Result<Region> {
    let span = memory::map_anywhere((count + 1) * HUGE)?;
    let start = span.addr.next_multiple_of(HUGE * PAGE_SIZE);
    let span = Span::new(start, count * HUGE);
    advise(span, libc::MADV_HUGEPAGE)?;
    Ok(Region::zeros(span))
}

fn advise(span: Span, advice: i32) -> io::Result<()> {
    memory::advise(span, advice as u64)
}

/// Makes a huge page of small ones. Others may hold a reference to one of them at the moment, and
/// the scanner may have split the huge page while parts of it were full of zeroes.
fn make_huge(span: Span) -> Result {
    const ATTEMPTS: u32 = 100;
    for _ in 0..ATTEMPTS {
        match advise(span, MADV_COLLAPSE) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => result.context(|| "MADV_COLLAPSE")?,
        }
        thread::sleep(Duration::from_millis(20));
        if huge_kb(span)? == HUGE_KB {
            return Ok(());
        }
    }
    Err(format!("no huge page in {ATTEMPTS} attempts").into())
}

/// The amount of huge pages in this memory.
fn huge_kb(span: Span) -> Result<u64> {
    procfs::smaps(process::id() as i32, span, "AnonHugePages")
}

impl State {
    fn expect_still_huge(&self) -> Result {
        let found = huge_kb(self.unique.span())?;
        expect::eq("a huge page with no part to merge, in kB", HUGE_KB, found)
    }
}

fn fill(state: &mut State, worker: &mut Worker) -> Result {
    steps::fill(&mut state.region, worker)
}

fn poke(state: &mut State, worker: &mut Worker) -> Result {
    steps::poke(&mut state.region, worker)
}

fn verify(state: &mut State, worker: &mut Worker) -> Result {
    steps::verify_some(&mut state.region, worker)?;
    state.unique.verify(worker.rng.below(HUGE), &worker.tally)
}

/// Discards a part of a huge page; the rest stays mapped.
fn discard(state: &mut State, worker: &mut Worker) -> Result {
    let (first, count) = state.region.some(&mut worker.rng, HUGE / 4);
    let span = state.region.span().part(first, count);
    advise(span, libc::MADV_DONTNEED).context(|| "MADV_DONTNEED")?;
    state.region.expect_discarded(first, count);
    state.region.verify(first, &worker.tally)
}

/// Splits the mapping, but not the page, and joins it again.
fn protect(state: &mut State, worker: &mut Worker) -> Result {
    let (first, count) = state.region.some(&mut worker.rng, HUGE / 2);
    let span = state.region.span().part(first, count);
    for protection in [libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE] {
        memory::protect(span, protection as u64).context(|| "mprotect")?;
        state.region.verify(first, &worker.tally)?;
    }
    Ok(())
}

/// The kernel may refuse: it does not collapse some ranges with merged pages.
fn collapse(state: &mut State, worker: &mut Worker) -> Result {
    let first = worker.rng.below(COUNT) * HUGE;
    let collapsed = advise(state.region.span().part(first, HUGE), MADV_COLLAPSE);
    let what = if collapsed.is_ok() {
        "ranges collapsed"
    } else {
        "ranges not collapsed"
    };
    worker.tally.add(what, 1);
    let index = first + worker.rng.below(HUGE);
    state.region.verify(index, &worker.tally)
}

/// Fills a huge page with contents, a few of which are widespread.
fn fill_huge(state: &mut State, worker: &mut Worker) -> Result {
    let first = worker.rng.below(COUNT) * HUGE;
    let span = state.region.span().part(first, HUGE);
    advise(span, libc::MADV_DONTNEED).context(|| "MADV_DONTNEED")?;
    for index in first..first + HUGE {
        let content = match worker.rng.below(16) {
            0 => Content::letter(&mut worker.rng),
            _ => Content::unique(&mut worker.rng),
        };
        state.region.fill(index, content);
    }
    Ok(())
}

fn fork(state: &mut State, worker: &mut Worker) -> Result {
    let mut own = worker.fork();
    let mut region = state.region.clone();
    let child = child::fork(move || {
        for _ in 0..8 {
            let index = own.rng.below(region.len());
            region.fill(index, Content::any(&mut own.rng));
        }
        let (first, count) = region.some(&mut own.rng, 64);
        region.verify_some(first, count, &own.tally)
    })?;
    let index = worker.rng.below(state.region.len());
    state.region.fill(index, Content::any(&mut worker.rng));
    child.wait()?;
    state.region.verify(index, &worker.tally)
}
