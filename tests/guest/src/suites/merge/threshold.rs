// SPDX-License-Identifier: GPL-2.0

//! `huge_min_parts`: a huge page is split only if enough of its parts are mergeable.

use std::time::Instant;

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::feature::Feature;
use guest::ksm_v::debugfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::HUGE;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task::PATIENCE;
use guest::tests;
use guest::Result;
use guest::Span;

use super::huge::expect_huge;
use super::huge::huge;
use super::huge::in_folios;
use super::huge::merge_with_control;
use super::huge::FOLIO;

pub(super) const TESTS: &[Test] = tests![
    a_huge_page_stays_whole_below_the_threshold,
    a_huge_page_is_split_at_the_threshold,
    steps_that_end_within_a_huge_page_add_up,
    all_parts_with_an_equal_page_count_wherever_it_was_seen_first,
    copies_of_a_huge_page_are_merged_at_first_sight,
    a_twin_in_a_sparse_huge_page_is_left,
    a_huge_page_that_is_mapped_in_part_is_split_for_one_part,
    merge_now_splits_for_one_part,
    no_huge_page_is_split_if_the_threshold_is_zero,
    smaller_folios_are_split_in_proportion,
];

/// Tests that need what [`lacking`] names.
pub(super) const TESTS_OF_SHORTAGE: &[Test] =
    tests![huge_pages_are_split_for_one_part_while_memory_is_short];

/// What the kernel lacks for [`TESTS_OF_SHORTAGE`].
pub(super) fn lacking() -> Result<Option<String>> {
    if let Some(why) = Feature::HugePages.missing() {
        return Ok(Some(why.into()));
    }
    let is_counted = std::fs::read("/proc/pressure/memory").is_ok();
    Ok((!is_counted).then(|| "the kernel does not count waits for memory".into()))
}

/// The default of `huge_min_parts`.
const THRESHOLD: u64 = 64;

/// Two processes with a huge page each, of which `equal` parts are equal, at different places.
struct Two {
    a: Peer,
    in_a: Span,
    b: Peer,
    in_b: Span,
    equal: u64,
}

impl Two {
    fn new(lab: &Lab, equal: u64) -> Result<Self> {
        let (a, b) = lab.pair()?;
        let in_a = huge(&a, 1, Ids::each(10_000))?;
        let in_b = huge(&b, 1, Ids::each(20_000))?;
        let two = Two {
            a,
            in_a,
            b,
            in_b,
            equal,
        };
        two.b.fill(two.equal_in_b(), Ids::each(10_000))?;
        expect_huge(&two.b, in_b, 1)?;
        Ok(two)
    }

    fn equal_in_a(&self) -> Span {
        self.in_a.part(0, self.equal)
    }

    fn equal_in_b(&self) -> Span {
        self.in_b.part(HUGE - self.equal, self.equal)
    }

    fn expect_merged(&self) -> Result {
        pages::expect_merged(&[(&self.a, self.equal_in_a()), (&self.b, self.equal_in_b())])?;
        self.a.check(self.in_a, Ids::each(10_000))
    }

    fn expect_whole(&self) -> Result {
        expect_huge(&self.a, self.in_a, 1)?;
        expect_huge(&self.b, self.in_b, 1)
    }
}

/// The number of pages that were kept in huge pages so far.
fn kept() -> Result<u64> {
    Ok(debugfs::refusals()?.get("kept_huge").copied().unwrap_or(0))
}

fn a_huge_page_stays_whole_below_the_threshold(lab: &Lab) -> Result {
    knob::set("huge_min_parts", THRESHOLD)?;
    let two = Two::new(lab, THRESHOLD - 1)?;
    let (before, splits) = (kept()?, knob::number("huge_pages_split")?);
    merge_with_control(lab)?;
    two.expect_whole()?;
    expect::that(kept()? > before, || "kept_huge: expected it to count")?;
    expect::eq(
        "huge pages split",
        splits,
        knob::number("huge_pages_split")?,
    )?;
    // With one part more, both are split.
    knob::set("huge_min_parts", THRESHOLD - 1)?;
    scanner::merge()?;
    two.expect_merged()?;
    expect::eq(
        "huge pages split",
        splits + 2,
        knob::number("huge_pages_split")?,
    )
}

fn a_huge_page_is_split_at_the_threshold(lab: &Lab) -> Result {
    knob::set("huge_min_parts", THRESHOLD)?;
    let two = Two::new(lab, THRESHOLD)?;
    scanner::merge()?;
    two.expect_merged()
}

/// With the default rate, a step scans a fifth of a huge page. The parts of one huge page are counted in one
/// pass, those of the other in the next, once the index has the first as twins.
fn steps_that_end_within_a_huge_page_add_up(lab: &Lab) -> Result {
    const TOGETHER: u64 = 400;
    knob::set("huge_min_parts", TOGETHER)?;
    knob::set("scan_rate", 100)?;
    let two = Two::new(lab, TOGETHER)?;
    scanner::merge()?;
    scanner::merge()?;
    two.expect_merged()
}

/// The content of the first half of the equal parts was in `a` first, that of the other half in `b`. So the index
/// has a half of them on each side, and neither huge page may count only what the index has on the other one.
fn all_parts_with_an_equal_page_count_wherever_it_was_seen_first(lab: &Lab) -> Result {
    const HALF: u64 = THRESHOLD / 2;
    knob::set("huge_min_parts", THRESHOLD)?;
    let (a, b) = lab.pair()?;
    let in_a = huge(&a, 1, Ids::each(10_000))?;
    let in_b = huge(&b, 1, Ids::each(20_000))?;
    merge_with_control(lab)?;
    a.fill(in_a.part(HALF, HALF), Ids::each(20_000 + HALF))?;
    b.fill(in_b.part(0, HALF), Ids::each(10_000))?;
    expect_huge(&a, in_a, 1)?;
    expect_huge(&b, in_b, 1)?;
    scanner::merge()?;
    let (of_a, of_b) = (in_a.part(0, THRESHOLD), in_b.part(0, THRESHOLD));
    pages::expect_merged(&[(&a, of_a), (&b, of_b)]).map(drop)
}

/// Equal parts at the same places: no visit has to count the parts of the twin before. A step that ends within
/// the huge page may leave a few of its first parts for the next visit.
fn copies_of_a_huge_page_are_merged_at_first_sight(lab: &Lab) -> Result {
    knob::set("huge_min_parts", THRESHOLD)?;
    let (a, b) = lab.pair()?;
    let ids = Ids::each(10_000);
    let (in_a, in_b) = (huge(&a, 1, ids)?, huge(&b, 1, ids)?);
    let before = kept()?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let kept = kept()? - before;
    expect::that(kept < THRESHOLD, || format!("{kept} parts had to wait"))
}

/// All parts of one huge page have twins, but each in another huge page that has no other mergeable part.
fn a_twin_in_a_sparse_huge_page_is_left(lab: &Lab) -> Result {
    const SPARSE: u64 = 8;
    knob::set("huge_min_parts", SPARSE)?;
    let (a, b) = lab.pair()?;
    let sparse = huge(&a, SPARSE, Ids::each(10_000))?;
    let dense = huge(&b, 1, Ids::each(20_000))?;
    for no in 0..SPARSE {
        b.fill(dense.page(no), Ids::same(10_000 + no * HUGE + 100))?;
    }
    merge_with_control(lab)?;
    expect_huge(&a, sparse, SPARSE)?;
    expect_huge(&b, dense, 1)?;
    // With other twins, the dense one is split.
    let others = lab.alice()?;
    let small = others.map(Kind::Anon, SPARSE)?;
    for no in 0..SPARSE {
        others.fill(small.page(no), Ids::same(10_000 + no * HUGE + 100))?;
    }
    scanner::merge()?;
    pages::expect_merged(&[(&b, dense.part(0, SPARSE)), (&others, small)])?;
    expect_huge(&a, sparse, SPARSE)
}

/// The kernel itself splits such a page when it reclaims memory.
fn a_huge_page_that_is_mapped_in_part_is_split_for_one_part(lab: &Lab) -> Result {
    knob::set("huge_min_parts", THRESHOLD)?;
    let two = Two::new(lab, 1)?;
    two.a.unmap(two.in_a.part(100, 50))?;
    merge_with_control(lab)?;
    // The twin is whole.
    pages::expect_not_merged((&two.a, two.equal_in_a()))?;
    expect_huge(&two.b, two.in_b, 1)?;
    two.b.unmap(two.in_b.part(100, 50))?;
    scanner::merge()?;
    pages::expect_merged(&[(&two.a, two.equal_in_a()), (&two.b, two.equal_in_b())]).map(drop)
}

fn merge_now_splits_for_one_part(lab: &Lab) -> Result {
    knob::set("huge_min_parts", THRESHOLD)?;
    let two = Two::new(lab, 1)?;
    scanner::merge_now(&two.a)?;
    scanner::merge_now(&two.b)?;
    two.expect_merged()
}

fn no_huge_page_is_split_if_the_threshold_is_zero(lab: &Lab) -> Result {
    knob::set("huge_min_parts", 0)?;
    let two = Two::new(lab, HUGE)?;
    merge_with_control(lab)?;
    scanner::merge_now(&two.a)?;
    scanner::merge_now(&two.b)?;
    two.expect_whole()
}

/// Of 16 pages, 2 are as much as 64 of 512. The kernel itself may split a folio when it moves it, so that its pages are
/// merged; it does not do so with each of them.
fn smaller_folios_are_split_in_proportion(lab: &Lab) -> Result {
    const FOLIOS: u64 = 8;
    knob::set("huge_min_parts", THRESHOLD)?;
    let (a, b) = lab.pair()?;
    let span = in_folios(&a, FOLIOS * FOLIO, Ids::each(10_000))?;
    // Two parts of each second folio, one of each other.
    let equal = |no: &u64| no % FOLIO == 3 || no % (2 * FOLIO) == 5;
    let equal: Vec<u64> = (0..FOLIOS * FOLIO).filter(equal).collect();
    let small = b.map(Kind::Anon, equal.len() as u64)?;
    for (no, &part) in equal.iter().enumerate() {
        b.fill(small.page(no as u64), Ids::same(10_000 + part))?;
    }
    scanner::merge()?;
    let mut kept = 0;
    for (no, &part) in equal.iter().enumerate() {
        let (in_a, in_b) = (span.page(part), small.page(no as u64));
        if part / FOLIO % 2 == 0 {
            pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        } else if a.frames(in_a)? != b.frames(in_b)? {
            kept += 1;
        }
    }
    expect::within(
        "folios with one mergeable part that were kept whole",
        1..=FOLIOS / 2,
        kept,
    )
}

fn huge_pages_are_split_for_one_part_while_memory_is_short(lab: &Lab) -> Result {
    knob::set("huge_min_parts", HUGE)?;
    let two = Two::new(lab, 1)?;
    merge_with_control(lab)?;
    two.expect_whole()?;
    let cgroup = Cgroup::new("waiting")?;
    let waiting = lab.peer_in(User::Bob, &cgroup)?;
    let span = waiting.map(Kind::Anon, 20_000)?;
    cgroup.throttle(1 << 20)?;
    waiting.begin("touch", &[span.addr, span.pages])?;
    scanner::start()?;
    let start = Instant::now();
    while two.expect_merged().is_err() {
        expect::that(start.elapsed() < PATIENCE, || {
            "expected the huge pages to be split while others wait for memory"
        })?;
        scanner::wait_passes(1)?;
    }
    cgroup.unthrottle()?;
    waiting.finish("touch").map(drop)
}
