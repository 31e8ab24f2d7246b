// SPDX-License-Identifier: GPL-2.0

//! The suites.

pub mod control;
pub mod cow;
pub mod left_alone;
pub mod merge;
pub mod reload;
pub mod survive;
pub mod unmerge;
