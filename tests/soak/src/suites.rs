// SPDX-License-Identifier: GPL-2.0

//! The suites.

use crate::suite::Suite;

mod writers;

/// All suites, in the order in which they are run.
pub const ALL: &[&Suite] = &[&writers::SUITE];

/// The suite of this name.
pub fn find(name: &str) -> Option<&'static Suite> {
    ALL.iter().find(|suite| suite.name == name).copied()
}
