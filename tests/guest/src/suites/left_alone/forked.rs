// SPDX-License-Identifier: GPL-2.0

//! A page that two processes share since a fork, one of which must be skipped.
//!
//! The scanner reaches the page in the other process. A merge replaces all mappings of the page
//! together, so each mapping has to be checked.

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::tests;

use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    pages_that_a_child_does_not_dump,
    pages_that_a_child_locks,
    pages_of_a_child_that_is_not_dumpable,
];

const PAGES: u64 = 8;
const IDS: Ids = Ids::each(100);

fn pages_that_a_child_does_not_dump(lab: &Lab) -> Result {
    expect_child_left_alone(lab, |child, span| child.advise(span, libc::MADV_DONTDUMP))
}

fn pages_that_a_child_locks(lab: &Lab) -> Result {
    // Lock on fault, since immediate locking would give the child its own copies.
    expect_child_left_alone(lab, |child, span| child.lock_on_fault(span))
}

fn pages_of_a_child_that_is_not_dumpable(lab: &Lab) -> Result {
    expect_child_left_alone(lab, |child, _| child.set_dumpable(false))
}

/// Expects that the parent's pages are merged with another process's, while the child's mappings stay.
fn expect_child_left_alone(lab: &Lab, hide: impl Fn(&Peer, Span) -> Result) -> Result {
    let parent = lab.alice()?;
    let span = parent.anon(PAGES, IDS)?;
    let child = parent.fork()?;
    hide(&child, span)?;
    let before = child.frames(span)?;
    expect::eq("frames after the fork", &parent.frames(span)?, &before)?;
    let other = lab.alice()?;
    let in_other = other.anon(PAGES, IDS)?;
    scanner::scan(8)?;
    pages::expect_merged(&[(&parent, span), (&other, in_other)])?;
    expect::eq("the child's frames", before, child.frames(span)?)?;
    child.check(span, IDS)
}
