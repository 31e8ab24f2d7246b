// SPDX-License-Identifier: GPL-2.0

//! Security tests: what a user without access to the module's knobs can learn or do.

use guest::lab;
use libtest_mimic::Trial;

mod apart;
mod channel;
mod frames;
mod observables;
mod secrets;
mod stopping;
mod writers;

/// The tests of this suite.
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
