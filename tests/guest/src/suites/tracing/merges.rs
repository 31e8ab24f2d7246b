// SPDX-License-Identifier: GPL-2.0

//! Merging and unmerging: there is an event for each page, with its old and its new frame.

use std::time::Instant;

use guest::expect;
use guest::ksm_v::events;
use guest::ksm_v::events::Event;
use guest::ksm_v::events::Recorder;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pagemap::Frame;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task::PATIENCE;
use guest::tests;
use guest::Result;
use guest::Span;

use super::only;
use super::registered;
use super::IDS;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    events_have_the_documented_fields,
    each_page_that_is_merged_is_an_event,
    each_page_of_zeros_that_is_merged_is_an_event,
    pages_that_fork_shared_are_an_event_for_each_mapping,
    unmerging_is_an_event_for_each_process,
    unmerging_for_memory_that_goes_offline_is_told_apart,
];

/// All events and their fields: they are an interface, documented in Documentation/tracing.md.
const FORMATS: &[(&str, &[&str])] = &[
    (
        "break",
        &[
            "pid_t tgid",
            "u32 cause",
            "struct mm_struct * mm",
            "unsigned long addr",
            "unsigned long pfn",
            "bool zero",
        ],
    ),
    (
        "merge",
        &[
            "pid_t tgid",
            "struct mm_struct * mm",
            "unsigned long addr",
            "unsigned long pfn",
            "unsigned long shared_pfn",
        ],
    ),
    (
        "merge_zero",
        &[
            "pid_t tgid",
            "struct mm_struct * mm",
            "unsigned long addr",
            "unsigned long pfn",
        ],
    ),
    (
        "pace",
        &["u64 pass", "u32 share", "u32 previous", "u32 cause"],
    ),
    ("promise", &["bool held", "u64 available", "u64 wanted"]),
    (
        "refuse",
        &[
            "pid_t tgid",
            "u32 reason",
            "struct mm_struct * mm",
            "unsigned long addr",
            "unsigned long pfn",
            "unsigned long target_pfn",
        ],
    ),
    ("start_scan", &["u64 pass"]),
    (
        "stop_scan",
        &[
            "u64 pass",
            "u64 scanned",
            "u64 merged",
            "u64 shared",
            "u64 sharing",
        ],
    ),
    (
        "unmerge",
        &[
            "pid_t tgid",
            "int error",
            "struct mm_struct * mm",
            "u64 pages",
        ],
    ),
    ("unmerge_end", &["u32 cause", "int error"]),
];

fn events_have_the_documented_fields(_: &Lab) -> Result {
    let names: Vec<&str> = FORMATS.iter().map(|&(name, _)| name).collect();
    expect::eq(
        "the events",
        names,
        events::names()?.iter().map(String::as_str).collect(),
    )?;
    for (name, fields) in FORMATS {
        let found = events::format(name)?;
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        expect::eq(format!("fields of {name}"), fields.to_vec(), found)?;
    }
    Ok(())
}

fn named<'a>(events: &'a [Event], name: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.name == name).collect()
}

/// Expects one event of this name for each page of a span, with its former frame.
fn expect_merges(
    events: &[Event],
    name: &str,
    (peer, span): (&Peer, Span),
    before: &[Frame],
) -> Result {
    let after = peer.frames(span)?;
    for (index, (before, after)) in (0..).zip(before.iter().zip(after)) {
        let addr = span.addr + index * PAGE_SIZE;
        let mut of_page = Vec::new();
        for event in named(events, name) {
            if event.number("tgid")? == peer.pid().into() && event.number("addr")? == addr as i64 {
                of_page.push(event);
            }
        }
        let what = format!("{name} of page {index} of {}", peer.pid());
        expect::eq(format!("events, {what}"), 1, of_page.len())?;
        expect::eq(
            format!("pfn, {what}"),
            before.0 as i64,
            of_page[0].number("pfn")?,
        )?;
        if name == "merge" {
            let shared = of_page[0].number("shared_pfn")?;
            expect::eq(format!("shared_pfn, {what}"), after.0 as i64, shared)?;
        }
    }
    Ok(())
}

fn each_page_that_is_merged_is_an_event(lab: &Lab) -> Result {
    let peers = only(lab, 3, IDS)?;
    let mut before = Vec::new();
    for (peer, span) in &peers {
        before.push(peer.frames(*span)?);
    }
    let recorder = Recorder::start()?;
    scanner::merge()?;
    let events = recorder.events()?;
    for ((peer, span), before) in peers.iter().zip(&before) {
        expect_merges(&events, "merge", (peer, *span), before)?;
    }
    let counts = scanner::expect_exact_counts("after merging")?;
    expect::eq("pages_shared", PAGES, counts.shared)?;
    let merges = named(&events, "merge").len() as u64;
    expect::eq(
        "events, of pages_shared + pages_sharing",
        counts.shared + counts.sharing,
        merges,
    )
}

fn each_page_of_zeros_that_is_merged_is_an_event(lab: &Lab) -> Result {
    let peers = only(lab, 2, Ids::ZERO)?;
    let mut before = Vec::new();
    for (peer, span) in &peers {
        before.push(peer.frames(*span)?);
    }
    let recorder = Recorder::start()?;
    scanner::merge()?;
    let events = recorder.events()?;
    for ((peer, span), before) in peers.iter().zip(&before) {
        expect_merges(&events, "merge_zero", (peer, *span), before)?;
    }
    let counts = scanner::expect_exact_counts("after merging")?;
    let merges = named(&events, "merge_zero").len() as i64;
    expect::eq("events, of zero_pages", counts.zero, merges)?;
    expect::eq("events of other pages", 0, named(&events, "merge").len())
}

fn pages_that_fork_shared_are_an_event_for_each_mapping(lab: &Lab) -> Result {
    let peers = only(lab, 2, IDS)?;
    let (parent, span) = &peers[0];
    let before = parent.frames(*span)?;
    let child = parent.fork()?;
    let recorder = Recorder::start()?;
    scanner::merge()?;
    let events = recorder.events()?;
    expect_merges(&events, "merge", (parent, *span), &before)?;
    expect_merges(&events, "merge", (&child, *span), &before)?;
    let counts = scanner::expect_exact_counts("after merging")?;
    let merges = named(&events, "merge").len() as u64;
    expect::eq(
        "events, of all mappings",
        counts.shared + counts.sharing,
        merges,
    )
}

fn unmerging_is_an_event_for_each_process(lab: &Lab) -> Result {
    let mut peers = only(lab, 2, IDS)?;
    peers.push(registered(lab, User::Alice, Ids::ZERO)?);
    scanner::merge()?;
    let recorder = Recorder::start()?;
    scanner::unmerge()?;
    let events = recorder.events()?;
    for (peer, _) in &peers {
        let mut pages = 0;
        for event in named(&events, "unmerge") {
            if event.number("tgid")? == peer.pid().into() {
                expect::eq("error", 0, event.number("error")?)?;
                pages += event.number("pages")?;
            }
        }
        expect::eq(
            format!("pages unmerged of {}", peer.pid()),
            PAGES as i64,
            pages,
        )?;
    }
    let ends = named(&events, "unmerge_end");
    expect::eq("unmerge_end events", 1, ends.len())?;
    expect::eq("cause", "run", ends[0].text("cause")?)?;
    expect::eq("error", 0, ends[0].number("error")?)
}

fn unmerging_for_memory_that_goes_offline_is_told_apart(lab: &Lab) -> Result {
    const MADV_SOFT_OFFLINE: i32 = 101;
    knob::set("movable", 0)?;
    let (a, in_a) = registered(lab, User::Root, IDS)?;
    let (b, _) = registered(lab, User::Root, IDS)?;
    scanner::merge()?;
    let recorder = Recorder::start()?;
    // The first attempt may fail; the page then leaves the frame a moment later.
    let _ = a.advise(in_a.page(3), MADV_SOFT_OFFLINE);
    let start = Instant::now();
    let events = loop {
        let events = recorder.events()?;
        if !named(&events, "unmerge_end").is_empty() || start.elapsed() > PATIENCE {
            break events;
        }
    };
    let end = events.last().ok_or("expected events, found none")?;
    expect::eq("cause", "offline", end.text("cause")?)?;
    expect::eq("error", 0, end.number("error")?)?;
    for peer in [&a, &b] {
        let mut pages = 0;
        for event in named(&events, "unmerge") {
            if event.number("tgid")? == peer.pid().into() {
                pages += event.number("pages")?;
            }
        }
        expect::eq(format!("pages unmerged of {}", peer.pid()), 1, pages)?;
    }
    Ok(())
}
