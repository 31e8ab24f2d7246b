// SPDX-License-Identifier: GPL-2.0

//! The module's reports about its work, by tracepoints and in debugfs, must be true.

use libtest_mimic::Trial;

use guest::kernel::feature::Feature;
use guest::lab;

mod breaks;
mod insight;
mod merges;
mod passes;
mod refusals;
mod unloading;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let tests = [
        merges::TESTS,
        breaks::TESTS,
        passes::TESTS,
        refusals::TESTS,
        insight::TESTS,
        unloading::TESTS,
    ];
    let trials = |tests: &&[lab::Test]| lab::trials("tracing", tests);
    let mut trials: Vec<Trial> = tests.iter().flat_map(trials).collect();
    trials.extend(lab::trials_with(
        &[Feature::HugePages],
        "tracing",
        refusals::HUGE_TESTS,
    ));
    trials
}

use guest::ksm_v::knob;
use guest::lab::Lab;
use guest::memory::content::Ids;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::Result;
use guest::Span;

/// The number of pages of each process.
pub(super) const PAGES: u64 = 32;
pub(super) const IDS: Ids = Ids::each(100);

/// Starts processes of Alice with these contents; only their pages are scanned.
pub(super) fn only(lab: &Lab, count: usize, ids: Ids) -> Result<Vec<(Peer, Span)>> {
    knob::set("scope", "registered")?;
    let peer = |_| registered(lab, User::Alice, ids);
    (0..count).map(peer).collect()
}

/// Starts a process with these contents in memory registered with mainline's KSM.
fn registered(lab: &Lab, user: User, ids: Ids) -> Result<(Peer, Span)> {
    let peer = lab.peer(user)?;
    let span = peer.registered(PAGES, ids)?;
    Ok((peer, span))
}
