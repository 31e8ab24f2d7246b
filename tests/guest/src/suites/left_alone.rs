// SPDX-License-Identifier: GPL-2.0

//! Tests of pages that are not merged, or not merged with those of certain processes.

use guest::kernel::feature::Feature;
use guest::lab;
use libtest_mimic::Trial;

mod credentials;
mod domains;
mod forked;
mod movers;
mod ranges;
mod registered;
mod siblings;
mod tags;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let tests = [
        ranges::TESTS,
        forked::TESTS,
        domains::TESTS,
        movers::TESTS,
        registered::TESTS,
        credentials::TESTS,
        siblings::TESTS,
    ];
    let mut trials: Vec<Trial> = tests
        .iter()
        .flat_map(|tests| lab::trials("left_alone", tests))
        .collect();
    trials.extend(lab::skippable_trials("left_alone", ranges::SKIPPABLE));
    trials.extend(lab::trials_with(
        &[Feature::MemoryTags],
        "left_alone",
        tags::TESTS,
    ));
    trials
}
