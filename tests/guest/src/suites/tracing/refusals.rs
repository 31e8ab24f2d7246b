// SPDX-License-Identifier: GPL-2.0

//! Pages that are not merged: there is an event for each, with the reason, and a count.

use std::collections::BTreeMap;

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::probe::CallCount;
use guest::ksm_v::debugfs;
use guest::ksm_v::events::Event;
use guest::ksm_v::events::Recorder;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::HUGE;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Result;
use guest::Span;

use super::only;
use super::IDS;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    a_pinned_page_is_refused_as_pinned,
    a_pinned_page_of_zeros_is_refused_as_pinned,
    pages_with_equal_samples_are_refused_as_different,
    pages_whose_equals_were_locked_are_refused_as_target_gone,
    pages_beyond_the_limit_are_refused_as_full,
    pages_of_too_many_processes_are_left_alone,
    pages_with_several_mappings_are_involved,
    pages_of_a_full_cgroup_are_merged_without_reclaim,
];

pub(super) const HUGE_TESTS: &[Test] =
    tests![parts_of_a_large_page_with_references_are_refused_as_busy];

/// Merges what can be merged, and returns the refusals; expects that the counts match them.
fn refused() -> Result<Vec<Event>> {
    let before = debugfs::refusals()?;
    let recorder = Recorder::start()?;
    scanner::merge()?;
    let mut events = recorder.events()?;
    events.retain(|event| event.name == "refuse");
    let mut expected = before;
    for event in &events {
        let reason = event.text("reason")?;
        *expected
            .get_mut(reason)
            .ok_or_else(|| format!("refusals: expected the reason {reason}, found none"))? += 1;
    }
    expect::eq("counts of refusals", expected, debugfs::refusals()?)?;
    Ok(events)
}

/// The pages of a span that were refused for this reason, by index, with the event.
fn refused_for<'a>(
    events: &'a [Event],
    (peer, span): (&Peer, Span),
    reason: &str,
) -> Result<BTreeMap<u64, &'a Event>> {
    let mut pages = BTreeMap::new();
    for event in events {
        let addr = event.number("addr")? as u64;
        let is_of_span = event.number("tgid")? == peer.pid().into() && span.range().contains(&addr);
        if is_of_span && event.text("reason")? == reason {
            pages.insert((addr - span.addr) / PAGE_SIZE, event);
        }
    }
    Ok(pages)
}

/// Expects that each page of a span was refused for this reason.
fn expect_all<'a>(
    events: &'a [Event],
    pages: (&Peer, Span),
    reason: &str,
) -> Result<BTreeMap<u64, &'a Event>> {
    let refused = refused_for(events, pages, reason)?;
    let numbers: Vec<u64> = refused.keys().copied().collect();
    expect::eq(
        format!("pages refused as {reason}"),
        (0..pages.1.pages).collect(),
        numbers,
    )?;
    Ok(refused)
}

fn a_pinned_page_is_refused_as_pinned(lab: &Lab) -> Result {
    let peers = only(lab, 2, IDS)?;
    let [(a, in_a), (b, in_b)] = &peers[..] else {
        return Err("expected two".into());
    };
    a.pin(*in_a)?;
    let events = refused()?;
    let refused = expect_all(&events, (a, *in_a), "pinned")?;
    let (of_a, of_b) = (a.frames(*in_a)?, b.frames(*in_b)?);
    for (page, event) in refused {
        let index = page as usize;
        expect::eq("pfn", of_a[index].0 as i64, event.number("pfn")?)?;
        expect::eq(
            "target_pfn",
            of_b[index].0 as i64,
            event.number("target_pfn")?,
        )?;
    }
    // The other page's twin stays unavailable, so it is refused each time.
    expect_all(&events, (b, *in_b), "target_gone").map(drop)
}

fn a_pinned_page_of_zeros_is_refused_as_pinned(lab: &Lab) -> Result {
    let peers = only(lab, 1, Ids::ZERO)?;
    let (peer, span) = &peers[0];
    peer.pin(*span)?;
    let events = refused()?;
    let refused = expect_all(&events, (peer, *span), "pinned")?;
    for event in refused.values() {
        expect::eq("target_pfn", 0, event.number("target_pfn")?)?;
    }
    Ok(())
}

/// A sample is only a few words of a page: most pages that differ in one word have equal samples.
fn pages_with_equal_samples_are_refused_as_different(lab: &Lab) -> Result {
    let peers = only(lab, 2, IDS)?;
    let (b, in_b) = &peers[1];
    for page in 0..PAGES {
        b.poke(in_b.page(page).addr + page * 8, 1)?;
    }
    let events = refused()?;
    let mut pages = refused_for(&events, (b, *in_b), "different")?;
    let (a, in_a) = &peers[0];
    pages.append(&mut refused_for(&events, (a, *in_a), "different")?);
    expect::within(
        "pages refused as different",
        PAGES / 2..=PAGES,
        pages.len() as u64,
    )
}

fn pages_whose_equals_were_locked_are_refused_as_target_gone(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let in_a = a.anon(PAGES, IDS)?;
    scanner::scan(2)?;
    a.lock(in_a)?;
    let in_b = b.anon(PAGES, IDS)?;
    let events = refused()?;
    let refused = expect_all(&events, (&b, in_b), "target_gone")?;
    for (event, frame) in refused.values().zip(a.frames(in_a)?) {
        expect::eq("target_pfn", frame.0 as i64, event.number("target_pfn")?)?;
    }
    Ok(())
}

fn pages_beyond_the_limit_are_refused_as_full(lab: &Lab) -> Result {
    knob::set("max_page_sharing", 2)?;
    let peers = only(lab, 3, IDS)?;
    let events = refused()?;
    let mut pages = BTreeMap::new();
    for (peer, span) in &peers {
        pages.append(&mut refused_for(&events, (peer, *span), "full")?);
    }
    expect::eq(
        "pages refused because three sharers are one too many",
        PAGES,
        pages.len() as u64,
    )
}

fn pages_of_too_many_processes_are_left_alone(lab: &Lab) -> Result {
    knob::set("max_page_sharing", 2)?;
    let peers = only(lab, 2, IDS)?;
    let (parent, span) = &peers[0];
    let child = parent.fork()?;
    let events = refused()?;
    let mut pages = refused_for(&events, (parent, *span), "left_alone")?;
    pages.append(&mut refused_for(&events, (&child, *span), "left_alone")?);
    expect::eq(
        "pages of two processes, with at most two sharers",
        PAGES,
        pages.len() as u64,
    )
}

fn pages_with_several_mappings_are_involved(lab: &Lab) -> Result {
    let peers = only(lab, 2, IDS)?;
    let (parent, span) = &peers[0];
    let child = parent.fork()?;
    let events = refused()?;
    let mut pages = refused_for(&events, (parent, *span), "involved")?;
    pages.append(&mut refused_for(&events, (&child, *span), "involved")?);
    expect::eq("pages that two map", PAGES, pages.len() as u64)?;
    // They are merged all the same: each page is then tried by itself, with all its mappings.
    let of_child = child.frames(*span)?;
    pages::expect_frames("pages of both processes", (parent, *span), &of_child)?;
    pages::expect_merged(&[(parent, *span), (&peers[1].0, peers[1].1)]).map(drop)
}

/// The shared page is charged before the replaced pages are freed, so the charge may exceed the limit
/// for a moment.
fn pages_of_a_full_cgroup_are_merged_without_reclaim(lab: &Lab) -> Result {
    knob::set("scope", "registered")?;
    let cgroup = Cgroup::new("full")?;
    cgroup.forbid_swap()?;
    let mut peers = Vec::new();
    for _ in 0..2 {
        let peer = lab.peer_in(User::Alice, &cgroup)?;
        let span = peer.registered(PAGES, IDS)?;
        peers.push((peer, span));
    }
    // Release the charges that CPUs have taken in advance.
    cgroup.throttle(0)?;
    cgroup.limit(cgroup.current_bytes()?)?;
    cgroup.unthrottle()?;
    let reclaims = CallCount::start("try_to_free_mem_cgroup_pages")?;
    let events = refused()?;
    expect::eq("reclaims", 0, reclaims.calls()?)?;
    for (peer, span) in &peers {
        let pages = refused_for(&events, (peer, *span), "no_memory")?;
        expect::eq("pages refused for no memory", 0, pages.len())?;
    }
    let [(a, in_a), (b, in_b)] = &peers[..] else {
        return Err("expected two".into());
    };
    pages::expect_merged(&[(a, *in_a), (b, *in_b)]).map(drop)
}

/// A large folio cannot be split while something else holds a reference to any part of it.
fn parts_of_a_large_page_with_references_are_refused_as_busy(lab: &Lab) -> Result {
    let peers = only(lab, 1, IDS)?;
    let (peer, span) = &peers[0];
    let other = lab.alice()?;
    let huge = other.map(Kind::Anon, HUGE)?;
    other.advise(huge, libc::MADV_HUGEPAGE)?;
    other.register(huge)?;
    other.fill(huge, IDS)?;
    expect::eq(
        "pages in huge pages",
        HUGE,
        other.smaps_pages(huge, "AnonHugePages")?,
    )?;
    other.pin(huge.page(HUGE - 1))?;
    let events = refused()?;
    let mut pages = refused_for(&events, (peer, *span), "busy")?;
    pages.append(&mut refused_for(&events, (&other, huge), "busy")?);
    let pages: Vec<u64> = pages.into_keys().collect();
    expect::eq("pages refused as busy", (0..PAGES).collect(), pages)
}
