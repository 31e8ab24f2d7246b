// SPDX-License-Identifier: GPL-2.0

//! Transparent huge pages: the scanner looks at each 4 KiB part, and splits a huge page only to merge
//! one of its parts.

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::HUGE;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    unique_huge_pages_stay_huge,
    equal_parts_are_merged_out_of_huge_pages,
    equal_huge_pages_are_merged,
    equal_parts_of_one_huge_page_are_merged,
    zeros_are_merged_out_of_huge_pages,
    zeros_that_a_split_frees_are_counted,
    zeros_that_the_split_of_a_twin_frees_are_counted,
    huge_pages_shared_by_fork_stay_correct,
    huge_pages_are_not_split_for_what_they_held,
    huge_pages_of_other_domains_stay_huge,
    huge_pages_stay_huge_where_their_twins_are_left_alone,
    equal_pages_are_merged_out_of_folios_of_16,
];

/// Maps and fills a region that really consists of huge pages.
pub(super) fn huge(peer: &Peer, count: u64, ids: Ids) -> Result<Span> {
    procfs::write("/sys/kernel/mm/transparent_hugepage/enabled", "always")?;
    let span = peer.anon(count * HUGE, ids)?;
    expect_huge(peer, span, count)?;
    Ok(span)
}

pub(super) fn expect_huge(peer: &Peer, span: Span, count: u64) -> Result {
    let found = peer.smaps_pages(span, "AnonHugePages")?;
    expect::eq(
        format!("huge pages of {span:?}, in small pages"),
        count * HUGE,
        found,
    )
}

/// Merges, and uses two small equal pages to prove that merging took place.
pub(super) fn merge_with_control(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(1, Ids::same(7))?, b.anon(1, Ids::same(7))?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

fn unique_huge_pages_stay_huge(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (
        huge(&a, 1, Ids::each(10_000))?,
        huge(&b, 2, Ids::each(20_000))?,
    );
    let before = (a.frames(in_a)?, b.frames(in_b)?);
    merge_with_control(lab)?;
    merge_with_control(lab)?;
    expect_huge(&a, in_a, 1)?;
    expect_huge(&b, in_b, 2)?;
    expect::eq("frames", before, (a.frames(in_a)?, b.frames(in_b)?))
}

fn equal_parts_are_merged_out_of_huge_pages(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let ids = Ids::each(10_000);
    let span = huge(&a, 2, ids)?;
    // This page equals part 7 of the first huge page; the second huge page stays.
    let small = b.anon(1, Ids::same(10_007))?;
    let before = a.frames(span)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, span.page(7)), (&b, small)])?;
    expect_huge(&a, span, 1).during(|| "after a part of the first of two huge pages was merged")?;
    pages::expect_frames("parts before it", (&a, span.part(0, 7)), &before[..7])?;
    let rest = span.part(8, 2 * HUGE - 8);
    pages::expect_frames("parts behind it", (&a, rest), &before[8..])?;
    a.check(span, ids)?;
    b.poke(small.addr, 1)?;
    a.check(span, ids)
}

fn equal_huge_pages_are_merged(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let ids = Ids::each(10_000);
    let (in_a, in_b) = (huge(&a, 1, ids)?, huge(&b, 1, ids)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_mappings(&frames[..8], 2)?;
    a.fill(in_a.part(100, 8), Ids::each(1))?;
    b.check(in_b, ids)?;
    scanner::expect_exact_counts("with two huge pages merged").map(drop)
}

/// Tests a single process and a process that has forked.
fn equal_parts_of_one_huge_page_are_merged(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let alone = huge(&peer, 1, Ids::same(10_000))?;
    scanner::merge()?;
    // A process has at most 256 page table entries for one frame.
    expect_parts_merged(&peer, alone, 256)?;
    let forked = huge(&peer, 1, Ids::same(20_000))?;
    let child = peer.fork()?;
    scanner::merge()?;
    expect_parts_merged(&child, alone, 2 * 256)?;
    // A page that two processes share takes one of 128 common seats in each.
    expect_parts_merged(&child, forked, 2 * 128)?;
    peer.check(forked, Ids::same(20_000))?;
    child.check(forked, Ids::same(20_000))
}

/// Expects that the parts are merged among each other, so that each frame has `mappings` mappings.
fn expect_parts_merged(peer: &Peer, span: Span, mappings: u64) -> Result {
    let frames = pages::expect_merged(&[(peer, span)])?;
    pages::expect_mappings(&frames, mappings)
}

fn zeros_are_merged_out_of_huge_pages(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = huge(&peer, 1, Ids::each(10_000))?;
    let zeros = span.part(100, 200);
    peer.fill(zeros, Ids::ZERO)?;
    expect_huge(&peer, span, 1)?;
    scanner::merge()?;
    pages::expect_zero_page((&peer, zeros))?;
    peer.check(span.part(0, 100), Ids::each(10_000))?;
    peer.check(span.part(300, 212), Ids::each(10_300))?;
    peer.check(zeros, Ids::ZERO)?;
    scanner::expect_exact_counts("with zeros of a huge page").map(drop)
}

/// The kernel maps the zero page in place of the parts of zeros of a huge page that it splits. Expects that it counts
/// them as merged.
fn expect_zeros(peer: &Peer, pages: u64, when: &str) -> Result {
    let path = format!("/proc/{}/ksm_stat", peer.pid());
    let found = procfs::number_in(&path, "ksm_zero_pages")?;
    expect::eq(format!("merged zeros {when}"), pages, found)
}

fn zeros_that_a_split_frees_are_counted(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = huge(&peer, 1, Ids::each(10_000))?;
    let zeros = span.part(100, 200);
    peer.fill(zeros, Ids::ZERO)?;
    // These entries were never part of the huge page.
    let around = peer.map(Kind::Anon, 100)?;
    peer.read_touch(around)?;
    expect_huge(&peer, span, 1)?;
    scanner::merge()?;
    expect_zeros(&peer, 200, "after a huge page was split")?;
    scanner::expect_exact_counts("with the zeros of a split huge page")?;
    peer.fill(zeros.part(0, 50), Ids::each(500))?;
    expect_zeros(&peer, 150, "after 50 of them were written")?;
    scanner::unmerge()?;
    expect_zeros(&peer, 0, "after they were unmerged")?;
    peer.check(zeros.part(50, 150), Ids::ZERO)
}

/// A twin is split out of its huge page before its own region is visited again.
fn zeros_that_the_split_of_a_twin_frees_are_counted(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let in_b = huge(&b, 1, Ids::each(20_000))?;
    scanner::merge_now(&b)?;
    b.fill(in_b.part(100, 40), Ids::ZERO)?;
    expect_huge(&b, in_b, 1)?;
    let in_a = a.anon(10, Ids::each(20_000))?;
    scanner::merge_now(&a)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b.part(0, 10))])?;
    expect_zeros(&b, 40, "after the huge page of a twin was split")?;
    b.check(in_b.part(100, 40), Ids::ZERO)?;
    scanner::expect_exact_counts("with the zeros of a twin's huge page").map(drop)
}

fn huge_pages_shared_by_fork_stay_correct(lab: &Lab) -> Result {
    let (parent, other) = lab.pair()?;
    let ids = Ids::each(10_000);
    let span = huge(&parent, 1, ids)?;
    let child = parent.fork()?;
    let small = other.anon(4, Ids::each(10_100))?;
    scanner::merge()?;
    pages::expect_merged(&[
        (&parent, span.part(100, 4)),
        (&child, span.part(100, 4)),
        (&other, small),
    ])?;
    child.fill(span.part(98, 8), Ids::each(1))?;
    child.check(span.part(98, 8), Ids::each(1))?;
    parent.check(span, ids)?;
    other.check(small, Ids::each(10_100))?;
    scanner::expect_exact_counts("with a forked huge page").map(drop)
}

/// The index remembers an earlier content of a part: the part must be checked again before the split.
fn huge_pages_are_not_split_for_what_they_held(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let span = huge(&a, 1, Ids::each(10_000))?;
    merge_with_control(lab)?;
    a.fill(span.part(7, 8), Ids::each(20_000))?;
    let former = b.anon(8, Ids::each(10_007))?;
    let before = b.frames(former)?;
    merge_with_control(lab)?;
    expect_huge(&a, span, 1)?;
    pages::expect_frames("pages equal to former parts", (&b, former), &before)
}

fn huge_pages_of_other_domains_stay_huge(lab: &Lab) -> Result {
    let (alice, bob) = (lab.alice()?, lab.peer(User::Bob)?);
    let ids = Ids::each(10_000);
    let (in_a, in_b) = (huge(&alice, 1, ids)?, huge(&bob, 1, ids)?);
    merge_with_control(lab)?;
    expect_huge(&alice, in_a, 1)?;
    expect_huge(&bob, in_b, 1)
}

/// The index remembers the twin from a time when its process was not skipped yet.
fn huge_pages_stay_huge_where_their_twins_are_left_alone(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let ids = Ids::each(10_000);
    let twins = a.anon(8, ids)?;
    scanner::merge_now(&a)?;
    a.set_dumpable(false)?;
    let span = huge(&b, 1, ids)?;
    scanner::merge_now(&b)?;
    expect_huge(&b, span, 1)?;
    pages::expect_not_merged((&a, twins))?;
    // With another twin, the page is merged.
    let other = lab.alice()?;
    let small = other.anon(8, ids)?;
    scanner::merge_now(&other)?;
    pages::expect_merged(&[(&b, span.part(0, 8)), (&other, small)]).map(drop)
}

/// Merges every third page of 64 KiB folios, whose entries arm64 can combine into one TLB entry.
fn equal_pages_are_merged_out_of_folios_of_16(lab: &Lab) -> Result {
    const PAGES: u64 = 8 * FOLIO;
    let (a, b) = lab.pair()?;
    let in_a = in_folios(&a, PAGES, Ids::each(10_000))?;
    let in_b = in_folios(&b, PAGES, Ids::each(20_000))?;
    let equal: Vec<u64> = (0..PAGES).step_by(3).collect();
    for &index in &equal {
        b.fill(in_b.page(index), Ids::same(10_000 + index))?;
    }
    scanner::merge()?;
    for &index in &equal {
        pages::expect_merged(&[(&a, in_a.page(index)), (&b, in_b.page(index))])?;
        b.poke(in_b.page(index).addr, 1)?;
    }
    a.check(in_a, Ids::each(10_000))?;
    let others = (0..PAGES).filter(|index| index % 3 != 0);
    for index in others {
        b.check(in_b.page(index), Ids::same(20_000 + index))?;
    }
    Ok(())
}

/// The number of pages in a folio of 64 KiB.
pub(super) const FOLIO: u64 = 16;

/// Maps and fills a region that really consists of folios of 64 KiB. Tries several times: where memory is
/// fragmented, the kernel takes small pages instead.
pub(super) fn in_folios(peer: &Peer, pages: u64, ids: Ids) -> Result<Span> {
    const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled";
    for _ in 0..10 {
        procfs::write(ENABLED, "always")?;
        let span = peer.anon(pages, ids);
        procfs::write(ENABLED, "never")?;
        let span = span?;
        if are_folios(&peer.frames(span)?) {
            return Ok(span);
        }
        peer.unmap(span)?;
    }
    Err("expected folios of 64 KiB, found smaller pages each time".into())
}

fn are_folios(frames: &[Frame]) -> bool {
    frames.chunks(FOLIO as usize).all(|frames| {
        (frames[0].0 % FOLIO == 0) && frames.windows(2).all(|two| two[0].0 + 1 == two[1].0)
    })
}
