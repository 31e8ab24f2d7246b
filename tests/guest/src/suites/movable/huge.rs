// SPDX-License-Identifier: GPL-2.0

//! Huge pages that the kernel collapses from small pages, some of them shared. The kernel decides
//! whether to collapse; the contents must stay.

use guest::expect;
use guest::kernel::khugepaged;
use guest::kernel::khugepaged::AtWork;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::HUGE;
use guest::process::peer::Peer;
use guest::tests;
use guest::Result;
use guest::Span;

use super::group::Group;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    khugepaged_beside_shared_pages,
    khugepaged_rests_when_a_test_begins,
    collapsing_some_shared_pages,
    collapsing_shared_pages,
    pages_that_are_collapsed_again_and_again_are_merged_less_often,
];

/// The advice number of `MADV_COLLAPSE`.
const MADV_COLLAPSE: i32 = 25;

/// Processes that share the first `shared` pages of a range that can become a huge page.
fn group(lab: &Lab, shared: u64) -> Result<Group> {
    let group = Group::pair(lab, HUGE)?;
    for sharer in &group.sharers {
        // Pages with the same contents that are not shared.
        let own = sharer.parts[0].part(shared, HUGE - shared);
        let ids = Ids::each(IDS.of(shared));
        sharer.peer.fill(own, ids)?;
        sharer.peer.advise(sharer.parts[0], libc::MADV_HUGEPAGE)?;
    }
    Ok(group)
}

fn expect_sound(group: &Group, when: &str) -> Result {
    group.check(when)?;
    scanner::expect_exact_counts(when).map(drop)
}

fn khugepaged_beside_shared_pages(lab: &Lab) -> Result {
    let khugepaged = AtWork::start()?;
    for shared in [64, 400] {
        let group = group(lab, shared)?;
        khugepaged.wait_scans(3)?;
        expect_sound(&group, "after a scan by khugepaged")?;
        // The module splits the huge page to merge its parts.
        group.merge()?;
        khugepaged.wait_scans(2)?;
        expect_sound(&group, "merged again")?;
    }
    Ok(())
}

/// Other tests count merged pages, so it may not be at work there.
fn khugepaged_rests_when_a_test_begins(_: &Lab) -> Result {
    std::mem::forget(AtWork::start()?);
    expect::eq("khugepaged rests", false, khugepaged::is_at_rest()?)?;
    let _of_next_test = Lab::open()?;
    expect::eq("khugepaged rests", true, khugepaged::is_at_rest()?)
}

fn collapse(lab: &Lab, shared: u64) -> Result {
    let group = group(lab, shared)?;
    for sharer in &group.sharers {
        let _ = sharer.peer.advise(sharer.parts[0], MADV_COLLAPSE);
        expect_sound(&group, "after MADV_COLLAPSE")?;
    }
    group.merge()?;
    group.expect_intact("merged again").map(drop)
}

fn collapsing_some_shared_pages(lab: &Lab) -> Result {
    collapse(lab, 100)
}

fn collapsing_shared_pages(lab: &Lab) -> Result {
    collapse(lab, HUGE)
}

/// Collapses a range; the kernel may need several attempts, since pages may be busy.
fn collapse_range(peer: &Peer, span: Span) -> Result {
    for _ in 0..10 {
        let _ = peer.advise(span, MADV_COLLAPSE);
        if peer.smaps_pages(span, "AnonHugePages")? == HUGE {
            return Ok(());
        }
    }
    Err(format!("{span:?}: expected a huge page after MADV_COLLAPSE").into())
}

/// The number of passes, out of `count`, that merge pages of the ranges; each pass is followed by a
/// collapse.
fn merging_passes(count: u64, ranges: [(&Peer, Span); 2]) -> Result<u64> {
    let mut merging = 0;
    for _ in 0..count {
        scanner::passes(1)?;
        let [(peer, span), _] = ranges;
        if peer.smaps_pages(span, "AnonHugePages")? == 0 {
            merging += 1;
            for (peer, span) in ranges {
                collapse_range(peer, span)?;
            }
        }
    }
    Ok(merging)
}

/// The ranges of both processes are collapsed, so that merging again takes two passes.
fn pages_that_are_collapsed_again_and_again_are_merged_less_often(lab: &Lab) -> Result {
    const PASSES: u64 = 32;
    const EQUAL: u64 = 100;
    knob::set("scope", "registered")?;
    knob::set("promote_after", 3)?;
    knob::set("sleep_ms", scanner::UNTIL_TOLD_MS)?;
    let (a, b) = lab.pair()?;
    let in_a = a.anon(HUGE, Ids::each(10_000))?;
    let in_b = b.anon(HUGE, Ids::each(20_000))?;
    b.fill(in_b.part(0, EQUAL), Ids::each(10_000))?;
    let ranges = [(&a, in_a), (&b, in_b)];
    for (peer, span) in ranges {
        peer.register_all()?;
        collapse_range(peer, span)?;
    }
    let mut merging = [0; 2];
    for (interval, merging) in [1, 8].into_iter().zip(&mut merging) {
        knob::set("max_interval", interval)?;
        *merging = merging_passes(PASSES, ranges)?;
    }
    let [always, seldom] = merging;
    expect::that(always >= PASSES / 4 && seldom <= always / 2, || {
        format!(
            "of {PASSES} passes, those that merged: expected half as many with intervals, found {always} \
             and {seldom}"
        )
    })?;
    a.check(in_a, Ids::each(10_000))?;
    b.check(in_b.part(0, EQUAL), Ids::each(10_000))
}
