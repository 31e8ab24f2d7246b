// SPDX-License-Identifier: GPL-2.0

//! Memory failures and contended page table locks at moments that no other test can produce, provoked
//! by the modules `ksm_v_fail_copy` and `ksm_v_contend` (`tests/provoke`).

use guest::expect;
use guest::kernel::probe::CallCount;
use guest::kernel::procfs;
use guest::ksm_v::debugfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;

mod frames;

const TESTS: &[Test] = tests![
    a_page_that_can_not_be_copied_is_not_merged,
    who_waits_for_a_page_table_is_let_in_while_it_is_read,
    who_waits_for_a_page_table_is_let_in_while_pages_are_merged,
];

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    [TESTS, frames::TESTS]
        .into_iter()
        .flat_map(|tests| lab::trials("inject", tests))
        .collect()
}

const IDS: Ids = Ids::each(100);

const FAIL_COPY: &str = "/sys/kernel/debug/ksm_v_fail_copy";
const CONTEND: &str = "/sys/kernel/debug/ksm_v_contend";

/// The number of entries after which the module checks whether somebody waits for the lock
/// (`PATIENCE` of `rust/mm/walk.rs` and `rust/mm/neighbours.rs`).
const PATIENCE: u64 = 8;

fn refused(reason: &str) -> Result<u64> {
    let count = debugfs::refusals()?.remove(reason);
    count.ok_or_else(|| format!("refusals: expected a line {reason}").into())
}

/// The frame from which copies failed, and the number of failures.
fn failures() -> Result<(Frame, u64)> {
    let text = procfs::read(FAIL_COPY)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(frame)), Some(Ok(count))) => Ok((Frame(frame), count)),
        _ => Err(format!("{FAIL_COPY}: expected two numbers, found {text:?}").into()),
    }
}

/// The content of a new shared page is copied from a page with failed memory. The kernel removes that
/// page from its process; the other page with the same content is merged with a third one.
fn a_page_that_can_not_be_copied_is_not_merged(lab: &Lab) -> Result {
    const PAGES: u64 = 8;
    const PAGE: u64 = 3;
    module::load_beside("ksm_v_fail_copy")?;
    let peers = lab.alices(2)?;
    let mut all = Vec::new();
    for peer in &peers {
        all.push((peer, peer.anon(PAGES, IDS)?));
    }
    let mut frames = Vec::new();
    for (peer, span) in &all {
        frames.push(peer.frame(*span, PAGE)?);
    }
    let text = format!("{} {}", frames[0].0, frames[1].0);
    procfs::write(FAIL_COPY, &text)?;
    let before = refused("failed")?;
    scanner::merge()?;
    let (failed, count) = failures()?;
    expect::within("failed copies", 1..=u64::MAX, count)?;
    expect::eq(
        "pages refused as failed",
        before + count,
        refused("failed")?,
    )?;
    let is_failed = |frame: &Frame| *frame == failed;
    let place = frames.iter().position(is_failed);
    let place = place.ok_or("the failed frame: expected one of the two")?;
    let (whole, in_whole) = all[1 - place];
    whole.check(in_whole, IDS)?;
    for part in [(0, PAGE), (PAGE + 1, PAGES - PAGE - 1)] {
        let parts = all
            .iter()
            .map(|&(peer, span)| (peer, span.part(part.0, part.1)));
        let parts: Vec<_> = parts.collect();
        pages::expect_merged(&parts)?;
        for (peer, span) in parts {
            peer.check(span, Ids::each(100 + part.0))?;
        }
    }
    let third = lab.alice()?;
    let in_third = third.anon(PAGES, IDS)?;
    scanner::merge()?;
    let shared = pages::expect_merged(&[(whole, in_whole), (&third, in_third)])?;
    expect::that(!shared.iter().any(is_failed), || {
        format!("expected nothing to be merged on the failed frame {failed:?}")
    })?;
    whole.check(in_whole, IDS)?;
    third.check(in_third, IDS)?;
    scanner::expect_exact_counts("beside a failed page")?;
    procfs::write(FAIL_COPY, "0")
}

/// A function that the module calls for each page, or each chunk of pages, with the page table lock held. Its
/// arguments include the address and the page table entry.
struct Function {
    name: &'static str,
    addr: u32,
    entry: u32,
}

/// Merges the pages of `span` once. From the first page on, a thread waits for the page table lock.
/// Returns the number of calls until that thread had the lock.
fn merge_contended(peer: &Peer, span: Span, function: &Function) -> Result<u64> {
    module::load_beside("ksm_v_contend")?;
    let Function { name, addr, entry } = function;
    let contention = format!("{name} {addr} {entry} {:#x}", span.addr);
    procfs::write(CONTEND, &contention)?;
    knob::set(knob::WRITE_ONLY, scanner::part(peer, span))?;
    let mut calls = None;
    let ended = task::wait_until(task::PATIENCE, || {
        // The number is -1 until then.
        let text = procfs::read(CONTEND).unwrap_or_default();
        calls = text.trim().parse().ok();
        calls.is_some()
    });
    procfs::write(CONTEND, "end")?;
    expect::that(ended, || {
        "expected a thread to wait for the page table lock"
    })?;
    calls.ok_or("no number").context(|| CONTEND)
}

/// The number of pages that the module reads or merges at once.
const BATCH: u64 = 32;

/// A process with this many pages in one page table.
fn batch(lab: &Lab, ids: Ids) -> Result<(Peer, Span)> {
    const TABLE: u64 = PAGE_SIZE * PAGE_SIZE / 8;
    let peer = lab.alice()?;
    let span = peer.map(Kind::Anon, 2 * BATCH)?;
    peer.keep_small(span)?;
    let half = |first| span.part(first, BATCH);
    let is_split = |part: &Span| part.addr / TABLE != (part.addr + part.bytes() - 1) / TABLE;
    let first = Some(half(0)).filter(|part| !is_split(part));
    let part = first.unwrap_or(half(BATCH));
    peer.fill(part, ids)?;
    Ok((peer, part))
}

fn who_waits_for_a_page_table_is_let_in_while_it_is_read(lab: &Lab) -> Result {
    let [a, b] = [batch(lab, IDS)?, batch(lab, IDS)?];
    let function = Function {
        name: "ksm_v_ptes_mapped",
        addr: 2,
        entry: 0,
    };
    let chunks = CallCount::start(function.name)?;
    let calls = merge_contended(&a.0, a.1, &function)?;
    expect::eq("further chunks read while a thread waits", 0, calls)?;
    // The waiting thread had the lock before all entries of the chunk were shown. The others were read again.
    expect::eq("chunks read", 2, chunks.calls()?)?;
    scanner::merge_at_once(scanner::part(&b.0, b.1))?;
    pages::expect_merged(&[(&a.0, a.1), (&b.0, b.1)]).map(drop)
}

fn who_waits_for_a_page_table_is_let_in_while_pages_are_merged(lab: &Lab) -> Result {
    let [a, b, c, d] = [(); 4].map(|()| batch(lab, IDS));
    let (a, b, c, d) = (a?, b?, c?, d?);
    let now = |of: &(Peer, Span)| knob::set(knob::WRITE_ONLY, scanner::part(&of.0, of.1));
    now(&a)?;
    scanner::merge_at_once(scanner::part(&b.0, b.1))?;
    let shared = pages::expect_merged(&[(&a.0, a.1), (&b.0, b.1)])?;
    let before = refused("busy")?;
    now(&c)?;
    expect::eq("pages skipped while nobody waits", before, refused("busy")?)?;
    let function = Function {
        name: "ksm_v_set_pte_at",
        addr: 1,
        entry: 2,
    };
    merge_contended(&d.0, d.1, &function)?;
    let left = refused("busy")? - before;
    expect::within(
        "pages skipped while a thread waits",
        BATCH - PATIENCE..=BATCH - 1,
        left,
    )?;
    d.0.check(d.1, IDS)?;
    now(&d)?;
    pages::expect_frames("pages of the last process", (&d.0, d.1), &shared)?;
    d.0.check(d.1, IDS)
}
