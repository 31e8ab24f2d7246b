// SPDX-License-Identifier: GPL-2.0

//! Merged pages that the kernel copies on write: there is one event for each copy, and no other event.

use std::time::Duration;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::events::Event;
use guest::ksm_v::events::Recorder;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pagemap::Frame;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::trace;
use guest::tests;
use guest::Result;
use guest::Span;

use super::only;
use super::IDS;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    each_write_to_a_merged_page_is_an_event,
    each_write_to_a_merged_page_of_zeros_is_an_event,
    a_write_by_another_process_is_an_event_of_the_owner,
    unmerging_is_an_event_for_each_copy,
    writes_to_pages_that_were_not_merged_are_no_events,
    there_is_a_probe_only_while_breaks_are_traced,
    is_unloaded_while_breaks_are_traced,
];

const NEW: Ids = Ids::each(7000);
const PROBES: &str = "/sys/kernel/debug/kprobes/list";

/// The break events of pages of a process, as (address, frame).
fn breaks(recorder: &Recorder, peer: &Peer, cause: &str, zero: bool) -> Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    for event in breaks_of(recorder, peer)? {
        expect::eq(format!("cause, of {event:?}"), cause, event.text("cause")?)?;
        expect::eq(
            format!("zero, of {event:?}"),
            i64::from(zero),
            event.number("zero")?,
        )?;
        found.push((event.number("addr")? as u64, event.number("pfn")? as u64));
    }
    Ok(found)
}

fn breaks_of(recorder: &Recorder, peer: &Peer) -> Result<Vec<Event>> {
    let mut events = recorder.events()?;
    let pid = i64::from(peer.pid());
    events.retain(|event| event.name == "break" && event.number("tgid").ok() == Some(pid));
    Ok(events)
}

/// Each page of a span with its former frame.
fn pages_on(span: Span, frames: &[Frame]) -> Vec<(u64, u64)> {
    let addresses = span.range().step_by(PAGE_SIZE as usize);
    addresses.zip(frames.iter().map(|frame| frame.0)).collect()
}

fn expect_breaks_by_writes(lab: &Lab, ids: Ids, zero: bool) -> Result {
    let peers = only(lab, 2, ids)?;
    let [(a, in_a), (b, _)] = &peers[..] else {
        return Err("expected two".into());
    };
    scanner::merge()?;
    let before = a.frames(*in_a)?;
    let recorder = Recorder::start()?;
    a.check(*in_a, ids)?;
    expect::eq("breaks caused by reads", 0, breaks_of(&recorder, a)?.len())?;
    a.fill(*in_a, NEW)?;
    let expected = pages_on(*in_a, &before);
    expect::eq(
        "breaks",
        expected.clone(),
        breaks(&recorder, a, "write", zero)?,
    )?;
    a.fill(*in_a, IDS)?;
    expect::eq(
        "breaks, after writing to the copies",
        expected,
        breaks(&recorder, a, "write", zero)?,
    )?;
    expect::eq(
        "breaks of the other process",
        0,
        breaks_of(&recorder, b)?.len(),
    )
}

fn each_write_to_a_merged_page_is_an_event(lab: &Lab) -> Result {
    expect_breaks_by_writes(lab, IDS, false)
}

fn each_write_to_a_merged_page_of_zeros_is_an_event(lab: &Lab) -> Result {
    expect_breaks_by_writes(lab, Ids::ZERO, true)
}

fn a_write_by_another_process_is_an_event_of_the_owner(lab: &Lab) -> Result {
    let peers = only(lab, 2, IDS)?;
    let (peer, span) = &peers[0];
    scanner::merge()?;
    let before = peer.frames(*span)?;
    let recorder = Recorder::start()?;
    trace::write(peer.pid(), span.page(5).addr, &[1])?;
    expect::eq(
        "breaks",
        pages_on(span.page(5), &before[5..]),
        breaks(&recorder, peer, "write", false)?,
    )
}

fn unmerging_is_an_event_for_each_copy(lab: &Lab) -> Result {
    let peers = only(lab, 2, IDS)?;
    scanner::merge()?;
    let (peer, span) = &peers[0];
    let before = peer.frames(*span)?;
    let recorder = Recorder::start()?;
    scanner::unmerge()?;
    expect::eq(
        "breaks",
        pages_on(*span, &before),
        breaks(&recorder, peer, "unshare", false)?,
    )
}

/// Pages shared by fork, zero pages that were only read, and private pages cause no events.
fn writes_to_pages_that_were_not_merged_are_no_events(lab: &Lab) -> Result {
    let peers = only(lab, 1, IDS)?;
    let (parent, span) = &peers[0];
    let recorder = Recorder::start()?;
    let child = parent.fork()?;
    child.fill(*span, NEW)?;
    parent.fill(*span, NEW)?;
    let fresh = parent.map(Kind::Anon, PAGES)?;
    parent.check(fresh, Ids::ZERO)?;
    parent.fill(fresh, NEW)?;
    for peer in [parent, &child] {
        expect::eq("breaks", 0, breaks_of(&recorder, peer)?.len())?;
    }
    Ok(())
}

fn is_probed() -> Result<bool> {
    Ok(procfs::read(PROBES)?.contains("do_wp_page"))
}

fn there_is_a_probe_only_while_breaks_are_traced(lab: &Lab) -> Result {
    let peers = only(lab, 2, IDS)?;
    let (peer, span) = &peers[0];
    scanner::merge()?;
    expect::eq("is_probed before", false, is_probed()?)?;
    let recorder = Recorder::start()?;
    expect::eq("is_probed while traced", true, is_probed()?)?;
    procfs::write(&recorder.file("events/ksm_v/ksm_v_break/enable"), "0")?;
    expect::eq("is_probed after switching off", false, is_probed()?)?;
    peer.fill(*span, NEW)?;
    expect::eq("breaks", 0, breaks_of(&recorder, peer)?.len())?;
    recorder.enable()?;
    expect::eq("is_probed after switching on", true, is_probed()?)?;
    drop(recorder);
    expect::eq("is_probed afterwards", false, is_probed()?)
}

/// The process keeps writing to its pages while they are first merged and traced, and then no longer.
fn is_unloaded_while_breaks_are_traced(lab: &Lab) -> Result {
    const TIME: Duration = Duration::from_millis(300);
    let peers = only(lab, 2, IDS)?;
    let (peer, span) = &peers[0];
    let recorder = Recorder::start()?;
    for _ in 0..5 {
        knob::set("scope", "registered")?;
        scanner::merge()?;
        peer.begin("flip", &[span.addr, span.pages, TIME.as_millis() as u64])?;
        expect::eq("is_probed while traced", true, is_probed()?)?;
        module::unload()?;
        expect::eq("is_probed after unloading", false, is_probed()?)?;
        peer.finish("flip")?;
        peer.check(*span, IDS)?;
        module::load("")?;
        recorder.enable()?;
    }
    Ok(())
}
