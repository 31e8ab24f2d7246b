// SPDX-License-Identifier: GPL-2.0

//! The effects of the settings, and which of the two sets of settings is in force.

use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::compat;
use guest::ksm_v::compat::expect_numbers;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::SkippableTest;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::numa;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;
use guest::Span;
use libtest_mimic::Completion;

use super::counts::expect_one;
use super::counts::registered;
use super::counts::registered_by;

pub(super) const TESTS: &[Test] = tests![
    memory_that_is_not_registered_is_left_alone,
    processes_can_take_their_registration_back,
    domain_says_whether_users_share,
    the_run_that_was_written_last_says_whose_settings_hold,
    profile_says_whose_settings_hold,
    either_set_keeps_what_is_written_to_it,
    both_run_files_say_what_the_scanner_does,
    the_sets_can_change_while_it_scans,
    max_page_sharing_is_fixed_while_pages_are_shared,
    merge_across_nodes_is_fixed_while_pages_are_shared,
    unknown_contents_wait_for_the_second_pass,
    smart_scan_skips_pages,
    a_write_to_sleep_millisecs_wakes_the_scanner,
    pages_to_scan_0_looks_at_none,
    passes_are_few_while_nothing_is_registered,
    the_advisor_chooses_pages_to_scan,
];

pub(super) const SKIPPABLE: &[SkippableTest] = tests![
    nodes_are_kept_apart,
    pages_moved_to_another_node_are_kept_apart,
];

fn memory_that_is_not_registered_is_left_alone(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, span) = registered(lab, 8, Ids::same(1))?;
    let plain = peer.anon(8, Ids::same(1))?;
    let other = lab.alice()?;
    let in_other = other.anon(8, Ids::same(1))?;
    let before = (peer.frames(plain)?, other.frames(in_other)?);
    compat::set("run", 1)?;
    compat::wait_scans(4)?;
    expect_one((&peer, span))?;
    pages::expect_frames("not registered", (&peer, plain), &before.0)?;
    pages::expect_frames("not registered", (&other, in_other), &before.1)?;
    // From here on, the other pages of the process are registered, too.
    peer.register_all()?;
    compat::wait_scans(3)?;
    let merged = pages::expect_merged(&[(&peer, plain)])?;
    pages::expect_frames("of a registered process", (&peer, span), &merged)
}

fn processes_can_take_their_registration_back(lab: &Lab) -> Result {
    compat::settle()?;
    let (a, b) = lab.pair()?;
    a.register_all()?;
    b.register_all()?;
    let (in_a, in_b) = (a.anon(8, Ids::each(1))?, b.anon(8, Ids::each(1))?);
    compat::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.unregister_all()?;
    let before = pages::expect_not_merged((&a, in_a))?;
    compat::set("run", 1)?;
    compat::wait_scans(4)?;
    pages::expect_frames("of a process no longer registered", (&a, in_a), &before)?;
    a.check(in_a, Ids::each(1))
}

/// Mainline merges these pages into one in any case.
fn domain_says_whether_users_share(lab: &Lab) -> Result {
    compat::settle()?;
    let _alice = registered(lab, 8, Ids::same(1))?;
    let _bob = registered_by(lab, User::Bob, 8, Ids::same(1))?;
    for (domain, shared) in [("user", 2), ("global", 1)] {
        compat::set("run", 2)?;
        knob::set("domain", domain)?;
        compat::merge()?;
        expect_numbers(
            domain,
            &[("pages_shared", shared), ("pages_sharing", 16 - shared)],
        )?;
    }
    Ok(())
}

/// ksmd sleeps until a process registers memory.
fn passes_are_few_while_nothing_is_registered(lab: &Lab) -> Result {
    compat::settle()?;
    let plain = lab.alice()?;
    plain.anon(8, Ids::each(1))?;
    compat::set("run", 1)?;
    scanner::wait_passes(1)?;
    let (start, before) = (Instant::now(), knob::number("full_scans")?);
    scanner::wait_passes(5)?;
    let passes = knob::number("full_scans")? - before;
    let most = start.elapsed().as_millis() as u64 / 200 + 1;
    expect::within("passes, 200 ms apart", 5..=most, passes)?;
    let (peer, span) = registered(lab, 8, Ids::same(1))?;
    compat::wait_scans(4)?;
    expect_one((&peer, span))
}

fn the_run_that_was_written_last_says_whose_settings_hold(lab: &Lab) -> Result {
    compat::settle()?;
    compat::set("max_page_sharing", 4)?;
    let (peer, span) = registered(lab, 8, Ids::same(1))?;
    let other = lab.alice()?;
    let plain = other.anon(8, Ids::same(2))?;
    knob::set("run", 1)?;
    scanner::wait_passes(4)?;
    expect_one((&peer, span))?;
    expect_one((&other, plain))?;
    compat::set("run", 2)?;
    compat::merge()?;
    expect_numbers(
        "by mainline's settings",
        &[("pages_shared", 2), ("pages_sharing", 6)],
    )?;
    pages::expect_not_merged((&other, plain)).map(drop)
}

fn profile_says_whose_settings_hold(_: &Lab) -> Result {
    let expect_profile = |when: &str, text: &str| {
        expect::eq(
            format!("profile {when}"),
            text,
            knob::read(knob::PROFILE)?.as_str(),
        )
    };
    for state in [1, 0, 2] {
        compat::set("run", state)?;
        expect_profile(&format!("after {state} in compat/run"), "compat\n")?;
        let refused = knob::try_write("run", b"3");
        expect::errno("writing 3 to run", libc::EINVAL, refused)?;
        expect_profile("after a write that was refused", "compat\n")?;
        knob::set("run", state)?;
        expect_profile(&format!("after {state} in run"), "own\n")?;
        compat::set("pages_to_scan", 100)?;
        expect_profile("after another file of compat was written", "own\n")?;
    }
    Ok(())
}

fn either_set_keeps_what_is_written_to_it(_: &Lab) -> Result {
    compat::settle()?;
    compat::set("run", 0)?;
    let own = [
        ("scan_rate", "12345\n"),
        ("sleep_ms", "234\n"),
        ("promote_after", "7\n"),
        ("max_page_sharing", "99\n"),
        ("max_interval", "4\n"),
        ("governor", "manual [auto]\n"),
        ("scope", "all [registered]\n"),
    ];
    let expect_own = |when: &str| {
        own.iter().try_for_each(|&(name, text)| {
            expect::eq(format!("{name} {when}"), text, knob::read(name)?.as_str())
        })
    };
    for (name, text) in own {
        let word = text.split(['[', ']']).nth(1).unwrap_or(text.trim());
        knob::set(name, word)?;
    }
    let mainlines = || -> Result<Vec<String>> {
        let names = compat::names(compat::DIR)?;
        names
            .iter()
            .map(|name| compat::text(compat::DIR, name))
            .collect()
    };
    expect_own("while mainline's hold")?;
    let before = mainlines()?;
    knob::set("run", 0)?;
    expect_own("once they hold")?;
    expect::eq("mainline's", before, mainlines()?)?;
    compat::set("run", 0)?;
    expect_own("while mainline's hold again")
}

fn both_run_files_say_what_the_scanner_does(_: &Lab) -> Result {
    compat::settle()?;
    for state in [1, 2, 0] {
        compat::set("run", state)?;
        expect::eq("ksm_v/run", state, knob::number("run")?)?;
    }
    for state in [1, 2, 0] {
        knob::set("run", state)?;
        expect_numbers("by the module's own", &[("run", state)])?;
    }
    Ok(())
}

fn the_sets_can_change_while_it_scans(lab: &Lab) -> Result {
    compat::settle()?;
    compat::set("max_page_sharing", 16)?;
    let (peer, span) = registered(lab, 64, Ids::same(1))?;
    let other = lab.alice()?;
    let plain = other.anon(64, Ids::same(1))?;
    for _ in 0..10 {
        knob::set("run", 1)?;
        scanner::wait_passes(2)?;
        compat::set("run", 1)?;
        compat::wait_scans(2)?;
        peer.fill(span, Ids::same(2))?;
    }
    peer.check(span, Ids::same(2))?;
    other.check(plain, Ids::same(1))?;
    compat::set("run", 0)?;
    scanner::expect_exact_counts("after all changes").map(drop)
}

/// Expects that a setting stays at `now` while pages are shared.
fn expect_fixed(lab: &Lab, name: &str, now: i64, other: i64) -> Result {
    let (_peer, _) = registered(lab, 8, Ids::same(1))?;
    compat::merge()?;
    let written = knob::try_write_in(compat::DIR, name, other.to_string().as_bytes());
    expect::errno(format!("{name} with shared pages"), libc::EBUSY, written)?;
    expect_numbers("with shared pages", &[(name, now)])?;
    compat::set(name, now)?;
    compat::set("run", 2)?;
    compat::set(name, other)?;
    expect_numbers("with nothing shared", &[(name, other)])
}

fn max_page_sharing_is_fixed_while_pages_are_shared(lab: &Lab) -> Result {
    compat::settle()?;
    expect_fixed(lab, "max_page_sharing", 256, 10)
}

fn merge_across_nodes_is_fixed_while_pages_are_shared(lab: &Lab) -> Result {
    compat::settle()?;
    expect_fixed(lab, "merge_across_nodes", 1, 0)
}

/// A page with a new content is not merged at the first sighting, and is merged in the second pass at
/// the latest.
fn unknown_contents_wait_for_the_second_pass(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, span) = registered(lab, 1, Ids::same(1))?;
    let (later, in_later) = registered(lab, 1, Ids::same(2))?;
    compat::set("run", 1)?;
    compat::wait_scans(3)?;
    pages::expect_not_merged((&peer, span))?;
    later.fill(in_later, Ids::same(1))?;
    compat::wait_scans(2)?;
    pages::expect_merged(&[(&peer, span), (&later, in_later)]).map(drop)
}

fn smart_scan_skips_pages(lab: &Lab) -> Result {
    compat::settle()?;
    let (_peer, _) = registered(lab, 64, Ids::each(1))?;
    let skipped = || compat::number("pages_skipped");
    let before = skipped()?;
    compat::set("run", 1)?;
    compat::wait_scans(10)?;
    expect::eq("pages_skipped without", before, skipped()?)?;
    compat::set("smart_scan", 1)?;
    compat::wait_scans(10)?;
    let after = skipped()?;
    expect::that(after >= before + 64, || {
        format!("pages_skipped with: expected 64 more than {before}, found {after}")
    })
}

fn a_write_to_sleep_millisecs_wakes_the_scanner(lab: &Lab) -> Result {
    compat::settle()?;
    let (_peer, _) = registered(lab, 8, Ids::each(1))?;
    compat::set("run", 1)?;
    compat::wait_scans(1)?;
    let recorder = scanner::record_pauses()?;
    compat::set("sleep_millisecs", 1_000_000)?;
    // The scanner may have been in a cycle, or in a pause that ended at once.
    let is_long = |&ticks: &u64| ticks > 10_000;
    let pauses = || scanner::ticks(&recorder).unwrap_or_default();
    let paused = task::wait_until(task::PATIENCE, || pauses().iter().any(is_long));
    expect::that(paused, || {
        format!("expected a long pause, found {:?}", pauses())
    })?;
    let before = compat::number("full_scans")?;
    sleep(Duration::from_secs(2));
    expect_numbers("in a long pause", &[("full_scans", before)])?;
    compat::set("sleep_millisecs", 10)?;
    compat::wait_scans(3)
}

fn pages_to_scan_0_looks_at_none(lab: &Lab) -> Result {
    compat::settle()?;
    let (_peer, _) = registered(lab, 8, Ids::each(1))?;
    compat::set("pages_to_scan", 0)?;
    compat::set("run", 1)?;
    let before = compat::number("pages_scanned")?;
    // The scanner must not loop without pauses.
    let recorder = scanner::record_pauses()?;
    let paused = task::wait_until(task::PATIENCE, || {
        recorder.count().is_ok_and(|count| count >= 20)
    });
    expect::that(paused, || "expected 20 pauses and more")?;
    let longest = scanner::ticks(&recorder)?.into_iter().max();
    expect::that(longest > Some(0), || "expected pauses that last")?;
    expect_numbers("with nothing to scan", &[("pages_scanned", before)])?;
    compat::set("pages_to_scan", 100)?;
    compat::wait_scans(2)
}

fn the_advisor_chooses_pages_to_scan(lab: &Lab) -> Result {
    compat::settle()?;
    let (_peer, _) = registered(lab, 64, Ids::each(1))?;
    // A pass that takes long enough uses little CPU time, so the advisor raises the number of pages.
    compat::set("advisor_max_pages_to_scan", 333)?;
    compat::set("sleep_millisecs", 20)?;
    compat::set("advisor_mode", "scan-time")?;
    expect_numbers("at first", &[("pages_to_scan", 500)])?;
    compat::set("run", 1)?;
    let is_advised =
        || compat::number("pages_to_scan").is_ok_and(|pages| (10..=333).contains(&pages));
    let advised = task::wait_until(task::PATIENCE, is_advised);
    expect::that(advised, || {
        format!("pages_to_scan: {:?}", compat::number("pages_to_scan"))
    })?;
    compat::set("advisor_mode", "none")?;
    expect_numbers("without", &[("pages_to_scan", 100)])
}

/// Maps registered pages on a node.
fn on_node(peer: &Peer, node: u64) -> Result<Span> {
    let span = peer.map(Kind::Anon, 16)?;
    peer.keep_small(span)?;
    peer.bind(span, node)?;
    peer.fill(span, Ids::same(1))?;
    peer.register(span)?;
    Ok(span)
}

/// The number of pages of a span on a node.
fn pages_on(peer: &Peer, span: Span, node: u64) -> Result<u64> {
    let maps = procfs::read(&format!("/proc/{}/numa_maps", peer.pid()))?;
    let start = format!("{:x} ", span.addr);
    let line = maps.lines().find(|line| line.starts_with(&start));
    let line = line.ok_or_else(|| format!("no {span:?} in numa_maps"))?;
    let field = format!("N{node}=");
    let mut fields = line.split_whitespace();
    let pages = fields.find_map(|word| word.strip_prefix(&field)?.parse().ok());
    Ok(pages.unwrap_or(0))
}

/// The kernel moves a shared page, which belongs to its new node from then on.
fn pages_moved_to_another_node_are_kept_apart(lab: &Lab) -> Result<Completion> {
    if !numa::are_two() {
        return Ok(Completion::ignored_with("the machine has one node"));
    }
    compat::settle()?;
    compat::set("merge_across_nodes", 0)?;
    let peer = lab.alice()?;
    let first = on_node(&peer, 0)?;
    compat::merge()?;
    expect_one((&peer, first))?;
    let found = numa::move_pages(peer.pid(), &[first.addr], &[1]).context(|| "move_pages")?;
    if found != [1] {
        return Ok(Completion::ignored_with("merged pages are not movable"));
    }
    let late = on_node(&peer, 0)?;
    compat::merge()?;
    for (node, span) in [(1, first), (0, late)] {
        expect_one((&peer, span))?;
        let on_node = pages_on(&peer, span, node)?;
        expect::eq(format!("pages on node {node}"), 16, on_node)?;
    }
    Ok(Completion::Completed)
}

fn nodes_are_kept_apart(lab: &Lab) -> Result<Completion> {
    if !numa::are_two() {
        return Ok(Completion::ignored_with("the machine has one node"));
    }
    compat::settle()?;
    let peer = lab.alice()?;
    let spans = [on_node(&peer, 0)?, on_node(&peer, 1)?];
    compat::merge()?;
    expect_numbers(
        "across nodes",
        &[("pages_shared", 1), ("pages_sharing", 31)],
    )?;
    compat::set("run", 2)?;
    compat::set("merge_across_nodes", 0)?;
    // The kernel does not specify the node of a copy, so move the pages back to their nodes.
    for (node, span) in (0..).zip(spans) {
        peer.bind(span, node)?;
        expect::eq(
            format!("pages on node {node}"),
            16,
            pages_on(&peer, span, node)?,
        )?;
    }
    compat::merge()?;
    expect_numbers(
        "of each node",
        &[("pages_shared", 2), ("pages_sharing", 30)],
    )?;
    for (node, span) in (0..).zip(spans) {
        expect_one((&peer, span))?;
        expect::eq(
            format!("pages on node {node}"),
            16,
            pages_on(&peer, span, node)?,
        )?;
    }
    Ok(Completion::Completed)
}
