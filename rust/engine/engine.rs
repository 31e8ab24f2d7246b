// SPDX-License-Identifier: GPL-2.0

//! Policy of kernel same-page merging: which frames to merge with which, and when.
//!
//! This crate knows frames (page frame numbers), contents and domains. It knows no kernel type,
//! maps nothing and contains no `unsafe`: the module around it reads pages, asks
//! [`KsmScanner::scan`] what to do with each, does it, and reports back what became of it.
//! The same files are compiled into `ksm_v.ko` by Kbuild and into a host crate by cargo.
//!
//! - [`scanner`]: [`KsmScanner`], the documented API and its decisions
//! - [`verdict`]: what it says of a page; [`ids`]: what pages are known by
//! - [`keys`]: how contents get their keys; [`hash`]: FNV-1a, wide and bytewise
//! - [`sample`]: a few words of a page, which come first
//! - [`index`]: the stable and the unstable set, one table by content
//! - [`shared`]: the shared frames, one table by frame; [`seats`]: how many pages each may take
//! - [`table`]: the open-addressing hash table under both
//! - [`stats`]: what is counted; [`pace`]: when to rest; [`region`]: what to visit less often;
//!   [`drain`]: when to free pages of the references of batches; [`delay`]: how long to wait for areas
//!   that are locked
//! - [`knobs`]: the settings; [`mainline`]: mainline's, in their place, with its [`advisor`]
//! - [`parse`]: text of the knobs; [`slots`]: notes of calls that a probe has seen
//!
//! Locking: none. The owner of a [`KsmScanner`] serialises access to it.

#![forbid(unsafe_code)]

pub mod advisor;
pub mod content;
pub mod delay;
pub mod drain;
pub mod hash;
pub mod ids;
pub mod index;
pub mod keys;
pub mod knobs;
pub mod mainline;
pub mod pace;
pub mod parse;
pub mod region;
pub mod sample;
pub mod scanner;
pub mod seats;
pub mod shared;
pub mod slots;
pub mod stats;
pub mod table;
pub mod verdict;

pub use content::Content;
pub use content::PAGE_SIZE;
pub use hash::HashKind;
pub use hash::PageHash;
pub use ids::Domain;
pub use ids::Frame;
pub use ids::Key;
pub use keys::Glimpse;
pub use keys::Inspected;
pub use keys::Keys;
pub use keys::Salt;
pub use knobs::Knobs;
pub use scanner::KsmScanner;
pub use seats::Seat;
pub use seats::Space;
pub use stats::Histogram;
pub use stats::KsmStats;
pub use table::Storage;
pub use verdict::Glance;
pub use verdict::Target;
pub use verdict::Verdict;
