// SPDX-License-Identifier: GPL-2.0

//! What somebody may learn or do who has an account, but not the module's knobs.

use guest::lab;
use libtest_mimic::Trial;

mod apart;
mod channel;
mod frames;
mod observables;
mod secrets;
mod stopping;
mod writers;

/// The tests.
pub fn trials() -> Vec<Trial> {
    let tests = [
        channel::TESTS,
        observables::TESTS,
        frames::TESTS,
        writers::TESTS,
        secrets::TESTS,
        apart::TESTS,
        stopping::TESTS,
    ];
    tests
        .iter()
        .flat_map(|tests| lab::trials("security", tests))
        .collect()
}
