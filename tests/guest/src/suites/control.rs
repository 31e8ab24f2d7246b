// SPDX-License-Identifier: GPL-2.0

//! Tests of loading, of the sysfs files, and of the scanner's thread.

use guest::lab;
use libtest_mimic::Trial;

mod imports;
mod knobs;
mod loading;
mod thread;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let mut trials = lab::trials("control", loading::TESTS);
    trials.extend(lab::trials("control", imports::TESTS));
    trials.extend(lab::trials("control", knobs::TESTS));
    trials.extend(lab::trials("control", thread::TESTS));
    trials.extend(lab::skippable_trials("control", thread::SKIPPABLE));
    trials
}
