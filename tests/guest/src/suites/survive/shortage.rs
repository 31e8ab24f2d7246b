// SPDX-License-Identifier: GPL-2.0

//! The index under memory pressure.
//!
//! `drop_caches` calls the shrinkers like a kernel without free memory.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    the_index_is_given_up_for_want_of_memory,
    what_merge_now_has_seen_is_given_up,
    the_index_is_given_up_while_it_is_filled,
];

const PAGES: u64 = 20_000;

fn ask_for_memory() -> Result {
    procfs::write("/proc/sys/vm/drop_caches", "2")
}

fn the_index_is_given_up_for_want_of_memory(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let shared = Ids::each(1_000_000);
    let (in_a, in_b) = (a.anon(64, shared)?, b.anon(64, shared)?);
    let alone = a.anon(PAGES, Ids::each(1))?;
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let [bytes, unshared] = [
        knob::number("index_bytes")?,
        knob::number("pages_unshared")?,
    ];
    ask_for_memory()?;
    let [bytes_left, left] = [
        knob::number("index_bytes")?,
        knob::number("pages_unshared")?,
    ];
    expect::within("remembered contents", 0..=unshared / 8, left)?;
    expect::within("index_bytes", 0..=bytes / 4, bytes_left)?;
    // Shared pages are still known; everything else is known again at the next sighting.
    knob::set("promote_after", 255)?;
    let c = lab.alice()?;
    let in_c = c.anon(64, shared)?;
    scanner::scan(2)?;
    pages::expect_frames("further pages of a shared content", (&c, in_c), &frames)?;
    let again = knob::number("pages_unshared")?;
    expect::that(again >= PAGES, || {
        format!("remembered contents: expected {PAGES} or more again, found {again}")
    })?;
    a.check(alone, Ids::each(1))?;
    scanner::expect_exact_counts("after the index was given up").map(drop)
}

/// `merge_now` fills the index while the scanner's thread is stopped; the index must shrink then, too.
fn what_merge_now_has_seen_is_given_up(lab: &Lab) -> Result {
    let a = lab.alice()?;
    a.anon(PAGES, Ids::each(1))?;
    let before = knob::number("index_bytes")?;
    scanner::merge_now(&a)?;
    let filled = knob::number("index_bytes")?;
    expect::that(filled >= before + 10 * PAGES, || {
        format!("index_bytes: expected {PAGES} contents more than {before}, found {filled}")
    })?;
    ask_for_memory()?;
    let left = knob::number("index_bytes")?;
    expect::within("index_bytes", 0..=filled / 4, left)
}

fn the_index_is_given_up_while_it_is_filled(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let ids = Ids::each(1);
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, Ids::each(500_000))?);
    scanner::start()?;
    for _ in 0..100 {
        ask_for_memory()?;
    }
    b.fill(in_b, ids)?;
    scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    scanner::stop()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, ids)?;
    b.check(in_b, ids)
}
