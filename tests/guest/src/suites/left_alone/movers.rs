// SPDX-License-Identifier: GPL-2.0

//! Programs that move pages through a userfaultfd (`UFFDIO_MOVE`), like garbage collectors: the
//! kernel moves only exclusive pages, so the move of a merged page would fail.
//!
//! Reference: ioctl_userfaultfd(2), UFFDIO_MOVE(2const).

use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::kernel::probe;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::task;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    programs_that_move_pages,
    pages_merged_before_a_program_moves_pages,
    programs_that_no_probe_told_of,
    registered_memory_of_programs_that_move_pages,
    zeros_of_programs_that_move_pages,
    marks_of_moved_zeros_are_not_counted,
];

const PAGES: u64 = 256;
const IDS: Ids = Ids::each(100);
const PATIENCE: Duration = task::PATIENCE;

/// The destination to which a process is going to move pages.
fn target(peer: &Peer) -> Result<Span> {
    let target = peer.map(Kind::Anon, PAGES)?;
    peer.keep_small(target)?;
    peer.watch_moves(target)?;
    Ok(target)
}

fn expect_moved(peer: &Peer, from: Span, to: Span, ids: Ids) -> Result {
    let refused = peer.move_pages(from, to)?;
    expect::eq("pages that could not be moved", 0, refused)?;
    peer.check(to, ids)
}

fn programs_that_move_pages(lab: &Lab) -> Result {
    let (mover, a, b) = (lab.alice()?, lab.alice()?, lab.alice()?);
    let to = target(&mover)?;
    let spans = [&mover, &a, &b].map(|peer| peer.anon(PAGES, IDS));
    let [from, in_a, in_b] = spans;
    let from = from?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a?), (&b, in_b?)])?;
    pages::expect_not_merged((&mover, from))?;
    expect_moved(&mover, from, to, IDS)?;
    // The process may move more pages later, even if it watches nothing now.
    mover.unwatch()?;
    mover.fill(from, IDS)?;
    scanner::merge()?;
    pages::expect_not_merged((&mover, from)).map(drop)
}

/// Waits until pages are unmerged, which happens without a scan.
fn wait_until_apart(peer: &Peer, span: Span) -> Result {
    let start = Instant::now();
    while pages::expect_not_merged((peer, span)).is_err() {
        if start.elapsed() > PATIENCE {
            return pages::expect_not_merged((peer, span)).map(drop);
        }
    }
    Ok(())
}

fn pages_merged_before_a_program_moves_pages(lab: &Lab) -> Result {
    let (mover, other) = lab.pair()?;
    let (from, in_other) = (mover.anon(PAGES, IDS)?, other.anon(PAGES, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&mover, from), (&other, in_other)])?;
    let to = target(&mover)?;
    wait_until_apart(&mover, from)?;
    expect_moved(&mover, from, to, IDS)?;
    scanner::merge()?;
    scanner::expect_exact_counts("after pages were moved").map(drop)
}

/// Like a program that opened its userfaultfd before the module was loaded: no probe tells the module.
fn programs_that_no_probe_told_of(lab: &Lab) -> Result {
    let (mover, other) = lab.pair()?;
    let (from, in_other) = (mover.anon(PAGES, IDS)?, other.anon(PAGES, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&mover, from), (&other, in_other)])?;
    let no_probes = probe::NoProbes::new()?;
    let to = target(&mover)?;
    drop(no_probes);
    scanner::scan(2)?;
    expect_moved(&mover, from, to, IDS)
}

fn registered_memory_of_programs_that_move_pages(lab: &Lab) -> Result {
    let (mover, other) = lab.pair()?;
    target(&mover)?;
    let (in_mover, in_other) = (mover.anon(PAGES, IDS)?, other.anon(PAGES, IDS)?);
    mover.register(in_mover)?;
    scanner::merge()?;
    pages::expect_merged(&[(&mover, in_mover), (&other, in_other)]).map(drop)
}

/// The kernel counts merged pages of zeros and does not subtract those that are moved. So the module
/// merges none of this process, registered or not.
fn zeros_of_programs_that_move_pages(lab: &Lab) -> Result {
    let (mover, other) = lab.pair()?;
    let to = target(&mover)?;
    let (from, in_other) = (mover.anon(PAGES, Ids::ZERO)?, other.anon(PAGES, Ids::ZERO)?);
    mover.registered(PAGES, Ids::ZERO)?;
    scanner::merge()?;
    pages::expect_zero_page((&other, in_other))?;
    expect::eq(
        "merged zeros of a process that moves pages",
        0,
        zero_pages(&mover)?,
    )?;
    expect_moved(&mover, from, to, Ids::ZERO)
}

fn zero_pages(peer: &Peer) -> Result<u64> {
    procfs::number_in(&format!("/proc/{}/ksm_stat", peer.pid()), "ksm_zero_pages")
}

/// The kernel loses the marks of moved zero pages; the module removes the marks of the others.
fn marks_of_moved_zeros_are_not_counted(lab: &Lab) -> Result {
    let mover = lab.alice()?;
    let from = mover.anon(PAGES, Ids::ZERO)?;
    scanner::merge()?;
    pages::expect_zero_page((&mover, from))?;
    expect::that(zero_pages(&mover)? >= PAGES, || {
        "expected merged zeros, found too few"
    })?;
    let no_probes = probe::NoProbes::new()?;
    let to = target(&mover)?;
    drop(no_probes);
    let half = PAGES / 2;
    expect_moved(&mover, from.part(0, half), to.part(0, half), Ids::ZERO)?;
    scanner::scan(2)?;
    expect::eq(
        "merged zeros of a process that moves pages",
        0,
        zero_pages(&mover)?,
    )?;
    mover.check(from.part(half, half), Ids::ZERO)?;
    mover.fill(to.part(0, half), IDS)?;
    mover.fill(from.part(half, half), IDS)?;
    expect::eq("merged zeros after writes", 0, zero_pages(&mover)?)?;
    scanner::expect_exact_counts("after merged zeros were moved").map(drop)
}
