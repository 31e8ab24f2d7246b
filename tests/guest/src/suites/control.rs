// SPDX-License-Identifier: GPL-2.0

//! Loading, the files in sysfs, and the thread.

use guest::lab;
use libtest_mimic::Trial;

mod imports;
mod knobs;
mod loading;
mod thread;

/// The tests.
pub fn trials() -> Vec<Trial> {
    let mut trials = lab::trials("control", loading::TESTS);
    trials.extend(lab::trials("control", imports::TESTS));
    trials.extend(lab::trials("control", knobs::TESTS));
    trials.extend(lab::trials("control", thread::TESTS));
    trials.extend(lab::skippable_trials("control", thread::SKIPPABLE));
    trials
}
