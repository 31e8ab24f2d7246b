// SPDX-License-Identifier: GPL-2.0

//! Processes: those whose pages are merged, those that test privileges, and those that make others
//! wait.

pub mod child;
pub mod fuse;
pub mod peer;
pub mod privileged;
pub mod program;
pub mod task;
pub mod trace;
pub mod userfaultfd;
