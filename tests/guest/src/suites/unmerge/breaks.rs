// SPDX-License-Identifier: GPL-2.0

//! Which pages are broken apart.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::User;
use guest::tests;
use guest::Result;

use super::expect_nothing_merged;
use super::expect_unmerged;
use super::merged_pair;
use super::IDS;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    breaks_all_merged_pages_of_all_processes,
    breaks_zero_pages,
    leaves_zero_pages_that_were_never_merged,
    breaks_pages_of_all_users_and_domains,
    breaks_pages_shared_by_fork,
    breaks_moved_pages,
    breaks_protected_pages,
    breaks_pages_of_private_files,
    breaks_pages_of_processes_that_became_undumpable,
    breaks_pages_that_were_excluded_since,
    breaks_the_last_mapping_of_a_shared_page,
    breaks_pages_merged_under_another_scope,
];

fn breaks_all_merged_pages_of_all_processes(lab: &Lab) -> Result {
    let peers = lab.alices(5)?;
    let mut spans = Vec::new();
    for peer in &peers {
        spans.push((peer, peer.anon(64, IDS)?));
        peer.anon(64, Ids::same(7))?;
    }
    scanner::merge()?;
    pages::expect_merged(&spans)?;
    expect_unmerged(&spans, IDS)?;
    expect::eq("run", "2\n", knob::read("run")?.as_str())?;
    for (index, &(peer, span)) in spans.iter().enumerate() {
        peer.fill(span, Ids::each(1000 * index as u64))?;
    }
    for (index, &(peer, span)) in spans.iter().enumerate() {
        peer.check(span, Ids::each(1000 * index as u64))?;
    }
    Ok(())
}

fn breaks_zero_pages(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, Ids::ZERO)?, b.anon(PAGES, Ids::ZERO)?);
    scanner::merge()?;
    pages::expect_zero_page((&a, in_a))?;
    pages::expect_zero_page((&b, in_b))?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], Ids::ZERO)?;
    expect::eq(
        "mainline's ksm_zero_pages after run=2",
        "0\n",
        &procfs::read(&format!("{}/ksm_zero_pages", knob::MAINLINE))?,
    )
}

/// Memory that was only read maps the shared zero page, too, but not because of the module.
fn leaves_zero_pages_that_were_never_merged(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = peer.map(Kind::Anon, PAGES)?;
    peer.check(span, Ids::ZERO)?;
    pages::expect_zero_page((&peer, span))?;
    scanner::merge()?;
    scanner::unmerge()?;
    expect_nothing_merged()?;
    pages::expect_zero_page((&peer, span))
}

fn breaks_pages_of_all_users_and_domains(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let mut peers = Vec::new();
    for user in [User::Root, User::Alice, User::Bob] {
        let peer = lab.peer(user)?;
        let span = peer.anon(PAGES, IDS)?;
        peers.push((peer, span));
    }
    let spans: Vec<_> = peers.iter().map(|(peer, span)| (peer, *span)).collect();
    scanner::merge()?;
    pages::expect_merged(&spans)?;
    expect_unmerged(&spans, IDS)
}

fn breaks_pages_shared_by_fork(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    let child = a.fork()?;
    let grandchild = child.fork()?;
    expect_unmerged(
        &[(&a, in_a), (&child, in_a), (&grandchild, in_a), (&b, in_b)],
        IDS,
    )
}

fn breaks_moved_pages(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    let moved = a.remap(in_a)?;
    expect_unmerged(&[(&a, moved), (&b, in_b)], IDS)
}

fn breaks_protected_pages(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    a.protect(in_a, libc::PROT_READ)?;
    b.protect(in_b, libc::PROT_NONE)?;
    scanner::unmerge()?;
    expect_nothing_merged()?;
    b.protect(in_b, libc::PROT_READ | libc::PROT_WRITE)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

fn breaks_pages_of_private_files(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (
        a.filled(Kind::PrivateFile, PAGES, IDS)?,
        b.anon(PAGES, IDS)?,
    );
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

fn breaks_pages_of_processes_that_became_undumpable(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    a.set_dumpable(false)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

/// Pages that are no longer scanned are still merged, and must be unmerged.
fn breaks_pages_that_were_excluded_since(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    a.advise(in_a.part(0, 8), libc::MADV_DONTDUMP)?;
    a.advise(in_a.part(8, 8), libc::MADV_WIPEONFORK)?;
    b.watch(in_b, 1)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

fn breaks_the_last_mapping_of_a_shared_page(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    b.fill(in_b, Ids::each(5000))?;
    expect_unmerged(&[(&a, in_a)], IDS)
}

fn breaks_pages_merged_under_another_scope(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    knob::set("scope", "registered")?;
    scanner::scan(2)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}
