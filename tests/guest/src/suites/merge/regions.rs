// SPDX-License-Identifier: GPL-2.0

//! Regions that are visited less often: which ones, how much work this saves, and what it may delay.

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    barren_regions_are_visited_less_often,
    new_pages_in_barren_regions_are_merged_at_once,
    pages_of_barren_regions_are_known_between_the_visits,
    rewritten_barren_regions_are_merged_in_time,
    thrashing_regions_are_visited_less_often,
    max_interval_takes_effect_at_once,
    merge_now_looks_at_barren_regions,
    merging_again_brings_frequent_visits,
    what_is_merged_counts_as_seen_while_it_is_mapped,
    broken_pages_among_merged_ones_are_found_at_once,
];

/// Four page tables, or parts of five.
const PAGES: u64 = 2048;
/// The contents of the second process of [`barren_pair`].
const IN_B: Ids = Ids::each(100_000);
/// The largest number of passes between two visits.
const LONGEST: u64 = 8;
/// The number of passes after which intervals no longer change if nothing is merged: 0, 1, 2, 4, 8.
const SETTLED: u64 = 20;

/// Makes the scanner scan only registered memory, one pass at a time, with the longest intervals.
fn prepare() -> Result {
    knob::set("scope", "registered")?;
    knob::set("max_interval", LONGEST)?;
    knob::set("sleep_ms", scanner::UNTIL_TOLD_MS)
}

/// Maps small pages with these contents.
fn small(peer: &Peer, pages: u64, ids: Ids) -> Result<Span> {
    let span = peer.map(Kind::Anon, pages)?;
    peer.keep_small(span)?;
    peer.fill(span, ids)?;
    Ok(span)
}

fn registered_pair(lab: &Lab) -> Result<(Peer, Peer)> {
    let (a, b) = lab.pair()?;
    a.register_all()?;
    b.register_all()?;
    Ok((a, b))
}

/// Two processes whose pages all differ and are not due for a visit for a while.
fn barren_pair(lab: &Lab) -> Result<[(Peer, Span); 2]> {
    prepare()?;
    let (a, b) = registered_pair(lab)?;
    let in_a = small(&a, PAGES, Ids::each(1))?;
    let in_b = small(&b, PAGES, IN_B)?;
    scan_to_the_gap()?;
    Ok([(a, in_a), (b, in_b)])
}

/// The number of scanned pages and of skipped pages per pass, averaged over `passes`.
fn effort(passes: u64) -> Result<(u64, u64)> {
    let read = || -> Result<[u64; 3]> {
        Ok([
            knob::number("pages_scanned")?,
            knob::number("pages_skipped")?,
            knob::number("full_scans")?,
        ])
    };
    let before = read()?;
    scanner::passes(passes)?;
    let after = read()?;
    let [scanned, skipped, done] = [0, 1, 2].map(|index| after[index] - before[index]);
    expect::eq("passes", passes, done)?;
    Ok((scanned / done, skipped / done))
}

/// Scans up to a pass after which no barren region is due for a while, and stops there.
fn scan_to_the_gap() -> Result {
    scanner::passes(SETTLED)?;
    while knob::number("full_scans")? % LONGEST != 1 {
        scanner::passes(1)?;
    }
    Ok(())
}

fn barren_regions_are_visited_less_often(lab: &Lab) -> Result {
    prepare()?;
    let a = lab.alice()?;
    a.register_all()?;
    let span = small(&a, PAGES, Ids::each(1))?;
    scanner::passes(SETTLED)?;
    let (scanned, skipped) = effort(2 * LONGEST)?;
    // There were two or three visits in this number of passes.
    expect::within("pages scanned in a pass", PAGES / 16..=PAGES / 4, scanned)?;
    expect::that(scanned + skipped >= PAGES, || {
        format!("pages of a pass: expected {PAGES}, found {scanned} scanned and {skipped} skipped")
    })?;
    knob::set("max_interval", 1)?;
    let (scanned, skipped) = effort(4)?;
    expect::eq("pages skipped in a pass", 0, skipped)?;
    expect::that(scanned >= PAGES, || {
        format!("pages scanned in a pass: expected {PAGES}, found {scanned}")
    })?;
    a.check(span, Ids::each(1))
}

/// New pages make a region due at once, even if its next visit is far away.
fn new_pages_in_barren_regions_are_merged_at_once(lab: &Lab) -> Result {
    prepare()?;
    let (a, b) = registered_pair(lab)?;
    let span = a.map(Kind::Anon, PAGES)?;
    a.keep_small(span)?;
    // Each page table has some pages from the start.
    let old: Vec<Span> = (0..PAGES / 64).map(|n| span.part(64 * n, 32)).collect();
    for (part, first) in old.iter().zip((1..).step_by(32)) {
        a.fill(*part, Ids::each(first))?;
    }
    let wanted = Ids::each(1_000_000);
    let in_b = small(&b, 32, wanted)?;
    scan_to_the_gap()?;
    let new = span.part(32, 32);
    a.fill(new, wanted)?;
    scanner::passes(2)?;
    pages::expect_merged(&[(&a, new), (&b, in_b)]).map(drop)
}

/// A new page is merged with a page of a region that is not due.
fn pages_of_barren_regions_are_known_between_the_visits(lab: &Lab) -> Result {
    prepare()?;
    let (a, b) = registered_pair(lab)?;
    let ids = Ids::each(1);
    let in_a = small(&a, PAGES, ids)?;
    scan_to_the_gap()?;
    let in_b = small(&b, PAGES, ids)?;
    scanner::passes(2)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

/// Nothing notices a write to an existing page before the next visit.
fn rewritten_barren_regions_are_merged_in_time(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = barren_pair(lab)?;
    let equal = Ids::each(1_000_000);
    a.fill(in_a, equal)?;
    b.fill(in_b, equal)?;
    scanner::passes(2)?;
    pages::expect_not_merged((&a, in_a))?;
    // Enough passes for the next visit, and for the passes that the merges make due.
    scanner::passes(LONGEST + 2)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, equal)?;
    b.check(in_b, equal)
}

/// Counts the merges that are broken when two processes write before each pass.
fn broken_merges(a: (&Peer, Span), b: (&Peer, Span)) -> Result<u64> {
    let mut broken = 0;
    for round in 1..=16 {
        let ids = Ids::each(round * 100_000);
        for (peer, span) in [a, b] {
            peer.fill(span, ids)?;
        }
        scanner::passes(1)?;
        for frame in a.0.frames(a.1)? {
            broken += u64::from(frame.flags()?.ksm());
        }
    }
    Ok(broken)
}

fn thrashing_regions_are_visited_less_often(lab: &Lab) -> Result {
    const PAGES: u64 = 256;
    prepare()?;
    let (a, b) = registered_pair(lab)?;
    let in_a = small(&a, PAGES, Ids::each(1))?;
    let in_b = small(&b, PAGES, Ids::each(1))?;
    let mut broken = [0; 2];
    for (interval, broken) in [1, LONGEST].into_iter().zip(&mut broken) {
        knob::set("max_interval", interval)?;
        *broken = broken_merges((&a, in_a), (&b, in_b))?;
    }
    let [always, seldom] = broken;
    expect::that(seldom <= always / 2 && always >= 8 * PAGES, || {
        format!("broken merges: expected half as many with intervals, found {always} and {seldom}")
    })
}

fn max_interval_takes_effect_at_once(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = barren_pair(lab)?;
    a.fill(in_a, IN_B)?;
    knob::set("max_interval", 1)?;
    scanner::passes(2)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

fn merge_now_looks_at_barren_regions(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = barren_pair(lab)?;
    a.fill(in_a, IN_B)?;
    scanner::merge_now(&a)?;
    // The kernel may have held a page of `b` for a moment. The index has the page of `a` in its place then, and only
    // a visit of `b`, which is barren, too, meets it as a twin.
    scanner::merge_now(&b)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

/// A region in which something is merged again is visited in the next pass.
fn merging_again_brings_frequent_visits(lab: &Lab) -> Result {
    prepare()?;
    let (a, b) = registered_pair(lab)?;
    let in_a = small(&a, 64, Ids::each(1))?;
    scan_to_the_gap()?;
    // Makes a visit due; the visit merges half of the pages.
    let in_b = small(&b, 64, Ids::each(1))?;
    scanner::passes(2)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.fill(in_a, Ids::each(500))?;
    b.fill(in_b, Ids::each(500))?;
    scanner::passes(2)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

/// Two processes that share all pages of a span; several passes have found them merged.
fn settled_pair(lab: &Lab) -> Result<[(Peer, Span); 2]> {
    prepare()?;
    knob::set("max_interval", 1)?;
    let (a, b) = registered_pair(lab)?;
    let in_a = small(&a, PAGES, Ids::each(1))?;
    let in_b = small(&b, PAGES, Ids::each(1))?;
    scanner::passes(6)?;
    Ok([(a, in_a), (b, in_b)])
}

fn what_is_merged_counts_as_seen_while_it_is_mapped(lab: &Lab) -> Result {
    let _pair = settled_pair(lab)?;
    let (scanned, skipped) = effort(4)?;
    expect::eq("pages skipped in a pass", 0, skipped)?;
    expect::that(scanned >= 2 * PAGES, || {
        format!(
            "pages seen in a pass: expected {}, found {scanned}",
            2 * PAGES
        )
    })
}

fn broken_pages_among_merged_ones_are_found_at_once(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = settled_pair(lab)?;
    // Write to one page of each page table, then restore its content.
    let broken: Vec<Span> = (0..PAGES / 512)
        .map(|n| in_a.part(512 * n + 100, 1))
        .collect();
    for (part, id) in broken.iter().zip((101..).step_by(512)) {
        a.fill(*part, Ids::each(900_000))?;
        a.fill(*part, Ids::each(id))?;
        pages::expect_not_merged((&a, *part))?;
    }
    scanner::passes(1)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, Ids::each(1))?;
    b.check(in_b, Ids::each(1))
}
