// SPDX-License-Identifier: GPL-2.0

//! Memory whose missing pages user space provides, as a virtual machine monitor does when it restores a snapshot:
//! its present pages are merged, and a merge leaves no page missing.
//!
//! Reference: userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst.

use guest::expect;
use guest::expect::FailureContext;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::userfaultfd::MISSING;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    memory_watched_for_missing_pages_is_merged,
    only_missing_pages_are_asked_for,
    only_missing_pages_of_zeros_are_asked_for,
    snapshots_are_merged_as_they_are_restored,
];

const PAGES: u64 = 64;
const IDS: Ids = Ids::each(100);

fn memory_watched_for_missing_pages_is_merged(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    a.watch(in_a, MISSING)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    expect::eq(
        "pages for which nothing can be copied",
        PAGES,
        a.present(in_a)?,
    )?;
    // Nobody resolves faults, so a page that is taken for a missing one is waited for until the test fails.
    let written = in_a.part(0, 8);
    a.fill(written, Ids::each(900))?;
    pages::expect_not_merged((&a, written))?;
    let child = a.fork()?;
    for peer in [&a, &child] {
        peer.check(written, Ids::each(900))?;
        peer.check(in_a.part(8, PAGES - 8), Ids::each(108))?;
    }
    scanner::unmerge()?;
    a.check(in_a.part(8, PAGES - 8), Ids::each(108))?;
    scanner::expect_exact_counts("after the pages were unmerged").map(drop)
}

fn only_missing_pages_are_asked_for(lab: &Lab) -> Result {
    expect_asked_for_missing(lab, IDS)
}

fn only_missing_pages_of_zeros_are_asked_for(lab: &Lab) -> Result {
    expect_asked_for_missing(lab, Ids::ZERO)
}

fn expect_asked_for_missing(lab: &Lab, ids: Ids) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (restored(&a, PAGES, ids)?, b.anon(PAGES, ids)?);
    expect_restored(&a, PAGES)?;
    scanner::merge()?;
    if ids == Ids::ZERO {
        pages::expect_zero_page((&a, in_a))?;
    } else {
        pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    }
    a.check(in_a, ids)?;
    expect_restored(&a, PAGES).during(|| "after the pages were merged")?;
    a.advise(in_a.part(0, 8), libc::MADV_DONTNEED)?;
    scanner::merge()?;
    expect_restored(&a, PAGES).during(|| "after 8 pages were given up")?;
    a.check(in_a, ids)?;
    expect_restored(&a, PAGES + 8).during(|| "after 8 pages were read again")?;
    scanner::unmerge()?;
    a.fill(in_a, Ids::each(500))?;
    a.check(in_a, Ids::each(500))?;
    expect_restored(&a, PAGES + 8).during(|| "after the pages were unmerged and written")?;
    a.end_restore()
}

/// Memory of a process, all of which was missing and has been filled by its userfaultfd. khugepaged leaves it alone:
/// it would move the pages to other frames, where the module does not know them yet.
fn restored(peer: &Peer, pages: u64, ids: Ids) -> Result<Span> {
    let span = peer.map(Kind::Anon, pages)?;
    peer.keep_small(span)?;
    peer.restore(span, ids)?;
    peer.check(span, ids)?;
    Ok(span)
}

fn expect_restored(peer: &Peer, pages: u64) -> Result {
    expect::eq("pages that were restored", pages, peer.restored()?)
}

/// Of the pages of each clone of a snapshot, nine of ten are as in the others. A clone has its share of the saving as
/// soon as `merge_now` returns, without a pass.
fn snapshots_are_merged_as_they_are_restored(lab: &Lab) -> Result {
    const CLONES: u64 = 20;
    const PAGES: u64 = 1000;
    const EQUAL: u64 = 900;
    scanner::stop()?;
    let before = knob::number("pages_sharing")?;
    let mut clones = Vec::new();
    for no in 0..CLONES {
        let peer = lab.alice()?;
        let span = restored(&peer, PAGES, Ids::each(1000))?;
        let own = Ids::each(100_000 * (no + 1));
        peer.fill(span.part(EQUAL, PAGES - EQUAL), own)?;
        scanner::merge_now(&peer)?;
        let perfect = no * EQUAL;
        let saved = knob::number("pages_sharing")? - before;
        expect::that(saved * 10 >= perfect * 9, || {
            format!("pages saved by {no} clones: expected 90% of {perfect}, found {saved}")
        })?;
        clones.push((peer, span, own));
    }
    for (peer, span, own) in &clones {
        peer.check(span.part(0, EQUAL), Ids::each(1000))?;
        peer.check(span.part(EQUAL, PAGES - EQUAL), *own)?;
        expect_restored(peer, PAGES)?;
    }
    let all: Vec<_> = clones
        .iter()
        .map(|(peer, span, _)| (peer, span.part(0, EQUAL)))
        .collect();
    pages::expect_merged(&all).map(drop)
}
