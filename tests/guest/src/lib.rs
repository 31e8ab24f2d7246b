// SPDX-License-Identifier: GPL-2.0

//! Building blocks of the guest tests.
//!
//! A test runs as root in a guest with the module. It starts [`peer`]s, processes that map, fill and
//! check memory on demand, and lets the [`scanner`] scan their memory. Then it asks the kernel itself
//! (`/proc/PID/pagemap`, `/proc/kpageflags`) about the state of their pages. [`lab`] ties these
//! together and cleans up, whether the test passes or fails.
//!
//! - [`ksm_v`]: the module under test
//! - [`process`]: processes, first of all the peers
//! - [`memory`]: pages, frames, and what they are in
//! - [`kernel`]: the kernel around the module
//! - [`provoke`]: modules that provoke rare situations
//! - [`expect`]: expectations, and the messages of their failures
//! - [`lab`]: the state in which every test starts and ends, and the tables of tests
//! - [`rng`]: random numbers that can be replayed
//!
//! [`peer`]: process::peer
//! [`scanner`]: ksm_v::scanner

pub mod expect;
pub mod kernel;
pub mod ksm_v;
pub mod lab;
pub mod memory;
pub mod process;
pub mod provoke;
pub mod rng;

pub use expect::Context;
pub use expect::Result;
pub use memory::span::Span;
