// SPDX-License-Identifier: GPL-2.0

//! The scan: from the processes to the pages that are merged.
//!
//! ```text
//! worker    threads that scan
//!   turns     give each worker a place and a step, and close the scan for others
//!     places    how far the pass has come
//!     state     the settings in force, and counts; profile: the two sets of settings
//!     cache     gives memory back to the kernel
//!   step      one batch of pages of a place
//!     gather    samples the pages that are mapped there
//!     regions   the regions that the step visits, and the results
//!     sets      the engine, behind its lock: decides
//!     merge     merges the candidates; huge: decides which large pages are split for that
//! ```

mod cache;
pub(crate) mod gather;
mod huge;
pub(crate) mod merge;
pub(crate) mod places;
pub(crate) mod profile;
pub(crate) mod regions;
pub(crate) mod sets;
pub(crate) mod state;
pub(crate) mod step;
pub(crate) mod turns;
pub(crate) mod worker;
