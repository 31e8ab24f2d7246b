// SPDX-License-Identifier: GPL-2.0

//! The files with mainline's names: their text, errors and meaning, compared with mainline's own
//! files where possible.

use guest::lab;
use libtest_mimic::Trial;

mod counts;
mod files;
mod red_hat;
mod settings;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let mut trials = lab::trials("compat", files::TESTS);
    trials.extend(lab::trials("compat", counts::TESTS));
    trials.extend(lab::trials("compat", red_hat::TESTS));
    trials.extend(lab::trials("compat", settings::TESTS));
    trials.extend(lab::skippable_trials("compat", settings::SKIPPABLE));
    trials
}
