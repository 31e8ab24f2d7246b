// SPDX-License-Identifier: GPL-2.0

//! The frames of shared pages: an attacker must not be able to prepare them.
//!
//! Known from Razavi et al., "Flip Feng Shui" (USENIX Security 2016): the attacker finds a frame in
//! which Rowhammer flips a bit, and gets a victim's page into it. It offers the frame as the page to
//! be kept, or frees it just before the kernel needs a frame.

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    no_merge_keeps_a_frame_of_its_inputs,
    a_frame_that_was_just_freed_is_seldom_drawn,
    successive_frames_are_neither_in_order_nor_near,
];

/// The number of frames from which a shared frame is drawn, as in `rust/mm/pool.rs`.
const POOL: u64 = 256;

/// Checks the frames of new shared pages, of joined pages, and of pages merged again after writes.
fn no_merge_keeps_a_frame_of_its_inputs(lab: &Lab) -> Result {
    const PAGES: u64 = 16;
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    let mut inputs = [a.frames(in_a)?, b.frames(in_b)?].concat();
    scanner::merge()?;
    let merged = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_disjoint("new shared frames and their inputs", &merged, &inputs)?;

    let c = lab.alice()?;
    let in_c = c.anon(PAGES, ids)?;
    inputs = c.frames(in_c)?;
    scanner::merge()?;
    let joined = pages::expect_merged(&[(&a, in_a), (&b, in_b), (&c, in_c)])?;
    pages::expect_disjoint("joined frames and their inputs", &joined, &inputs)?;
    expect::eq("frames after a join", &merged, &joined)?;

    // One of three processes rewrites the same content, then all three do.
    a.fill(in_a, ids)?;
    inputs = a.frames(in_a)?;
    scanner::merge()?;
    let again = pages::expect_merged(&[(&a, in_a), (&b, in_b), (&c, in_c)])?;
    pages::expect_disjoint("frames joined again and their inputs", &again, &inputs)?;
    inputs.clear();
    for (peer, span) in [(&a, in_a), (&b, in_b), (&c, in_c)] {
        peer.fill(span, ids)?;
        inputs.extend(peer.frames(span)?);
    }
    scanner::merge()?;
    let anew = pages::expect_merged(&[(&a, in_a), (&b, in_b), (&c, in_c)])?;
    pages::expect_disjoint("frames merged anew and their inputs", &anew, &inputs)
}

/// The number of frames that the attacker frees, and of pages that are merged next, in each trial.
const BAITS: u64 = 8;
/// The number of trials.
const TRIALS: u64 = 32;
/// A draw finds one of the baits with a probability of at most `BAITS / POOL`, even if all baits got
/// into the pool, so at most 8 hits are expected in 256 draws. More than 24 hits (Poisson) have a
/// probability below 0.00001.
const MOST_HITS: u64 = 24;

/// The attacker merges pages with their duplicates to learn which frames are suitable, and frees just
/// these frames: last, on the scanner's CPU, and with the migration type of shared pages.
fn a_frame_that_was_just_freed_is_seldom_drawn(lab: &Lab) -> Result {
    let (attacker, victim) = (lab.alice()?, lab.peer(User::Bob)?);
    task::pin(task::scanner()?, 0).context(|| "pinning the scanner")?;
    attacker.ask("cpu", &[0])?;
    let mut hits = 0;
    for trial in 0..TRIALS {
        let ids = Ids::each(1000 * (trial + 1));
        let baits = attacker.anon(2 * BAITS, Ids::same(0))?;
        attacker.fill(baits.part(0, BAITS), ids)?;
        attacker.fill(baits.part(BAITS, BAITS), ids)?;
        scanner::merge()?;
        let freed = pages::expect_merged(&[(&attacker, baits.part(0, BAITS))])?;
        let wanted = Ids::each(ids.first + 500);
        let (one, other) = (victim.anon(BAITS, wanted)?, victim.anon(BAITS, wanted)?);
        attacker.unmap(baits)?;
        scanner::merge()?;
        let drawn = pages::expect_merged(&[(&victim, one), (&victim, other)])?;
        hits += drawn.iter().filter(|frame| freed.contains(frame)).count() as u64;
        victim.unmap(one)?;
        victim.unmap(other)?;
    }
    let draws = TRIALS * BAITS;
    println!("security: {hits} of {draws} shared frames were among the last {BAITS} freed");
    expect::within(
        format!("{draws} draws that found one of {BAITS} frames freed, of a pool of {POOL}"),
        0..=MOST_HITS,
        hits,
    )
}

/// The number of frames of one pass, in the order in which they were drawn.
const DRAWN: u64 = 256;
/// The largest distance between two frames that count as near.
const NEAR: u64 = 4;
/// With a pool of adjacent frames, 8 of 255 pairs are near; otherwise fewer. More than 28 near pairs
/// (Poisson) have a probability below 0.00000001.
const MOST_NEAR: usize = 28;
/// In random order, a frame follows a lower one 127.5 times out of 255, with a variance of 257 / 12
/// (Knuth, TAOCP vol. 3, section 5.1.3): the range is six standard deviations on either side.
const ASCENTS: std::ops::RangeInclusive<usize> = 100..=155;

fn successive_frames_are_neither_in_order_nor_near(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    // The index knows the first pages before the scanner reaches the second pages and merges them one
    // by one.
    let first = peer.anon(DRAWN, Ids::each(10_000))?;
    scanner::scan(2)?;
    let second = peer.map(Kind::Anon, DRAWN)?;
    peer.fill(second, Ids::each(10_000))?;
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&peer, first), (&peer, second)])?;
    let pairs = || frames.windows(2).map(|pair| (pair[0], pair[1]));
    let near = |&(Frame(one), Frame(next)): &(Frame, Frame)| one.abs_diff(next) <= NEAR;
    let near = pairs().filter(near).count();
    let ascents = pairs().filter(|(one, next)| one < next).count();
    println!("security: of 255 pairs of successive frames {near} are near, {ascents} ascend");
    expect::within("successive frames that are near", 0..=MOST_NEAR, near)?;
    expect::within("frames that follow a lower one", ASCENTS, ascents)
}
