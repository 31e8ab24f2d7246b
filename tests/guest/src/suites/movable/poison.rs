// SPDX-License-Identifier: GPL-2.0

//! Failed memory: the kernel signals all processes that map it.

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::bus;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Result;

use super::group::Group;
use super::group::Sharer;
use super::Kept;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    whoever_shares_a_failed_page_is_told,
    unmerging_ends_with_a_failed_page,
    failed_pages_are_not_joined,
    nobody_is_told_of_others,
];

const PAGES: u64 = 128;
/// The page that fails: it is in the part that the second process moved elsewhere.
const FAILED: u64 = PAGES - 7;
const MADV_HWPOISON: i32 = 100;

/// The address of the failed page in a process.
fn address(sharer: &Sharer) -> u64 {
    sharer.page(FAILED).addr
}

/// Expects this number of signals, and this code and address of the last one.
fn expect_signals(what: &str, peer: &Peer, expected: (u64, u64, u64)) -> Result {
    let what = format!("{what}: number, code and address of signals");
    expect::eq(what, expected, peer.bus_signals()?)
}

/// A group with a failed page, reported by its first process.
struct Failed {
    group: Group,
    /// A process with other pages.
    other: Peer,
}

impl Failed {
    fn new(lab: &Lab) -> Result<Self> {
        let mut group = Group::mixed(lab, PAGES)?;
        // A child that never uses its page.
        group.fork()?;
        let other = lab.peer(User::Root)?;
        other.catch_bus(true)?;
        for (who, sharer) in group.sharers.iter().enumerate() {
            sharer.peer.catch_bus(who == 1)?;
        }
        let frames = group.expect_shared("at first")?;
        let sharer = &group.sharers[0];
        sharer.peer.advise(sharer.page(FAILED), MADV_HWPOISON)?;
        let flags = frames[FAILED as usize].flags()?;
        expect::that(flags.poisoned(), || {
            format!("expected the frame to be out of use, found {flags:?}")
        })?;
        Ok(Failed { group, other })
    }

    /// Expects that the other pages still have their contents.
    fn check_others(&self) -> Result {
        for sharer in &self.group.sharers {
            let mut first = 0;
            for &part in &sharer.parts {
                for index in (0..part.pages).filter(|index| first + index != FAILED) {
                    let ids = Ids::same(IDS.of(first + index));
                    sharer.peer.check(part.page(index), ids)?;
                }
                first += part.pages;
            }
        }
        Ok(())
    }
}

/// A process is signalled at once if it reported the failure or asked for early signals, otherwise
/// when it accesses the page.
fn whoever_shares_a_failed_page_is_told(lab: &Lab) -> Result {
    let failed = Failed::new(lab)?;
    let [caller, early, late, idle] = [0, 1, 2, 3].map(|who| &failed.group.sharers[who]);
    expect_signals("caller", &caller.peer, (1, bus::NEEDED, address(caller)))?;
    expect_signals("early", &early.peer, (1, bus::NOT_NEEDED, address(early)))?;
    expect_signals("late", &late.peer, (0, 0, 0))?;
    for sharer in [early, late, idle] {
        let entry = sharer.entries()?[FAILED as usize];
        expect::eq("frame of the failed page", None, entry.frame())?;
    }
    late.peer.peek(address(late))?;
    expect_signals("late", &late.peer, (1, bus::NEEDED, address(late)))?;
    early.peer.peek(address(early))?;
    expect_signals(
        "early, later",
        &early.peer,
        (2, bus::NEEDED, address(early)),
    )?;
    failed.check_others()?;
    expect_signals("idle", &idle.peer, (0, 0, 0))?;
    expect_signals("other", &failed.other, (0, 0, 0))
}

fn unmerging_ends_with_a_failed_page(lab: &Lab) -> Result {
    let failed = Failed::new(lab)?;
    scanner::expect_exact_counts("after a page failed")?;
    scanner::unmerge()?;
    expect::eq("shared pages", 0, knob::number("pages_shared")?)?;
    failed.check_others()?;
    scanner::expect_exact_counts("after unmerging").map(drop)
}

/// New pages with the content of the failed page are merged only with each other.
fn failed_pages_are_not_joined(lab: &Lab) -> Result {
    let failed = Failed::new(lab)?;
    let (a, b) = (lab.peer(User::Root)?, lab.peer(User::Root)?);
    let ids = Ids::same(IDS.of(FAILED));
    let (in_a, in_b) = (a.anon(4, ids)?, b.anon(4, ids)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    for frame in frames {
        let flags = frame.flags()?;
        expect::that(!flags.poisoned(), || {
            format!("{frame:?}: expected not to have failed, found {flags:?}")
        })?;
    }
    a.check(in_a, ids)?;
    b.check(in_b, ids)?;
    failed.check_others()
}

/// The kernel finds no mapping of an unmovable page, and returns an error.
fn nobody_is_told_of_others(lab: &Lab) -> Result {
    let _kept = Kept::new()?;
    let group = Group::mixed(lab, PAGES)?;
    for sharer in &group.sharers {
        sharer.peer.catch_bus(true)?;
    }
    let caller = &group.sharers[0];
    let poisoned = caller.peer.advise(caller.page(FAILED), MADV_HWPOISON);
    expect::that(poisoned.is_err(), || {
        "MADV_HWPOISON: expected to fail, found success"
    })?;
    for sharer in &group.sharers {
        expect_signals("a sharer", &sharer.peer, (0, 0, 0))?;
        let entry = sharer.entries()?[FAILED as usize];
        expect::ne("frame of the failed page", None, entry.frame())?;
    }
    Ok(())
}
