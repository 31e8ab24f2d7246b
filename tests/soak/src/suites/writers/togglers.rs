// SPDX-License-Identifier: GPL-2.0

//! Threads that write to the same pages, each to its own words.
//!
//! A page has a widespread content while all its words have their initial values. A word is changed
//! and restored in quick succession, so that the scanner often finds the page equal to others, and
//! different a moment later. Each change is an atomic operation that returns the old value, so a
//! lost change is detected.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use guest::memory::content::WORDS;
use guest::rng::Rng;
use guest::Context;
use guest::Result;

use crate::clock;
use crate::region::Region;
use crate::shadow::Content;
use crate::tally;
use crate::worker::Worker;

/// Number of threads besides the worker's first.
const THREADS: usize = 3;
/// Number of pages that they share.
const PAGES: u64 = 24;
/// Most changes of a word before another one is chosen.
const ROUNDS: u64 = 1000;

/// Runs the threads beside `body`, until the worker's time is up; returns their pages.
pub fn work_beside(
    worker: &mut Worker,
    body: impl FnOnce(&mut Worker) -> Result,
) -> Result<Region> {
    let mut region = Region::map(PAGES).context(|| "mmap")?;
    for index in 0..PAGES {
        region.fill(index, Content::Letter(1 + index % 4));
    }
    let togglers: Vec<Toggler> = (0..THREADS)
        .map(|index| Toggler::new(index, &region, worker))
        .collect();
    thread::scope(|scope| {
        let threads: Vec<_> = togglers
            .into_iter()
            .map(|mut toggler| scope.spawn(move || toggler.run()))
            .collect();
        let result = body(worker);
        let join = |thread: thread::ScopedJoinHandle<Result>| {
            thread.join().map_err(|_| "a thread panicked")?
        };
        threads.into_iter().try_for_each(join)?;
        result
    })?;
    Ok(region)
}

struct Toggler<'a> {
    index: usize,
    region: &'a Region,
    rng: Rng,
    tally: tally::Tally,
    deadline: std::time::Duration,
}

impl<'a> Toggler<'a> {
    fn new(index: usize, region: &'a Region, worker: &mut Worker) -> Self {
        Toggler {
            index,
            region,
            rng: Rng::new(worker.rng.number()),
            tally: worker.tally,
            deadline: clock::now() + worker.time_left(),
        }
    }

    fn run(&mut self) -> Result {
        while clock::now() < self.deadline {
            let (first, count) = self.region.some(&mut self.rng, PAGES);
            let word = self.own_word();
            let rounds = 1 + self.rng.below(ROUNDS);
            for _ in 0..rounds {
                self.toggle(first..first + count, word)?;
            }
            self.tally.count("change shared words and restore them");
            self.tally.add(tally::BYTES_VERIFIED, rounds * count * 16);
            // While no thread changes them, the pages can be merged.
            thread::yield_now();
        }
        Ok(())
    }

    /// A random word of this thread; threads own words in turn.
    fn own_word(&mut self) -> usize {
        let words = (WORDS / THREADS) as u64;
        self.rng.below(words) as usize * THREADS + self.index
    }

    /// Adds to a word of each page, then subtracts from each: the scanner may read the pages while
    /// they equal others, and replace them when they no longer do.
    fn toggle(&self, pages: Range<u64>, word: usize) -> Result {
        for page in pages.clone() {
            let before = self.place(page, word).fetch_add(1, Relaxed);
            self.expect(page, word, self.base(page, word), before)?;
        }
        for page in pages {
            let before = self.place(page, word).fetch_sub(1, Relaxed);
            self.expect(page, word, self.base(page, word).wrapping_add(1), before)?;
        }
        Ok(())
    }

    /// The initial value of a word.
    fn base(&self, page: u64, word: usize) -> u64 {
        self.region.page(page).word(word)
    }

    fn place(&self, page: u64, word: usize) -> &AtomicU64 {
        // SAFETY: An aligned word of memory that stays mapped; all threads access it as an atomic.
        unsafe { AtomicU64::from_ptr(self.region.place(page, word) as *mut u64) }
    }

    fn expect(&self, page: u64, word: usize, expected: u64, found: u64) -> Result {
        if found == expected {
            return Ok(());
        }
        self.tally.add(tally::MISMATCHES, 1);
        Err(format!(
            "thread {}, page {page}, word {word}: expected {expected:#x} as this thread left it, \
             found {found:#x}",
            self.index
        )
        .into())
    }
}
