// SPDX-License-Identifier: GPL-2.0

//! The module under test: loading it, its files, its tracepoints and its scanner.

pub mod compat;
pub mod debugfs;
pub mod domain;
pub mod events;
pub mod knob;
pub mod mainline;
pub mod module;
pub mod refused;
pub mod scanner;
