// SPDX-License-Identifier: GPL-2.0

//! The module next to ksmd, mainline's scanner.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![ksmd_keeps_its_pages, ksmd_takes_none_of_our_pages];

const PAGES: u64 = 16;

/// Sets a knob of mainline KSM.
fn mainline(name: &str, value: u32) -> Result {
    procfs::write(&format!("{}/{name}", knob::MAINLINE), &value.to_string())
}

/// Stops ksmd and unmerges its pages when dropped.
struct Ksmd;

impl Drop for Ksmd {
    fn drop(&mut self) {
        let stopped = mainline("run", 2).and_then(|()| mainline("run", 0));
        if stopped.is_err() {
            eprintln!("ksmd could not be stopped");
        }
    }
}

/// Runs ksmd until one of its counts has reached `least`.
fn run_ksmd(count: &str, least: u64) -> Result {
    mainline("sleep_millisecs", 1)?;
    mainline("run", 1)?;
    let path = format!("{}/{count}", knob::MAINLINE);
    let reached = task::wait_until(task::PATIENCE, || {
        procfs::number(&path).is_ok_and(|found| found >= least)
    });
    mainline("run", 0)?;
    expect::that(reached, || {
        format!(
            "{count} of ksmd: expected {least}, found {:?}",
            procfs::number(&path)
        )
    })
}

fn ksmd_keeps_its_pages(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let peers = lab.alices(4)?;
    let mut spans = Vec::new();
    for peer in &peers[..2] {
        let span = peer.registered(PAGES, ids)?;
        spans.push(span);
    }
    let _ksmd = Ksmd;
    run_ksmd("pages_sharing", PAGES)?;
    let theirs = pages::expect_merged(&[(&peers[0], spans[0]), (&peers[1], spans[1])])?;
    for peer in &peers[2..] {
        spans.push(peer.anon(PAGES, ids)?);
    }
    scanner::merge()?;
    let ours = pages::expect_merged(&[(&peers[2], spans[2]), (&peers[3], spans[3])])?;
    pages::expect_frames("pages merged by ksmd", (&peers[0], spans[0]), &theirs)?;
    pages::expect_frames("pages merged by ksmd", (&peers[1], spans[1]), &theirs)?;
    pages::expect_disjoint("frames of ksmd and of the module", &theirs, &ours)?;
    let counted = scanner::Counts::read()?;
    let truth = scanner::Counts::truth()?;
    expect::eq(
        "pages_shared, without ksmd's",
        truth.shared - PAGES,
        counted.shared,
    )?;
    expect::eq(
        "pages_sharing, without ksmd's",
        truth.sharing - PAGES,
        counted.sharing,
    )?;
    scanner::unmerge()?;
    pages::expect_frames("ksmd's pages after run=2", (&peers[0], spans[0]), &theirs)?;
    pages::expect_not_merged((&peers[2], spans[2])).map(drop)
}

/// ksmd treats all registered memory as one domain. If it took a merged page of the module for an
/// ordinary page, it would share it with other users, and even for a sharer that is not registered.
/// It cannot do so: it calls `page_address_in_vma()` for the address to write-protect, and that
/// function rejects KSM pages.
fn ksmd_takes_none_of_our_pages(lab: &Lab) -> Result {
    let ids = Ids::each(1);
    let (registered, plain) = lab.pair()?;
    let (in_registered, in_plain) = (registered.anon(PAGES, ids)?, plain.anon(PAGES, ids)?);
    registered.register(in_registered)?;
    scanner::merge()?;
    let ours = pages::expect_merged(&[(&registered, in_registered), (&plain, in_plain)])?;
    let bob = lab.peer(User::Bob)?;
    let in_bob = bob.registered(PAGES, ids)?;
    let _ksmd = Ksmd;
    let scans = procfs::number(&format!("{}/full_scans", knob::MAINLINE))?;
    run_ksmd("full_scans", scans + 8)?;
    pages::expect_frames("registered", (&registered, in_registered), &ours)?;
    pages::expect_frames("not registered", (&plain, in_plain), &ours)?;
    pages::expect_disjoint("frames of two users", &bob.frames(in_bob)?, &ours)?;
    bob.check(in_bob, ids)
}
