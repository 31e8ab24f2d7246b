// SPDX-License-Identifier: GPL-2.0

//! Programs made for mainline's KSM, from their Debian packages. Each test runs first with the
//! kernel's own scanner, which validates the test, and then with the module in its place.
//!
//! The programs are installed in the guest of `scripts/vm --tools` (Documentation/tools.md).

use guest::expect;
use guest::ksm_v::mainline::Mainline;
use guest::ksm_v::mainline::Server;
use guest::lab;
use guest::lab::Lab;
use guest::lab::TestOf;
use guest::memory::census::Census;
use guest::memory::content::Ids;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::Result;
use libtest_mimic::Trial;

mod alerts;
mod observers;
mod recorders;
mod selftests;
mod tuners;
mod workloads;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let mut trials = trials_with(Server::Ksmd, selftests::TESTS_OF_KSMD);
    trials.extend(lab::trials("tools::recorders", recorders::TESTS));
    trials.extend(lab::trials("tools::alerts", alerts::TESTS));
    for server in [Server::Ksmd, Server::Module] {
        for tests in [
            observers::TESTS,
            tuners::TESTS,
            workloads::TESTS,
            selftests::TESTS,
        ] {
            trials.extend(trials_with(server, tests));
        }
    }
    trials
}

fn trials_with(server: Server, tests: &[TestOf<Server>]) -> Vec<Trial> {
    lab::trials_of(&format!("tools::{server:?}").to_lowercase(), server, tests)
}

/// The number of different contents in the memory of [`equal_pages`]: 2 MiB.
const CONTENTS: u64 = 512;
/// The number of pages beyond the first of each content: 6 MiB.
const DUPLICATES: u64 = 3 * CONTENTS;

/// Two processes that each registered two pages of each content.
fn equal_pages(lab: &Lab) -> Result<(Peer, Peer)> {
    let (one, other) = lab.pair()?;
    for peer in [&one, &other, &one, &other] {
        let span = peer.map(Kind::Anon, CONTENTS)?;
        peer.keep_small(span)?;
        peer.fill(span, Ids::each(1))?;
        peer.register(span)?;
    }
    Ok((one, other))
}

/// The same processes, merged according to the files and to the page tables.
fn merged_pages(lab: &Lab, ksm: &Mainline) -> Result<(Peer, Peer)> {
    let peers = equal_pages(lab)?;
    ksm.merge(DUPLICATES)?;
    let census = Census::take()?;
    expect::eq("merged frames", CONTENTS, census.shared())?;
    expect::eq("mappings beyond the first", DUPLICATES, census.sharing())?;
    Ok(peers)
}

/// Expects that a program shows the values of these files.
fn expect_files(
    ksm: &Mainline,
    names: &[&str],
    shown: impl Fn(&str) -> Option<f64>,
    text: &str,
) -> Result {
    for name in names {
        let file = ksm.number(name)? as f64;
        expect::that(shown(name) == Some(file), || {
            let shown = shown(name);
            format!("{name}: the file says {file}, the program {shown:?}: {text}")
        })?;
    }
    Ok(())
}
