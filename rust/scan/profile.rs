// SPDX-License-Identifier: GPL-2.0

//! Two profiles of settings, the module's own and mainline's. The profile whose `run` file was written
//! last is in force.
//!
//! Values written to the other profile are kept until it is put in force. `domain`, `undumpable`, `max_cpu`,
//! `threads`, `promise_floor` and `promise_swap` belong to neither profile, and apply to both.

use crate::mm::policy::Scope;
use engine::huge::SplitRule;
use engine::knobs;
use engine::mainline::MainlineSettings;
use engine::pace::Governor;
use engine::EngineSettings;

/// The profile that the scanner follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Profile {
    /// The settings in `/sys/kernel/mm/ksm_v`.
    #[default]
    Own,
    /// The settings in `/sys/kernel/mm/ksm_v/compat`.
    Mainline,
}

/// Which contents are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Contents {
    /// All, pages of zeroes with the kernel's zero page.
    #[default]
    All,
    /// All, pages of zeroes with each other like any others.
    AllAlike,
    /// Zeroes only, with the kernel's zero page.
    Zero,
}

impl Contents {
    /// By the values of mainline's files.
    fn of_mainline(mainline: &MainlineSettings) -> Self {
        match (mainline.only_zero_pages, mainline.use_zero_pages) {
            (true, _) => Contents::Zero,
            (false, true) => Contents::All,
            (false, false) => Contents::AllAlike,
        }
    }

    /// Whether pages of zeroes are merged with the kernel's zero page.
    pub(crate) fn use_zero_page(self) -> bool {
        self != Contents::AllAlike
    }
}

/// The settings of one profile: everything in which the two profiles differ.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) engine: EngineSettings,
    pub(crate) scope: Scope,
    pub(crate) governor: Governor,
    /// Whether pages of different NUMA nodes may be merged.
    pub(crate) merge_across_nodes: bool,
    /// Which contents are merged.
    pub(crate) contents: Contents,
    /// Which large pages are split.
    pub(crate) split: SplitRule,
}

impl Default for Settings {
    /// The defaults of the module's own profile.
    fn default() -> Self {
        Settings {
            engine: EngineSettings::default(),
            scope: Scope::default(),
            governor: Governor::default(),
            merge_across_nodes: true,
            contents: Contents::default(),
            split: SplitRule::at_least(knobs::HUGE_MIN_PARTS.default as u16),
        }
    }
}

impl From<&MainlineSettings> for Settings {
    fn from(mainline: &MainlineSettings) -> Self {
        Settings {
            engine: mainline.engine_settings(),
            scope: Scope::Registered,
            governor: Governor::Manual,
            merge_across_nodes: mainline.merge_across_nodes,
            contents: Contents::of_mainline(mainline),
            split: SplitRule::FOR_ONE,
        }
    }
}

/// The settings of both profiles, and which profile is in force.
#[derive(Default)]
pub(crate) struct Profiles {
    pub(crate) chosen: Profile,
    pub(crate) own: Settings,
    pub(crate) mainline: MainlineSettings,
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
