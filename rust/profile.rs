// SPDX-License-Identifier: GPL-2.0

//! Two sets of settings, the module's own and mainline's, and which of them is in force: that whose
//! `run` file was written last.
//!
//! What is written to the other set is kept until it is in force. `domain`, `max_cpu` and `threads`
//! belong to neither, and hold in both.

use crate::mm::policy::Scope;
use engine::mainline::Mainline;
use engine::pace::Governor;
use engine::Knobs;

/// Whose settings the scanner goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Those of `/sys/kernel/mm/ksm_v`.
    #[default]
    Own,
    /// Those of `/sys/kernel/mm/ksm_v/compat`.
    Mainline,
}

/// What the two sets differ in.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) knobs: Knobs,
    pub(crate) scope: Scope,
    pub(crate) governor: Governor,
    /// Whether pages of different NUMA nodes may be merged.
    pub(crate) merge_across_nodes: bool,
    /// Whether pages of zeroes are merged with the kernel's zero page; else with each other.
    pub(crate) use_zero_pages: bool,
}

impl Default for Settings {
    /// The module's own.
    fn default() -> Self {
        Settings {
            knobs: Knobs::default(),
            scope: Scope::default(),
            governor: Governor::default(),
            merge_across_nodes: true,
            use_zero_pages: true,
        }
    }
}

impl From<&Mainline> for Settings {
    fn from(mainline: &Mainline) -> Self {
        Settings {
            knobs: mainline.knobs(),
            scope: Scope::Registered,
            governor: Governor::Manual,
            merge_across_nodes: mainline.merge_across_nodes,
            use_zero_pages: mainline.use_zero_pages,
        }
    }
}

/// Both sets.
#[derive(Default)]
pub(crate) struct Profiles {
    pub(crate) chosen: Profile,
    pub(crate) own: Settings,
    pub(crate) mainline: Mainline,
}

impl Profiles {
    /// The set that is in force.
    pub(crate) fn in_force(&self) -> Settings {
        match self.chosen {
            Profile::Own => self.own,
            Profile::Mainline => Settings::from(&self.mainline),
        }
    }
}
