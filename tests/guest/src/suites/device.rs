// SPDX-License-Identifier: GPL-2.0

//! Processes whose memory a device driver may move (HMM: amdgpu, xe, nouveau), tested with the module
//! `ksm_v_device` (`tests/provoke`).
//!
//! Reference: [`Documentation/mm/hmm.rst`](https://docs.kernel.org/mm/hmm.html).

use guest::expect;
use guest::kernel::probe::NoProbes;
use guest::ksm_v::scanner;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::task;
use guest::provoke::device::Device;
use guest::provoke::device::Migration;
use guest::tests;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;

mod slow;

const TESTS: &[Test] = tests![
    memory_that_a_device_watches_is_left_alone,
    pages_merged_before_a_device_came_can_be_moved,
    a_device_that_no_probe_told_of_is_met,
    memory_of_others_is_merged,
];

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    [TESTS, slow::TESTS]
        .into_iter()
        .flat_map(|tests| lab::trials("device", tests))
        .collect()
}

const PAGES: u64 = 64;
const IDS: Ids = Ids::each(100);

/// Expects that the driver gets all pages of a VMA, whether it moves them or not.
fn expect_movable(device: &Device, peer: &Peer, span: Span, ids: Ids) -> Result {
    for migration in [Migration::Offer, Migration::Move] {
        let found = device.migrate(migration, peer, span)?;
        expect::eq(format!("{migration:?}"), span.pages, found)?;
        peer.check(span, ids)?;
    }
    Ok(())
}

fn memory_that_a_device_watches_is_left_alone(lab: &Lab) -> Result {
    let device = Device::new()?;
    let (user, other) = lab.pair()?;
    device.watch(&user)?;
    let (span, in_other) = (user.anon(PAGES, IDS)?, other.anon(PAGES, IDS)?);
    let registered = user.registered(PAGES, IDS)?;
    scanner::merge()?;
    for span in [span, registered] {
        pages::expect_not_merged((&user, span))?;
        expect_movable(&device, &user, span, IDS)?;
    }
    other.check(in_other, IDS)
}

/// Registered pages are unmerged, too.
fn pages_merged_before_a_device_came_can_be_moved(lab: &Lab) -> Result {
    let device = Device::new()?;
    let (user, other) = lab.pair()?;
    let (span, in_other) = (user.anon(PAGES, IDS)?, other.anon(PAGES, IDS)?);
    user.register(span.part(0, PAGES / 2))?;
    scanner::merge()?;
    pages::expect_merged(&[(&user, span), (&other, in_other)])?;
    scanner::stop()?;
    device.watch(&user)?;
    task::wait_until(task::PATIENCE, || {
        pages::expect_not_merged((&user, span)).is_ok()
    });
    pages::expect_not_merged((&user, span))?;
    // The span consists of two VMAs by now.
    for first in [0, PAGES / 2] {
        let ids = Ids::each(IDS.of(first));
        expect_movable(&device, &user, span.part(first, PAGES / 2), ids)?;
    }
    scanner::merge()?;
    pages::expect_not_merged((&user, span))?;
    scanner::expect_exact_counts("after a device came").map(drop)
}

/// No probe tells the module about the device: the scanner finds it, and unmerges the pages.
fn a_device_that_no_probe_told_of_is_met(lab: &Lab) -> Result {
    let device = Device::new()?;
    let (user, other) = lab.pair()?;
    let (span, in_other) = (user.anon(PAGES, IDS)?, other.anon(PAGES, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&user, span), (&other, in_other)])?;
    let no_probes = NoProbes::new()?;
    device.watch(&user)?;
    drop(no_probes);
    scanner::scan(2)?;
    pages::expect_not_merged((&user, span))?;
    expect_movable(&device, &user, span, IDS)
}

fn memory_of_others_is_merged(lab: &Lab) -> Result {
    let device = Device::new()?;
    let user = lab.alice()?;
    device.watch(&user)?;
    let (a, b) = lab.pair()?;
    let spans = [&user, &a, &b].map(|peer| peer.anon(PAGES, IDS));
    let [in_user, in_a, in_b] = spans;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a?), (&b, in_b?)])?;
    pages::expect_not_merged((&user, in_user?)).map(drop)
}
