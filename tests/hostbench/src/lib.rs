// SPDX-License-Identifier: GPL-2.0

//! Two ways to find out, for each page of a large memory, whether there is another like it.

#![deny(unsafe_code)]

pub mod engine_index;
pub mod memory;
pub mod rb_tree;
