// SPDX-License-Identifier: GPL-2.0

//! The suites.

use crate::suite::Suite;

mod address_space;
mod beside_ksmd;
mod control;
mod fault_handlers;
mod hotplug_numa_poison;
mod huge_pages;
mod life_cycle;
mod many_sharers;
mod pins;
mod pressure;
mod sharing_limit;
mod suspend;
mod writers;

/// All suites, in the order in which they run.
pub const ALL: &[&Suite] = &[
    &life_cycle::SUITE,
    &address_space::SUITE,
    &writers::SUITE,
    &pins::SUITE,
    &fault_handlers::SUITE,
    &huge_pages::SUITE,
    &pressure::SUITE,
    &beside_ksmd::SUITE,
    &hotplug_numa_poison::SUITE,
    &control::SUITE,
    &suspend::SUITE,
    &many_sharers::SUITE,
    &sharing_limit::SUITE,
];

/// The suite with this name.
pub fn find(name: &str) -> Option<&'static Suite> {
    ALL.iter().find(|suite| suite.name == name).copied()
}
