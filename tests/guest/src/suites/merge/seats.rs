// SPDX-License-Identifier: GPL-2.0

//! The number of page table entries of one process for a shared frame, which forks multiply. See
//! `rust/engine/seats.rs`.

use std::collections::HashMap;

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    a_process_has_few_entries_of_one_frame,
    forks_and_more_pages_add_up_to_few_entries,
    many_processes_share_one_frame,
    pages_of_many_forked_processes_share_one_frame,
];

/// The maximum number of page table entries of one process for one frame.
const MOST: u64 = 256;
/// The largest `pid_max`.
const MOST_PROCESSES: u64 = 1 << 22;

const SAME: Ids = Ids::same(100);

/// The number of mappings of each frame in some memory of a process.
fn entries(peer: &Peer, spans: &[Span]) -> Result<HashMap<Frame, u64>> {
    let mut entries = HashMap::new();
    for &span in spans {
        for frame in peer.frames(span)? {
            *entries.entry(frame).or_default() += 1;
        }
    }
    Ok(entries)
}

/// Expects that no frame has more than [`MOST`] mappings in `spans`; returns the highest number.
fn expect_few(peer: &Peer, spans: &[Span]) -> Result<u64> {
    let most = entries(peer, spans)?.into_values().max().unwrap_or(0);
    expect::within(
        format!("entries of process {} on one frame", peer.pid()),
        1..=MOST,
        most,
    )?;
    expect::that(most * (MOST_PROCESSES - 1) < 1 << 30, || {
        format!("{most} entries of a process, copied by as many forks as there can be processes")
    })?;
    Ok(most)
}

/// The pages still use as few frames as the limit allows.
fn a_process_has_few_entries_of_one_frame(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = peer.anon(8 * MOST, SAME)?;
    scanner::scan(6)?;
    let most = expect_few(&peer, &[span])?;
    expect::eq("entries of the process on one frame", MOST, most)?;
    let frames = entries(&peer, &[span])?.len() as u64;
    expect::within("frames of 2048 equal pages", 8..=9, frames)?;
    peer.check(span, SAME)
}

/// Each generation inherits the entries of the previous one, adds equal pages, and forks.
fn forks_and_more_pages_add_up_to_few_entries(lab: &Lab) -> Result {
    let mut family = vec![lab.alice()?];
    let mut spans = Vec::new();
    for _ in 0..4 {
        let youngest = &family[family.len() - 1];
        spans.push(youngest.anon(200, SAME)?);
        scanner::scan(6)?;
        for peer in &family {
            expect_few(peer, &spans[..1])?;
        }
        let youngest = &family[family.len() - 1];
        expect_few(youngest, &spans)?;
        let child = youngest.fork()?;
        expect_few(&child, &spans)?;
        family.push(child);
    }
    Ok(())
}

/// The pages outnumber the seats of each process as well as the common seats.
fn many_processes_share_one_frame(lab: &Lab) -> Result {
    let peers = lab.alices(100)?;
    let mut all = Vec::new();
    for peer in &peers {
        all.push((peer, peer.anon(4, SAME)?));
    }
    scanner::scan(6)?;
    let frames = pages::expect_merged(&all)?;
    expect::that(frames.iter().all(|&frame| frame == frames[0]), || {
        format!("expected one frame, found {frames:?}")
    })?;
    pages::expect_mappings(&frames[..1], 400)
}

/// A page that forks have shared with many processes is one page and takes one seat.
fn pages_of_many_forked_processes_share_one_frame(lab: &Lab) -> Result {
    let parent = lab.alice()?;
    let (one, other) = (
        parent.anon(2, Ids::each(100))?,
        parent.anon(2, Ids::each(100))?,
    );
    let children: Vec<Peer> = (0..150).map(|_| parent.fork()).collect::<Result<_>>()?;
    scanner::scan(6)?;
    let mut all = vec![(&parent, one), (&parent, other)];
    for child in &children {
        all.push((child, one));
        all.push((child, other));
    }
    let frames = pages::expect_merged(&all)?;
    pages::expect_mappings(&frames, 2 * 151)
}
