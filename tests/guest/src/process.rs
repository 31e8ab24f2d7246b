// SPDX-License-Identifier: GPL-2.0

//! Processes: those whose pages are merged, those that test privileges, those that make others wait, and
//! those that attack others.

pub mod channel;
pub mod child;
pub mod fuse;
pub mod peer;
pub mod privileged;
pub mod program;
pub mod task;
pub mod trace;
pub mod userfaultfd;
