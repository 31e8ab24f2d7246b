// SPDX-License-Identifier: GPL-2.0

//! The modules of `tests/provoke`, which provoke what no program can.

pub mod device;
pub mod held_exec;
pub mod held_fork;
pub mod livepatch;
pub mod slow_device;
