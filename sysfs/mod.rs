// SPDX-License-Identifier: GPL-2.0

//! The files under `/sys/kernel/mm/ksm_v`: knobs and counts. `Documentation/ABI` describes each.
//!
//! - [`control`]: what the scanner does, and how fast
//! - [`policy`]: what it may merge
//! - [`counts`]: what it has done
//! - [`compat`]: the same under mainline KSM's names, in a directory of its own
//!
//! [`engine::knobs`] declares the knobs. A [`file`] here connects a knob with its effect.

#[macro_use]
mod file;
mod compat;
mod control;
mod counts;
mod policy;

use crate::control::Daemon;
use crate::scan::worker::Threads;
use crate::sys::imports::Imports;
use crate::sys::sysfs::Attribute;
use crate::sys::sysfs::Listing;
use crate::sys::sysfs::Tree;
use crate::sysfs::file::Scand;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The directories. Dropping them removes the files, and then stops the threads.
pub(crate) struct Files {
    _tree: Tree<Scand, Arc<Daemon>>,
}

impl Files {
    /// Makes the directories. `compat/` has Red Hat's file if `has_red_hats_file`.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENOMEM`.
    pub(crate) fn new(
        imports: Imports,
        daemon: Arc<Daemon>,
        threads: Pin<KBox<Threads>>,
        has_red_hats_file: bool,
    ) -> Result<Self> {
        let compat = Listing {
            name: c"compat",
            files: compat::files(has_red_hats_file),
            state: daemon.clone(),
        };
        let own = Listing {
            name: c"ksm_v",
            files: &ATTRIBUTES,
            state: Scand { threads, daemon },
        };
        Ok(Files {
            _tree: Tree::under_mm(imports, own, compat)?,
        })
    }
}

static ATTRIBUTES: [Attribute<Scand>; 35] = [
    control::RUN,
    control::PROFILE,
    control::SCAN_RATE,
    control::SLEEP_MS,
    control::PROMOTE_AFTER,
    control::MAX_PAGE_SHARING,
    control::MAX_INTERVAL,
    control::HUGE_MIN_PARTS,
    control::MOVABLE,
    control::MAX_CPU,
    control::GOVERNOR,
    control::THREADS,
    control::PROMISE_FLOOR,
    control::PROMISE_SWAP,
    control::MERGE_NOW,
    policy::SCOPE,
    policy::DOMAIN,
    policy::UNDUMPABLE,
    policy::CONTENT,
    counts::FULL_SCANS,
    counts::PAGES_SHARED,
    counts::PAGES_SHARING,
    counts::PAGES_UNSHARED,
    counts::PAGES_SCANNED,
    counts::PAGES_SKIPPED,
    counts::PASS_PAGES,
    counts::LAST_PASS_PAGES,
    counts::MERGE_RATIO_X100,
    counts::ZERO_PAGES,
    counts::HUGE_PAGES_SPLIT,
    counts::PROMISE_WORST,
    counts::PROMISE_HELD,
    counts::INDEX_BYTES,
    counts::INDEX_FAILURES,
    counts::CPU_NS,
];
