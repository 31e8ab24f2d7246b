// SPDX-License-Identifier: GPL-2.0

//! Pages, frames and what lies below them: contents, files, page tables, nodes, memory blocks, swap space.

pub mod census;
pub mod content;
pub mod file;
pub mod memory_block;
pub mod numa;
pub mod pagemap;
pub mod pages;
pub mod span;
pub mod swap;
