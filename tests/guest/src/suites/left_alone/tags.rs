// SPDX-License-Identifier: GPL-2.0

//! Pages with memory tags, which are not part of the compared bytes.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::debugfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    pages_with_memory_tags,
    zeros_with_memory_tags,
    memory_tags_for_merged_pages,
    memory_tags_while_merging,
];

const PAGES: u64 = 16;
const IDS: Ids = Ids::each(100);

/// Maps pages with these contents and the tags of `seed`.
fn with_tags(peer: &Peer, ids: Ids, seed: u64) -> Result<Span> {
    let span = peer.anon(PAGES, ids)?;
    peer.allow_tags(span)?;
    peer.set_tags(span, seed)?;
    Ok(span)
}

/// The number of pages refused because of their tags.
fn refused() -> Result<u64> {
    Ok(debugfs::refusals()?.get("tagged").copied().unwrap_or(0))
}

/// Expects that pages without tags are merged and pages with tags stay, whatever the tag values are.
fn expect_left_alone(lab: &Lab, ids: Ids) -> Result {
    let (a, b) = lab.pair()?;
    let all = [(&a, 3), (&b, 3), (&b, 5), (&b, 0)];
    let mut spans = Vec::new();
    for (peer, seed) in all {
        let span = with_tags(peer, ids, seed)?;
        spans.push((peer, span, seed, peer.frames(span)?));
    }
    let before = refused()?;
    scanner::scan(6)?;
    let passed = refused()? - before;
    for (peer, span, seed, frames) in &spans {
        pages::expect_frames("pages with tags", (peer, *span), frames)?;
        peer.check(*span, ids)?;
        peer.check_tags(*span, *seed)?;
    }
    expect::that(passed >= PAGES * spans.len() as u64, || {
        format!("expected all pages with tags to be refused once, found {passed}")
    })
}

/// Pages with tags next to equal pages without tags, which are merged.
fn pages_with_memory_tags(lab: &Lab) -> Result {
    let (c, d) = lab.pair()?;
    let (in_c, in_d) = (c.anon(PAGES, IDS)?, d.anon(PAGES, IDS)?);
    expect_left_alone(lab, IDS)?;
    let frames = pages::expect_merged(&[(&c, in_c), (&d, in_d)])?;
    pages::expect_mappings(&frames, 2)
}

fn zeros_with_memory_tags(lab: &Lab) -> Result {
    let c = lab.alice()?;
    let in_c = c.anon(PAGES, Ids::ZERO)?;
    expect_left_alone(lab, Ids::ZERO)?;
    pages::expect_zero_page((&c, in_c))
}

/// All tags are initially 0. When one process sets its tags, the other processes are not affected and
/// can set their own.
fn memory_tags_for_merged_pages(lab: &Lab) -> Result {
    let peers = lab.alices(3)?;
    let spans = peers.iter().map(|peer| peer.anon(PAGES, IDS));
    let spans: Vec<Span> = spans.collect::<Result<_>>()?;
    scanner::merge()?;
    let all: Vec<_> = peers.iter().zip(spans.iter().copied()).collect();
    let frames = pages::expect_merged(&all)?;
    for &(peer, span) in &all[..2] {
        peer.allow_tags(span)?;
        peer.check_tags(span, 0)?;
    }
    let (a, in_a) = all[0];
    a.set_tags(in_a, 7)?;
    for &(peer, span) in &all {
        peer.check(span, IDS)?;
    }
    all[1].0.check_tags(spans[1], 0)?;
    pages::expect_frames("merged pages of others", all[2], &frames)?;
    let own = a.frames(in_a)?;
    scanner::scan(6)?;
    pages::expect_frames("pages with tags", (a, in_a), &own)?;
    a.check_tags(in_a, 7)?;
    all[1].0.set_tags(spans[1], 9)?;
    all[1].0.check_tags(spans[1], 9)?;
    a.check_tags(in_a, 7)?;
    all[2].0.check(spans[2], IDS)
}

/// Processes with equal contents repeatedly add tags to them.
fn memory_tags_while_merging(lab: &Lab) -> Result {
    const PEERS: u32 = 3;
    const MILLISECONDS: u64 = 8000;
    let still = lab.alice()?;
    let in_still = still.anon(PAGES, IDS)?;
    let peers = lab.alices(PEERS as usize)?;
    let before = copied()?;
    scanner::start()?;
    for peer in &peers {
        let span = peer.free_place(PAGES);
        peer.begin(
            "tag_storm",
            &[span.addr, span.pages, IDS.first, IDS.stride, MILLISECONDS],
        )?;
    }
    for peer in &peers {
        let rounds = peer.finish("tag_storm")?;
        expect::that(rounds >= 3, || {
            format!("expected some rounds, found {rounds}")
        })?;
    }
    scanner::stop()?;
    still.check(in_still, IDS)?;
    let copied = copied()? - before;
    expect::that(copied > 0, || {
        "expected some pages to have been merged when they got tags"
    })
}

/// The number of merged pages that were copied on write.
fn copied() -> Result<u64> {
    let vmstat = procfs::read("/proc/vmstat")?;
    let copied = vmstat
        .lines()
        .find_map(|line| line.strip_prefix("cow_ksm ")?.parse().ok());
    copied.ok_or_else(|| "/proc/vmstat has no cow_ksm".into())
}
