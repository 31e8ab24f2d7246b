// SPDX-License-Identifier: GPL-2.0

//! The scanner's cost when an attacker makes contents collide in its index.
//!
//! These tests run in a guest that counts instructions (`scripts/vm --icount`): each nanosecond of
//! the scanner's run time then stands for one instruction, and nothing else adds to it.

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::WORDS;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::tests;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;
use std::thread::sleep;
use std::time::Duration;

const TESTS: &[Test] = tests![
    colliding_pages_cost_at_most_twice_as_much,
    cycles_cost_the_same_whatever_is_mapped,
];

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    lab::trials("flood", TESTS)
}

/// 32 MiB, far more than the other memory that the guest scans.
const PAGES: u64 = 8192;
/// The number of passes over which costs are averaged: contents are new in the first passes, then
/// known.
const PASSES: u64 = 6;
/// The last word of a page.
const LAST_WORD: u64 = WORDS as u64 - 1;

/// The scanner's run time per page, in hundredths of a nanosecond, for memory filled by `fill`.
fn cost(lab: &Lab, fill: impl Fn(&Peer, Span) -> Result) -> Result<u64> {
    let peer = lab.alice()?;
    let span = peer.map(Kind::Anon, PAGES)?;
    peer.keep_small(span)?;
    fill(&peer, span)?;
    let before = (knob::number("cpu_ns")?, knob::number("pages_scanned")?);
    scanner::scan(PASSES)?;
    let after = (knob::number("cpu_ns")?, knob::number("pages_scanned")?);
    let (time, pages) = (after.0 - before.0, after.1 - before.1);
    expect::that(pages >= PAGES * PASSES, || {
        format!("pages scanned: expected {PASSES} times {PAGES} or more, found {pages}")
    })?;
    Ok(time * 100 / pages)
}

/// Similar pages must be compared as a whole, also those of an attacker; hash collisions must not increase
/// this cost any further.
fn colliding_pages_cost_at_most_twice_as_much(lab: &Lab) -> Result {
    let filled = |how: &'static str, more: &'static [u64]| {
        cost(lab, move |peer, span| {
            let arguments = [&[span.addr, span.pages], more].concat();
            peer.ask(how, &arguments).map(drop)
        })
    };
    let unlike = cost(lab, |peer, span| peer.fill(span, Ids::each(10_000)))?;
    // A sample that takes the word in which pages differ tells them apart at little cost. It takes one
    // pair of words in the last quarter of the page, so it can't take both of these.
    let alike = filled("fill_alike", &[LAST_WORD])?.max(filled("fill_alike", &[LAST_WORD - 2])?);
    let flood = filled("fill_colliding", &[])?;
    println!(
        "flood: {:.2} ns a page for random pages, {:.2} ns for similar pages, {:.2} ns for \
         colliding ones, factor {:.3}",
        unlike as f64 / 100.0,
        alike as f64 / 100.0,
        flood as f64 / 100.0,
        flood as f64 / alike as f64
    );
    expect::within("cost of a colliding page", 0..=2 * alike, flood)
}

/// The number of cycles over which costs are averaged.
const CYCLES: u64 = 30;
/// The number of pages in each cycle.
const RATE: u64 = 1000;

/// The scanner's run time per cycle in nanoseconds, while one process has the memory that `make`
/// creates.
fn cycle_cost(lab: &Lab, make: impl Fn(&Peer) -> Result) -> Result<u64> {
    let peer = lab.alice()?;
    make(&peer)?;
    knob::set("scan_rate", RATE)?;
    knob::set("sleep_ms", scanner::UNTIL_TOLD_MS)?;
    let before = knob::number("cpu_ns")?;
    for _ in 0..CYCLES {
        scanner::start()?;
        // The guest counts an instruction as a nanosecond, and no cycle has this many instructions.
        sleep(Duration::from_millis(100));
        scanner::stop()?;
    }
    Ok((knob::number("cpu_ns")? - before) / CYCLES)
}

/// A user can cheaply map much memory that contains nothing to merge: zero pages that were only read,
/// page tables with hardly any entry, VMAs without pages.
fn cycles_cost_the_same_whatever_is_mapped(lab: &Lab) -> Result {
    let pages = cycle_cost(lab, |peer| {
        let span = peer.map(Kind::Anon, 4 * PAGES)?;
        peer.keep_small(span)?;
        peer.fill(span, Ids::each(10_000))
    })?;
    let zeroes = cycle_cost(lab, |peer| {
        let span = peer.map(Kind::Anon, 8 * PAGES)?;
        peer.keep_small(span)?;
        peer.fill(span.page(0), Ids::each(1))?;
        peer.read_touch(span.part(1, span.pages - 1))
    })?;
    let tables = cycle_cost(lab, |peer| {
        let span = peer.map(Kind::Anon, 16 * PAGES)?;
        peer.keep_small(span)?;
        peer.fill(span.page(0), Ids::each(1))?;
        for table in 1..span.pages / 512 {
            peer.read_touch(span.page(table * 512))?;
        }
        Ok(())
    })?;
    let areas = cycle_cost(lab, |peer| {
        let span = peer.map(Kind::Anon, PAGES)?;
        for page in (0..span.pages).step_by(2) {
            peer.protect(span.page(page), libc::PROT_READ)?;
        }
        Ok(())
    })?;
    println!(
        "flood: a cycle over pages {pages} ns, over zeroes {zeroes} ns, over page tables with one entry \
         {tables} ns, over VMAs {areas} ns"
    );
    for (what, cost) in [("zeroes", zeroes), ("tables", tables), ("VMAs", areas)] {
        expect::within(
            format!("a cycle over {what}, in ns"),
            0..=pages * 5 / 4,
            cost,
        )?;
    }
    Ok(())
}
