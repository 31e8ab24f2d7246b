// SPDX-License-Identifier: GPL-2.0

//! `content` `zero`: only pages of zeroes are merged.

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::WORDS;
use guest::memory::pages;
use guest::process::peer::User;
use guest::tests;
use guest::Result;

use super::huge::expect_huge;
use super::huge::huge;

pub(super) const TESTS: &[Test] = tests![
    only_zeros_are_merged_if_content_is_zero,
    nothing_is_remembered_if_content_is_zero,
    merge_now_merges_only_zeros_if_content_is_zero,
];

/// Tests that need huge pages.
pub(super) const TESTS_OF_HUGE_PAGES: &[Test] =
    tests![zeros_split_huge_pages_at_the_threshold_if_content_is_zero];

const PAGES: u64 = 64;

/// Pages that differ from zeroes in one word are not merged. One pass is enough, also for two users.
fn only_zeros_are_merged_if_content_is_zero(lab: &Lab) -> Result {
    knob::set("content", "zero")?;
    let (a, b) = (lab.alice()?, lab.peer(User::Bob)?);
    let zeros = [a.anon(PAGES, Ids::ZERO)?, b.anon(PAGES, Ids::ZERO)?];
    let nearly = a.anon(PAGES, Ids::ZERO)?;
    for page in 0..PAGES {
        let word = page * (WORDS as u64 - 1) / (PAGES - 1);
        a.poke(nearly.page(page).addr + 8 * word, 1)?;
    }
    let other = lab.alice()?;
    let equal = [
        a.anon(PAGES, Ids::each(100))?,
        other.anon(PAGES, Ids::each(100))?,
    ];
    scanner::passes(1)?;
    for (peer, span) in [&a, &b].into_iter().zip(zeros) {
        pages::expect_zero_page((peer, span))?;
    }
    scanner::merge()?;
    pages::expect_not_merged((&a, nearly))?;
    pages::expect_not_merged((&a, equal[0]))?;
    pages::expect_not_merged((&other, equal[1]))?;
    scanner::expect_exact_counts("with zeros merged only")?;
    // Visits that left these pages out say nothing about them.
    knob::set("content", "all")?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, equal[0]), (&other, equal[1])])?;
    // Pages that are merged stay so.
    knob::set("content", "zero")?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, equal[0]), (&other, equal[1])]).map(drop)
}

fn nothing_is_remembered_if_content_is_zero(lab: &Lab) -> Result {
    const MANY: u64 = 20_000;
    knob::set("content", "zero")?;
    let peer = lab.alice()?;
    scanner::merge()?;
    let (index, scanned) = (knob::number("index_bytes")?, knob::number("pages_scanned")?);
    let span = peer.anon(MANY, Ids::each(10_000))?;
    scanner::merge()?;
    expect::within(
        "bytes of the index",
        0..=index,
        knob::number("index_bytes")?,
    )?;
    expect::within(
        "pages scanned",
        scanned + MANY..=u64::MAX,
        knob::number("pages_scanned")?,
    )?;
    peer.check(span, Ids::each(10_000))
}

fn merge_now_merges_only_zeros_if_content_is_zero(lab: &Lab) -> Result {
    knob::set("content", "zero")?;
    let peer = lab.alice()?;
    let (zeros, equal) = (
        peer.anon(PAGES, Ids::ZERO)?,
        peer.anon(PAGES, Ids::same(7))?,
    );
    scanner::merge_now(&peer)?;
    pages::expect_zero_page((&peer, zeros))?;
    pages::expect_not_merged((&peer, equal)).map(drop)
}

fn zeros_split_huge_pages_at_the_threshold_if_content_is_zero(lab: &Lab) -> Result {
    const THRESHOLD: u64 = 64;
    knob::set("content", "zero")?;
    knob::set("huge_min_parts", THRESHOLD)?;
    let peer = lab.alice()?;
    let span = huge(&peer, 1, Ids::each(10_000))?;
    peer.fill(span.part(0, THRESHOLD - 1), Ids::ZERO)?;
    // The same content in more parts is not counted.
    peer.fill(span.part(THRESHOLD, 100), Ids::same(7))?;
    scanner::merge()?;
    expect_huge(&peer, span, 1)?;
    peer.fill(span.part(0, THRESHOLD), Ids::ZERO)?;
    scanner::merge()?;
    pages::expect_zero_page((&peer, span.part(0, THRESHOLD)))?;
    pages::expect_not_merged((&peer, span.part(THRESHOLD, 100)))?;
    peer.check(span.part(THRESHOLD, 100), Ids::same(7))
}
