// SPDX-License-Identifier: GPL-2.0

//! The kernel around the module: what it offers, counts, logs and does by itself.

pub mod cgroup;
pub mod feature;
pub mod freezer;
pub mod khugepaged;
pub mod kmsg;
pub mod probe;
pub mod procfs;
