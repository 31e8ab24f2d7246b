// SPDX-License-Identifier: GPL-2.0

//! How the engine scales: hosts of 4 GiB to 1 TiB, whose pages all differ and are scanned again and again.
//!
//! usage: scale [MOST_BITS]
//!
//! The pages are not in memory: the words that a sample takes are computed. So this shows what the engine's own
//! tables cost; the samples of real pages cost cache misses of their own. For 2^20, 2^22 … 2^MOST_BITS pages (28 if
//! not given) it prints a row of a table. A batch is what the module looks up while it holds the lock of the sets.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use engine::hash::mix;
use engine::Content;
use engine::Domain;
use engine::Frame;
use engine::Glance;
use engine::Glimpse;
use engine::HashKind;
use engine::KsmScanner;
use model::memory::Memory;

/// Pages of a batch, as `BATCH` in rust/scan/gather.rs.
const BATCH: usize = 512;
/// How many pages ahead the module prefetches an entry, as `AHEAD` in rust/scan/step.rs.
const AHEAD: usize = 8;
const FEWEST_BITS: u32 = 20;
const MOST_BITS: u32 = 28;
/// Of the later passes, the median counts.
const LATER_PASSES: usize = 3;

/// A page that differs from all others.
struct Page(u64);

impl Content for Page {
    fn word(&self, index: usize) -> u64 {
        mix(self.0 ^ ((index as u64) << 40))
    }
}

/// The times of a pass.
#[derive(Clone, Copy)]
struct Pass {
    /// Of all its batches.
    batches: Duration,
    /// Of the longest of them.
    longest: Duration,
    /// Of the end of the pass.
    end: Duration,
}

impl Pass {
    /// Scans `pages` pages.
    fn run(scanner: &mut KsmScanner<Memory>, pages: u64) -> Self {
        let keys = *scanner.keys();
        let salt = keys.salt(Domain(1));
        let (mut batches, mut longest) = (Duration::ZERO, Duration::ZERO);
        let mut glimpses: Vec<Glimpse> = Vec::with_capacity(BATCH);
        for first in (0..pages).step_by(BATCH) {
            glimpses.clear();
            glimpses
                .extend((first..first + BATCH as u64).map(|page| keys.glimpse(salt, &Page(page))));
            let start = Instant::now();
            look_up(scanner, first, &glimpses);
            let time = start.elapsed();
            batches += time;
            longest = longest.max(time);
        }
        let start = Instant::now();
        scanner.end_pass(|_| None);
        Pass {
            batches,
            longest,
            end: start.elapsed(),
        }
    }

    fn ns_per_page(&self, pages: u64) -> f64 {
        self.batches.as_nanos() as f64 / pages as f64
    }
}

fn look_up(scanner: &mut KsmScanner<Memory>, first: u64, glimpses: &[Glimpse]) {
    for (frame, (place, &glimpse)) in (first..).zip(glimpses.iter().enumerate()) {
        if let Some(&ahead) = glimpses.get(place + AHEAD) {
            scanner.expect(ahead);
        }
        let glance = scanner.glance(Frame(frame), glimpse);
        // Keys are hashes: a few pages have the key of another one.
        black_box(glance == Glance::Wait);
    }
}

fn row(pages: u64) -> String {
    let mut scanner = KsmScanner::with(Memory::default(), HashKind::Wide, 42);
    let first = Pass::run(&mut scanner, pages);
    let mut later: Vec<Pass> = (0..LATER_PASSES)
        .map(|_| Pass::run(&mut scanner, pages))
        .collect();
    later.sort_by_key(|pass| pass.batches);
    let middle = later[LATER_PASSES / 2];
    let bytes = scanner.index_bytes() as f64 / pages as f64;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!(
        "| {} GiB | {:.0} | {:.0} | {bytes:.1} | {:.1} | {:.2} | {:.0} |",
        pages >> 18,
        first.ns_per_page(pages),
        middle.ns_per_page(pages),
        ms(first.longest),
        ms(middle.longest),
        ms(middle.end),
    )
}

fn main() -> ExitCode {
    let most = match std::env::args().nth(1).map(|text| text.parse()) {
        None => MOST_BITS,
        Some(Ok(bits @ FEWEST_BITS..=MOST_BITS)) => bits,
        Some(_) => {
            eprintln!("usage: scale [MOST_BITS], from {FEWEST_BITS} to {MOST_BITS}");
            return ExitCode::from(2);
        }
    };
    println!(
        "| memory | first pass: ns per page | later passes: ns per page | bytes of tables per page | first pass: \
         longest batch, ms | later passes: longest batch, ms | end of a later pass, ms |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    for bits in (FEWEST_BITS..=most).step_by(2) {
        println!("{}", row(1 << bits));
    }
    ExitCode::SUCCESS
}
