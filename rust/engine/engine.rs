// SPDX-License-Identifier: GPL-2.0

//! Policy of kernel same-page merging: which frames to merge with each other, and when.
//!
//! This crate knows frames (page frame numbers), contents and domains. It uses no kernel types, maps no
//! pages and contains no `unsafe` code. The module around it reads pages, asks [`KsmScanner::scan`]
//! what to do with each, does it, and reports the result. The same files are compiled into `ksm_v.ko`
//! by Kbuild and into a host crate by cargo.
//!
//! - [`scanner`]: [`KsmScanner`], the documented API and its decisions
//! - [`verdict`]: decisions on pages; [`ids`]: identifiers of pages
//! - [`keys`]: how contents get their keys; [`hash`]: FNV-1a, wide and bytewise
//! - [`sample`]: a few words of a page, which are read first
//! - [`index`]: the stable and the unstable set, one table by content
//! - [`shared`]: the shared frames, one table by frame; [`seats`]: how many pages may be merged into
//!   each
//! - [`table`]: the open-addressing hash table under both
//! - [`huge`]: whether it pays to split a large page; [`promise`]: how much memory must be available
//! - [`stats`]: statistics; [`pace`]: when to rest; [`region`]: what to visit less often; [`drain`]:
//!   when to drain LRU batches; [`delay`]: how long to wait for locked VMAs
//! - [`knobs`]: the declarations of the knobs; [`parse`]: parsers for their text
//! - [`settings`]: the settings of the engine; [`mainline`]: mainline's settings, with its [`advisor`]
//! - [`slots`]: notes left by probes
//!
//! Locking: none. The owner of a [`KsmScanner`] serialises access to it.

#![forbid(unsafe_code)]

pub mod advisor;
pub mod content;
pub mod delay;
pub mod drain;
pub mod hash;
pub mod huge;
pub mod ids;
pub mod index;
pub mod keys;
pub mod knobs;
pub mod mainline;
pub mod pace;
pub mod parse;
pub mod promise;
pub mod region;
pub mod sample;
pub mod scanner;
pub mod seats;
pub mod settings;
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
pub use scanner::KsmScanner;
pub use seats::Seat;
pub use seats::Space;
pub use settings::EngineSettings;
pub use stats::Histogram;
pub use stats::KsmStats;
pub use table::Storage;
pub use verdict::Glance;
pub use verdict::Target;
pub use verdict::Verdict;
