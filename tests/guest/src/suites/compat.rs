// SPDX-License-Identifier: GPL-2.0

//! The files with mainline's names: text, errors and meaning, wherever possible held against
//! mainline's own.

use guest::lab;
use libtest_mimic::Trial;

mod counts;
mod files;
mod settings;

/// The tests.
pub fn trials() -> Vec<Trial> {
    let mut trials = lab::trials("compat", files::TESTS);
    trials.extend(lab::trials("compat", counts::TESTS));
    trials.extend(lab::trials("compat", settings::TESTS));
    trials.extend(lab::skippable_trials("compat", settings::SKIPPABLE));
    trials
}
