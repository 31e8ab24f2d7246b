// SPDX-License-Identifier: GPL-2.0

//! The suites.

pub mod compat;
pub mod control;
pub mod cow;
pub mod device;
pub mod fork;
pub mod inject;
pub mod kvm;
pub mod left_alone;
pub mod merge;
pub mod movable;
pub mod reload;
pub mod security;
pub mod security_flood;
pub mod security_lockdown;
pub mod survive;
pub mod tools;
pub mod tracing;
pub mod unmerge;
