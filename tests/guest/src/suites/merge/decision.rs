// SPDX-License-Identifier: GPL-2.0

//! When pages are merged: how many sightings it takes, and that bytes decide, not the hash.

use std::collections::HashMap;

use engine::hash::fnv1a_32;
use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content;
use guest::memory::content::Ids;
use guest::memory::content::WORDS;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::rng::Rng;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    unknown_pages_wait_for_their_promotion,
    pages_in_flux_are_not_merged,
    known_pages_are_merged_at_first_sight,
    zeros_are_merged_at_first_sight,
    nearly_zero_pages_are_no_zeros,
    nearly_equal_pages_stay_apart,
    bytes_decide_where_bytewise_hashes_collide,
    bytewise_hash_merges,
    pages_written_between_passes_stay_correct,
];

/// Tests for a CPU without 32-byte vectors, where pages are compared word by word.
pub(super) const SCALAR_TESTS: &[Test] = tests![
    the_processor_has_no_vectors,
    zeros_are_merged_at_first_sight,
    nearly_zero_pages_are_no_zeros,
    nearly_equal_pages_stay_apart,
    pages_written_between_passes_stay_correct,
];

/// Makes each pass take 50 ms, so that the test can observe it; all memory fits into one cycle.
fn scan_slowly() -> Result {
    knob::set("sleep_ms", 50)?;
    scanner::start()
}

/// Two equal pages yield two sightings per pass, so 20 sightings take about ten passes.
fn unknown_pages_wait_for_their_promotion(lab: &Lab) -> Result {
    knob::set("promote_after", 20)?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(1, Ids::same(1))?, b.anon(1, Ids::same(1))?);
    let begun = knob::number("full_scans")?;
    let passes = || knob::number("full_scans").map(|count| count - begun);
    scan_slowly()?;
    loop {
        // The scanner continues during the checks: `before` is a lower bound, `after` an upper bound.
        let before = passes()?;
        if a.frames(in_a)? == b.frames(in_b)? {
            break;
        }
        expect::within("whole passes without a merge", 0..=13, before)?;
    }
    let after = passes()?;
    scanner::stop()?;
    expect::that(after >= 9, || {
        format!("whole passes until 20 sightings of two pages: expected 9 or more, found {after}")
    })
}

/// Pages that stay equal but change faster than they are promoted are not merged.
fn pages_in_flux_are_not_merged(lab: &Lab) -> Result {
    knob::set("promote_after", 20)?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(4, Ids::each(1))?, b.anon(4, Ids::each(1))?);
    let before = (a.frames(in_a)?, b.frames(in_b)?);
    for round in 2..8 {
        let ids = Ids::each(round * 100);
        a.fill(in_a, ids)?;
        b.fill(in_b, ids)?;
        scan_slowly()?;
        scanner::wait_passes(4)?;
        scanner::stop()?;
        pages::expect_frames("pages in flux", (&a, in_a), &before.0)?;
        pages::expect_frames("pages in flux", (&b, in_b), &before.1)?;
    }
    scanner::scan(12)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

fn known_pages_are_merged_at_first_sight(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, Ids::each(1))?, b.anon(8, Ids::each(1))?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    knob::set("promote_after", 255)?;
    let (c, d) = lab.pair()?;
    let (in_c, in_d) = (c.anon(8, Ids::each(1))?, d.anon(8, Ids::each(1001))?);
    let of_d = d.frames(in_d)?;
    scanner::scan(2)?;
    pages::expect_frames("a third process's equal pages", (&c, in_c), &frames)?;
    pages::expect_frames("pages that are not known", (&d, in_d), &of_d)?;
    pages::expect_mappings(&frames, 3)
}

fn zeros_are_merged_at_first_sight(lab: &Lab) -> Result {
    knob::set("promote_after", 255)?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, Ids::ZERO)?, b.anon(8, Ids::ZERO)?);
    pages::expect_not_merged((&a, in_a))?;
    scanner::scan(2)?;
    pages::expect_zero_page((&a, in_a))?;
    pages::expect_zero_page((&b, in_b))?;
    let found = scanner::expect_exact_counts("with pages of zeros")?;
    let kernel = procfs::number(&format!("{}/ksm_zero_pages", knob::MAINLINE))?;
    expect::eq(
        "zero_pages, as mainline counts them",
        kernel,
        knob::number("zero_pages")?,
    )?;
    expect::that(found.zero >= 16, || {
        format!("zero_pages: expected 16 or more, found {found:?}")
    })?;
    a.check(in_a, Ids::ZERO)?;
    a.fill(in_a, Ids::each(1))?;
    a.check(in_a, Ids::each(1))?;
    b.check(in_b, Ids::ZERO)?;
    let after = scanner::expect_exact_counts("after eight were written")?;
    expect::eq(
        "zero_pages after eight were written",
        found.zero - 8,
        after.zero,
    )?;
    drop((a, b));
    scanner::expect_exact_counts("after the processes ended").map(drop)
}

fn the_processor_has_no_vectors(_: &Lab) -> Result {
    let processors = procfs::read("/proc/cpuinfo")?;
    expect::that(!processors.contains(" avx2"), || {
        "this suite needs a guest booted with clearcpuid=avx2"
    })
}

/// Flips one bit in each page: a different word and a different bit from page to page.
fn change_a_bit_of_each_word(peer: &Peer, span: Span) -> Result {
    for index in 0..WORDS as u64 {
        let addr = span.page(index).addr + index * 8;
        peer.poke(addr, peer.peek(addr)? ^ (1 << (index * 7 % 64)))?;
    }
    Ok(())
}

fn nearly_zero_pages_are_no_zeros(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = peer.anon(WORDS as u64, Ids::ZERO)?;
    change_a_bit_of_each_word(&peer, span)?;
    let zero = peer.anon(1, Ids::ZERO)?;
    let before = peer.frames(span)?;
    scanner::merge()?;
    pages::expect_zero_page((&peer, zero))?;
    pages::expect_frames("pages with one bit set", (&peer, span), &before)
}

/// Most of these pairs have equal samples, since a sample is only eight words of a page, so the pages
/// are compared in full.
fn nearly_equal_pages_stay_apart(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (ids, pages) = (Ids::each(1), WORDS as u64);
    let (in_a, in_b) = (a.anon(pages, ids)?, b.anon(pages, ids)?);
    change_a_bit_of_each_word(&b, in_b)?;
    let controls = (a.anon(1, Ids::same(9999))?, b.anon(1, Ids::same(9999))?);
    let before = (a.frames(in_a)?, b.frames(in_b)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, controls.0), (&b, controls.1)])?;
    pages::expect_frames("pages whose twin differs in one bit", (&a, in_a), &before.0)?;
    pages::expect_frames("pages with one bit changed", (&b, in_b), &before.1)
}

/// A page with one or two changed words.
#[derive(Clone, Copy)]
struct Changed<'a>(u64, &'a [(usize, u64)]);

impl Changed<'_> {
    fn words(self) -> [u64; WORDS] {
        let mut words = *content::page(self.0);
        for &(index, value) in self.1 {
            words[index] = value;
        }
        words
    }

    /// The documented hash, which uses no key.
    fn hash(self) -> u64 {
        let mut bytes = [0; content::PAGE_SIZE as usize];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.words()) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        u64::from(fnv1a_32(&bytes))
    }

    fn map(self, peer: &Peer) -> Result<Span> {
        let span = peer.anon(1, Ids::same(self.0))?;
        for &(index, value) in self.1 {
            peer.poke(span.addr + index as u64 * 8, value)?;
        }
        Ok(span)
    }

    fn check(self, peer: &Peer, span: Span) -> Result {
        for &(index, value) in self.1 {
            let found = peer.peek(span.addr + index as u64 * 8)?;
            expect::eq(
                format!("word {index} of a page with a colliding hash"),
                value,
                found,
            )?;
        }
        Ok(())
    }
}

/// Pages with the same hash but different bytes must not share a frame, in any order of sightings and
/// however often they are seen.
fn expect_bytes_decide(lab: &Lab, one: Changed, other: Changed) -> Result {
    expect::eq("hash of two colliding pages", one.hash(), other.hash())?;
    expect::ne("words of two colliding pages", one.words(), other.words())?;
    let peers = lab.alices(4)?;
    let variants = [one, other, one, other];
    let mut spans = Vec::new();
    for (peer, variant) in peers.iter().zip(variants) {
        spans.push(variant.map(peer)?);
    }
    let controls = (
        peers[0].anon(1, Ids::same(9))?,
        peers[1].anon(1, Ids::same(9))?,
    );
    scanner::scan(8)?;
    pages::expect_merged(&[(&peers[0], controls.0), (&peers[1], controls.1)])?;
    for index in 0..4 {
        variants[index].check(&peers[index], spans[index])?;
        for unequal in [(index + 1) % 4, (index + 3) % 4] {
            let (frame, of_unequal) = (
                peers[index].frames(spans[index])?,
                peers[unequal].frames(spans[unequal])?,
            );
            expect::ne("frame of a page with a colliding hash", frame, of_unequal)?;
        }
    }
    Ok(())
}

/// Two different last words that lead from the same 32-bit state to the same hash, found by search.
fn colliding_last_words(id: u64) -> (u64, u64) {
    const PRIME: u32 = 0x0100_0193;
    let step = |hash: u32, octet: u8| (hash ^ u32::from(octet)).wrapping_mul(PRIME);
    let words = (0..WORDS - 1).map(|index| content::word(id, index));
    let state = words.flat_map(u64::to_ne_bytes).fold(0x811c_9dc5, step);
    let (mut seen, mut rng) = (HashMap::new(), Rng::new(1));
    loop {
        let word = rng.number();
        let hash = word.to_ne_bytes().into_iter().fold(state, step);
        match seen.insert(hash, word) {
            Some(other) if other != word => return (other, word),
            _ => {}
        }
    }
}

fn bytes_decide_where_bytewise_hashes_collide(lab: &Lab) -> Result {
    reload_bytewise()?;
    let (one, other) = colliding_last_words(5);
    let (one, other) = ([(WORDS - 1, one)], [(WORDS - 1, other)]);
    let result = expect_bytes_decide(lab, Changed(5, &one), Changed(5, &other));
    module::reload("")?;
    result
}

fn reload_bytewise() -> Result {
    module::reload("bytewise_hash=1")?;
    scanner::settle_knobs()
}

fn bytewise_hash_merges(lab: &Lab) -> Result {
    reload_bytewise()?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(16, Ids::each(1))?, b.anon(16, Ids::each(1))?);
    let zeros = b.anon(4, Ids::ZERO)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_zero_page((&b, zeros))?;
    scanner::expect_exact_counts("with the bytewise hash")?;
    module::reload("")
}

/// Pages that were equal when they were hashed may differ when they are merged.
fn pages_written_between_passes_stay_correct(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(32, Ids::each(1))?, b.anon(32, Ids::each(1))?);
    scanner::start()?;
    for round in 1..40 {
        let (of_a, of_b) = (Ids::each(round * 50), Ids::each((round + round % 2) * 50));
        a.fill(in_a, of_a)?;
        b.fill(in_b, of_b)?;
        a.check(in_a, of_a)?;
        b.check(in_b, of_b)?;
    }
    scanner::stop()
}
