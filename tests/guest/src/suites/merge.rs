// SPDX-License-Identifier: GPL-2.0

//! Tests of merging: what is merged, when, and what happens to merged pages.

use guest::kernel::feature::Feature;
use guest::lab;
use libtest_mimic::Trial;

mod accounting;
mod basic;
mod decision;
mod huge;
mod kinds;
mod ksmd;
mod locked;
mod neighbours;
mod now;
mod regions;
mod seats;
mod threads;
mod threshold;
mod userfaultfd;
mod zero_only;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let tests = [
        basic::TESTS,
        decision::TESTS,
        kinds::TESTS,
        ksmd::TESTS,
        locked::TESTS,
        accounting::TESTS,
        neighbours::TESTS,
        now::TESTS,
        regions::TESTS,
        seats::TESTS,
        threads::TESTS,
        zero_only::TESTS,
    ];
    let mut trials: Vec<Trial> = tests
        .iter()
        .flat_map(|tests| lab::trials("merge", tests))
        .collect();
    trials.extend(lab::skippable_trials("merge", kinds::SKIPPABLE));
    trials.extend(lab::trials_with(
        &[Feature::HugePages],
        "merge",
        huge::TESTS,
    ));
    trials.extend(lab::trials_with(
        &[Feature::HugePages],
        "merge",
        threshold::TESTS,
    ));
    trials.extend(lab::trials_with(
        &[Feature::HugePages],
        "merge",
        zero_only::TESTS_OF_HUGE_PAGES,
    ));
    trials.extend(lab::trials_with(
        &[Feature::Userfaultfd],
        "merge",
        userfaultfd::TESTS,
    ));
    trials.extend(lab::trials_unless(
        threshold::lacking,
        "merge",
        threshold::TESTS_OF_SHORTAGE,
    ));
    trials.extend(lab::trials_with(
        &[Feature::FlushCounts],
        "merge",
        neighbours::COUNTING_TESTS,
    ));
    trials.extend(lab::trials_with(
        &[Feature::FlushCounts, Feature::HugePages],
        "merge",
        neighbours::COUNTING_HUGE_TESTS,
    ));
    trials
}

/// Tests of page comparison for a CPU without vector instructions.
pub fn scalar_trials() -> Vec<Trial> {
    lab::trials("scalar", decision::SCALAR_TESTS)
}
