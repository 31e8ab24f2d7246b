// SPDX-License-Identifier: GPL-2.0

//! The counts for real processes, in the meaning of mainline's counts.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::compat;
use guest::ksm_v::compat::expect_numbers;
use guest::ksm_v::compat::InPlace;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    equal_pages_of_a_process_become_one,
    programs_that_know_mainline_see_it_work,
    run_2_zeroes_what_mainline_zeroes,
    different_pages_are_unshared,
    changing_pages_are_volatile,
    a_forked_page_is_volatile_in_the_child,
    pages_that_are_given_up_are_not_counted,
    max_page_sharing_makes_copies,
    one_page_too_many_stays_unshared,
    pages_of_zeroes_are_merged_like_others,
    use_zero_pages_takes_the_zero_page,
    zeroes_of_a_split_huge_page_count_for_use_zero_pages_only,
    general_profit_is_what_was_saved_less_the_tables,
    full_scans_counts_where_there_is_registered_memory,
    full_scans_counts_passes_over_all_memory,
    processes_are_not_told_of_merging,
];

/// A process of Alice with registered pages.
pub(super) fn registered(lab: &Lab, pages: u64, ids: Ids) -> Result<(Peer, Span)> {
    registered_by(lab, User::Alice, pages, ids)
}

/// A process of `user` with registered pages.
pub(super) fn registered_by(lab: &Lab, user: User, pages: u64, ids: Ids) -> Result<(Peer, Span)> {
    let peer = lab.peer(user)?;
    let span = peer.map(Kind::Anon, pages)?;
    peer.keep_small(span)?;
    peer.fill(span, ids)?;
    peer.register(span)?;
    Ok((peer, span))
}

/// Expects that all pages of a span share one frame.
pub(super) fn expect_one((peer, span): (&Peer, Span)) -> Result {
    let frames = pages::expect_merged(&[(peer, span)])?;
    pages::expect_mappings(&frames[..1], span.pages)
}

fn equal_pages_of_a_process_become_one(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, span) = registered(lab, 100, Ids::same(1))?;
    compat::merge()?;
    expect_numbers(
        "of 100 equal pages",
        &[
            ("pages_shared", 1),
            ("pages_sharing", 99),
            ("pages_unshared", 0),
            ("pages_volatile", 0),
            ("ksm_zero_pages", 0),
            ("stable_node_chains", 0),
            ("stable_node_dups", 0),
        ],
    )?;
    expect_one((&peer, span))?;
    peer.check(span, Ids::same(1))
}

/// Reads and writes only mainline's own paths.
fn programs_that_know_mainline_see_it_work(lab: &Lab) -> Result {
    compat::settle()?;
    let _files = InPlace::mount()?;
    let number = |name: &str| procfs::number(&format!("{}/{name}", knob::MAINLINE));
    let (peer, span) = registered(lab, 50, Ids::same(1))?;
    let scans = number("full_scans")?;
    procfs::write(&format!("{}/run", knob::MAINLINE), "1")?;
    let reached = task::wait_until(task::PATIENCE, || {
        number("full_scans").is_ok_and(|found| found >= scans + 2)
    });
    expect::that(reached, || format!("full_scans stays at {scans}"))?;
    let found = (number("pages_shared")?, number("pages_sharing")?);
    expect::eq("pages_shared and pages_sharing", (1, 49), found)?;
    expect_one((&peer, span))?;
    procfs::write(&format!("{}/run", knob::MAINLINE), "2")?;
    pages::expect_not_merged((&peer, span)).map(drop)
}

fn run_2_zeroes_what_mainline_zeroes(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, span) = registered(lab, 64, Ids::same(1))?;
    let (_other, _) = registered(lab, 8, Ids::each(100))?;
    compat::set("run", 1)?;
    compat::wait_scans(3)?;
    let scanned = compat::number("pages_scanned")?;
    compat::set("run", 2)?;
    expect_numbers(
        "once everything is unmerged",
        &[
            ("run", 2),
            ("pages_shared", 0),
            ("pages_sharing", 0),
            ("pages_unshared", 0),
            ("pages_volatile", 0),
            ("full_scans", 0),
        ],
    )?;
    let still = compat::number("pages_scanned")?;
    expect::that(still >= scanned, || {
        format!("pages_scanned: expected {scanned} or more, found {still}")
    })?;
    pages::expect_not_merged((&peer, span))?;
    peer.check(span, Ids::same(1))
}

fn different_pages_are_unshared(lab: &Lab) -> Result {
    compat::settle()?;
    let (_peer, _) = registered(lab, 70, Ids::each(1))?;
    compat::merge()?;
    expect_numbers(
        "of 70 different pages",
        &[
            ("pages_shared", 0),
            ("pages_sharing", 0),
            ("pages_unshared", 70),
            ("pages_volatile", 0),
        ],
    )
}

/// Each pass finds changed contents: passes start one second apart, and the pages are written in
/// between.
fn changing_pages_are_volatile(lab: &Lab) -> Result {
    compat::settle()?;
    compat::set("sleep_millisecs", 1000)?;
    let (peer, span) = registered(lab, 40, Ids::each(1))?;
    compat::set("run", 1)?;
    for round in 1..5 {
        compat::wait_scans(1)?;
        peer.fill(span, Ids::each(1000 * round))?;
    }
    compat::wait_scans(1)?;
    expect_numbers(
        "of 40 changing pages",
        &[("pages_unshared", 0), ("pages_volatile", 40)],
    )?;
    compat::wait_scans(2)?;
    expect_numbers(
        "of 40 pages at rest",
        &[("pages_unshared", 40), ("pages_volatile", 0)],
    )
}

/// Mainline does not treat a page as equal to itself.
fn a_forked_page_is_volatile_in_the_child(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, _) = registered(lab, 20, Ids::each(1))?;
    let _child = peer.fork()?;
    compat::merge()?;
    expect_numbers(
        "of 20 pages in two processes",
        &[
            ("pages_shared", 0),
            ("pages_unshared", 20),
            ("pages_volatile", 20),
        ],
    )
}

fn pages_that_are_given_up_are_not_counted(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, span) = registered(lab, 30, Ids::same(1))?;
    let (leaving, _) = registered(lab, 30, Ids::same(1))?;
    let counts = |shared, sharing| [("pages_shared", shared), ("pages_sharing", sharing)];
    compat::set("run", 1)?;
    compat::wait_scans(2)?;
    expect_numbers("of two processes", &counts(1, 59))?;
    leaving.exit()?;
    compat::wait_scans(1)?;
    expect_numbers("of one process", &counts(1, 29))?;
    peer.fill(Span::new(span.addr, 10), Ids::each(100))?;
    compat::wait_scans(1)?;
    expect_numbers("after 10 were written to", &counts(1, 19))?;
    peer.advise(span, libc::MADV_UNMERGEABLE)?;
    pages::expect_not_merged((&peer, span))?;
    compat::wait_scans(1)?;
    expect_numbers("once none is registered", &counts(0, 0))?;
    compat::wait_scans(2)?;
    expect_numbers(
        "when that has been noticed",
        &[("pages_unshared", 0), ("pages_volatile", 0)],
    )
}

fn max_page_sharing_makes_copies(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, span) = registered(lab, 1000, Ids::same(1))?;
    let (_other, _) = registered(lab, 300, Ids::same(2))?;
    let (_single, _) = registered(lab, 256, Ids::same(3))?;
    compat::merge()?;
    expect_numbers(
        "of 1000, 300 and 256 equal pages with max_page_sharing 256",
        &[
            ("pages_shared", 4 + 2 + 1),
            ("pages_sharing", 1000 + 300 + 256 - 7),
            ("pages_unshared", 0),
            ("stable_node_chains", 2),
            ("stable_node_dups", 4 + 2),
        ],
    )?;
    for frame in pages::expect_merged(&[(&peer, span)])? {
        expect::within("mappings of a shared page", 2..=256, frame.mappings()?)?;
    }
    compat::set("run", 2)?;
    expect_numbers(
        "once everything is unmerged",
        &[("stable_node_chains", 0), ("stable_node_dups", 0)],
    )
}

fn one_page_too_many_stays_unshared(lab: &Lab) -> Result {
    compat::settle()?;
    compat::set("max_page_sharing", 10)?;
    let (_peer, _) = registered(lab, 31, Ids::same(1))?;
    compat::set("run", 1)?;
    // Two passes merge the pages, and one finds the last page unchanged. More passes are needed if
    // the kernel held a page for a moment.
    compat::wait_scans(5)?;
    expect_numbers(
        "of 31 equal pages, 10 of which may share one",
        &[
            ("pages_shared", 3),
            ("pages_sharing", 27),
            ("pages_unshared", 1),
            ("pages_volatile", 0),
        ],
    )
}

fn pages_of_zeroes_are_merged_like_others(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, span) = registered(lab, 30, Ids::ZERO)?;
    compat::merge()?;
    expect_numbers(
        "of 30 pages of zeroes",
        &[
            ("pages_shared", 1),
            ("pages_sharing", 29),
            ("ksm_zero_pages", 0),
        ],
    )?;
    expect_one((&peer, span))?;
    peer.check(span, Ids::ZERO)
}

fn use_zero_pages_takes_the_zero_page(lab: &Lab) -> Result {
    compat::settle()?;
    compat::set("use_zero_pages", 1)?;
    let (peer, span) = registered(lab, 30, Ids::ZERO)?;
    compat::merge()?;
    expect_numbers(
        "of 30 pages of zeroes",
        &[
            ("pages_shared", 0),
            ("pages_sharing", 0),
            ("ksm_zero_pages", 30),
        ],
    )?;
    pages::expect_zero_page((&peer, span))?;
    let stat = format!("/proc/{}/ksm_stat", peer.pid());
    expect::eq(&stat, 30, procfs::number_in(&stat, "ksm_zero_pages")?)?;
    peer.fill(Span::new(span.addr, 10), Ids::each(100))?;
    expect_numbers("after 10 were written to", &[("ksm_zero_pages", 20)])
}

/// The kernel maps the zero page in place of these parts in either case.
fn zeroes_of_a_split_huge_page_count_for_use_zero_pages_only(lab: &Lab) -> Result {
    procfs::write("/sys/kernel/mm/transparent_hugepage/enabled", "always")?;
    for (use_zero_pages, counted) in [(0, 0), (1, 100)] {
        compat::settle()?;
        compat::set("use_zero_pages", use_zero_pages)?;
        let peer = lab.alice()?;
        let span = peer.anon(512, Ids::each(10_000))?;
        peer.fill(span.part(100, 100), Ids::ZERO)?;
        expect::eq("huge page", 512, peer.smaps_pages(span, "AnonHugePages")?)?;
        peer.register(span)?;
        let (_other, _) = registered(lab, 10, Ids::each(10_000))?;
        compat::merge()?;
        expect::eq("huge page", 0, peer.smaps_pages(span, "AnonHugePages")?)?;
        expect_numbers("of 100 pages of zeroes", &[("ksm_zero_pages", counted)])?;
    }
    Ok(())
}

fn general_profit_is_what_was_saved_less_the_tables(lab: &Lab) -> Result {
    compat::settle()?;
    compat::set("use_zero_pages", 1)?;
    let (_peer, _) = registered(lab, 30, Ids::same(1))?;
    let (_zero, _) = registered(lab, 5, Ids::ZERO)?;
    compat::merge()?;
    let profit = || -> Result<i64> {
        let saved = compat::number("pages_sharing")? + compat::number("ksm_zero_pages")?;
        Ok(saved * PAGE_SIZE as i64 - knob::number("index_bytes")? as i64)
    };
    expect_numbers(
        "of 34 pages saved",
        &[("pages_sharing", 29), ("ksm_zero_pages", 5)],
    )?;
    expect_numbers("of 34 pages saved", &[("general_profit", profit()?)])?;
    compat::set("run", 2)?;
    let (_different, _) = registered(lab, 50, Ids::each(1000))?;
    compat::merge()?;
    let found = compat::number("general_profit")?;
    expect::eq("general_profit of nothing saved", profit()?, found)?;
    expect::that(profit()? < 34 * PAGE_SIZE as i64, || "tables cost nothing")
}

fn full_scans_counts_where_there_is_registered_memory(lab: &Lab) -> Result {
    compat::settle()?;
    let peer = lab.alice()?;
    let span = peer.anon(8, Ids::each(1))?;
    compat::set("run", 1)?;
    scanner::wait_passes(4)?;
    expect_numbers("with nothing registered", &[("full_scans", 0)])?;
    peer.register(span)?;
    compat::wait_scans(3)
}

/// A dashboard made for mainline shows that the module works, also with the module's own settings.
fn full_scans_counts_passes_over_all_memory(_: &Lab) -> Result {
    let (own, of_compat) = (knob::number("full_scans")?, compat::number("full_scans")?);
    scanner::scan(3)?;
    let passes = knob::number("full_scans")? - own;
    expect::that(passes >= 3, || {
        format!("expected three passes, found {passes}")
    })?;
    let counted = compat::number("full_scans")? - of_compat;
    expect::eq("passes that compat counts", passes as i64, counted)
}

/// Only mainline's own scanner maintains these figures, so they must not be wrong.
fn processes_are_not_told_of_merging(lab: &Lab) -> Result {
    compat::settle()?;
    let (peer, span) = registered(lab, 16, Ids::same(1))?;
    compat::merge()?;
    expect_one((&peer, span))?;
    let stat = format!("/proc/{}/ksm_stat", peer.pid());
    for name in ["ksm_merging_pages", "ksm_rmap_items"] {
        expect::eq(name, 0, procfs::number_in(&stat, name)?)?;
    }
    Ok(())
}
