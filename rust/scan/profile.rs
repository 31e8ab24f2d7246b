// SPDX-License-Identifier: GPL-2.0

//! Two profiles of settings, the module's own and mainline's. The profile whose `run` file was written
//! last is in force.
//!
//! Values written to the other profile are kept until it is put in force. `domain`, `max_cpu` and
//! `threads` belong to neither profile, and apply to both.

use crate::mm::policy::Scope;
use engine::mainline::Mainline;
use engine::pace::Governor;
use engine::Knobs;

/// The profile that the scanner follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Profile {
    /// The settings in `/sys/kernel/mm/ksm_v`.
    #[default]
    Own,
    /// The settings in `/sys/kernel/mm/ksm_v/compat`.
    Mainline,
}

/// The settings in which the two profiles differ.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) knobs: Knobs,
    pub(crate) scope: Scope,
    pub(crate) governor: Governor,
    /// Whether pages of different NUMA nodes may be merged.
    pub(crate) merge_across_nodes: bool,
    /// Whether zero-filled pages are merged with the kernel's zero page rather than with each other.
    pub(crate) use_zero_pages: bool,
}

impl Default for Settings {
    /// The defaults of the module's own profile.
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

/// Both profiles.
#[derive(Default)]
pub(crate) struct Profiles {
    pub(crate) chosen: Profile,
    pub(crate) own: Settings,
    pub(crate) mainline: Mainline,
}

impl Profiles {
    /// The settings in force.
    pub(crate) fn in_force(&self) -> Settings {
        match self.chosen {
            Profile::Own => self.own,
            Profile::Mainline => Settings::from(&self.mainline),
        }
    }
}
