// SPDX-License-Identifier: GPL-2.0

//! Building blocks of the guest tests.
//!
//! A test runs as root in a guest with the module. It starts [`peer`]s, processes that map, fill and
//! check memory on demand, and lets the [`scanner`] scan their memory. Then it asks the kernel itself
//! (`/proc/PID/pagemap`, `/proc/kpageflags`) about the state of their pages. [`lab`] ties these
//! together and cleans up, whether the test passes or fails.

pub mod census;
pub mod cgroup;
pub mod child;
pub mod compat;
pub mod content;
pub mod debugfs;
pub mod device;
pub mod domain;
pub mod events;
pub mod expect;
pub mod feature;
pub mod freezer;
pub mod fuse;
pub mod held_fork;
pub mod kmsg;
pub mod knob;
pub mod lab;
pub mod livepatch;
pub mod mainline;
pub mod memory_block;
pub mod module;
pub mod numa;
pub mod pagemap;
pub mod pages;
pub mod peer;
pub mod privileged;
pub mod probe;
pub mod procfs;
pub mod program;
pub mod refused;
pub mod rng;
pub mod scanner;
pub mod secret;
pub mod slow_device;
pub mod span;
pub mod statistics;
pub mod swap;
pub mod task;
pub mod trace;
pub mod userfaultfd;

pub use expect::Context;
pub use expect::Result;
pub use span::Span;
