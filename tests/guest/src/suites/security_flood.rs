// SPDX-License-Identifier: GPL-2.0

//! What it costs the scanner when somebody tries to make contents collide in its index.
//!
//! Run in a guest that counts instructions (`scripts/vm --icount`): a nanosecond of the scanner's
//! run time is an instruction then, and nothing else is in it.

use guest::content::Ids;
use guest::expect;
use guest::knob;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::peer::Kind;
use guest::peer::Peer;
use guest::scanner;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;
use std::thread::sleep;
use std::time::Duration;

const TESTS: &[Test] = &[
    ("colliding_pages_cost_at_most_twice_as_much", colliding),
    ("cycles_cost_the_same_whatever_is_mapped", cycles),
];

/// The tests.
pub fn trials() -> Vec<Trial> {
    lab::trials("flood", TESTS)
}

/// 32 MiB: what else there is to scan in the guest is little beside that.
const PAGES: u64 = 8192;
/// Passes over which costs are averaged: in the first ones contents are new, then known.
const PASSES: u64 = 6;

/// Run time of the scanner for each page, in hundredths of a nanosecond, in passes over memory
/// that is filled so.
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

/// Pages that are like others have to be read as a whole, whoever made them; that they collide
/// on top of it must not make them dearer.
fn colliding(lab: &Lab) -> Result {
    let filled = |how: &'static str| {
        cost(lab, move |peer, span| {
            peer.ask(how, &[span.addr, span.pages]).map(drop)
        })
    };
    let unlike = cost(lab, |peer, span| peer.fill(span, Ids::each(10_000)))?;
    let alike = filled("fill_alike")?;
    let flood = filled("fill_colliding")?;
    println!(
        "flood: {:.2} ns a page for random pages, {:.2} ns for pages that are alike, {:.2} ns for \
         colliding ones, factor {:.3}",
        unlike as f64 / 100.0,
        alike as f64 / 100.0,
        flood as f64 / 100.0,
        flood as f64 / alike as f64
    );
    expect::within("cost of a colliding page", 0..=2 * alike, flood)
}

/// Cycles over which costs are averaged.
const CYCLES: u64 = 30;
/// Pages of each.
const RATE: u64 = 1000;

/// Run time of the scanner for a cycle while one process has what `make` makes, in nanoseconds.
fn cycle_cost(lab: &Lab, make: impl Fn(&Peer) -> Result) -> Result<u64> {
    let peer = lab.alice()?;
    make(&peer)?;
    knob::set("scan_rate", RATE)?;
    knob::set("sleep_ms", scanner::UNTIL_TOLD_MS)?;
    let before = knob::number("cpu_ns")?;
    for _ in 0..CYCLES {
        scanner::start()?;
        // Instructions are counted as nanoseconds: a cycle has none of so many.
        sleep(Duration::from_millis(100));
        scanner::stop()?;
    }
    Ok((knob::number("cpu_ns")? - before) / CYCLES)
}

/// A user can map much that is nothing to merge, for little: zeroes that were only read, tables with
/// hardly an entry, areas without a page.
fn cycles(lab: &Lab) -> Result {
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
        "flood: a cycle over pages {pages} ns, over zeroes {zeroes} ns, over tables with an entry {tables} \
         ns, over areas {areas} ns"
    );
    for (what, cost) in [("zeroes", zeroes), ("tables", tables), ("areas", areas)] {
        expect::within(
            format!("a cycle over {what}, in ns"),
            0..=pages * 5 / 4,
            cost,
        )?;
    }
    Ok(())
}
