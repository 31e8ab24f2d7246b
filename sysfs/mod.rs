// SPDX-License-Identifier: GPL-2.0

//! The files under `/sys/kernel/mm/ksm_v`: knobs and counts. `Documentation/ABI` describes each.
//!
//! - [`control`]: what the scanner does, and how fast
//! - [`policy`]: what it may merge
//! - [`counts`]: what it has done
//! - [`compat`]: the same under mainline KSM's names, in a directory of its own
//!
//! [`engine::knobs`] declares the knobs. A file here connects a knob with its effect.

/// The file of a knob whose values are numbers: `$get` reads the number, and `$set` sets it.
macro_rules! number {
    ($knob:expr, $get:expr, $set:expr $(,)?) => {
        $crate::sys::sysfs::Attribute::read_write(
            $knob.name,
            |scand, text| {
                let get: fn(&$crate::sysfs::Scand) -> _ = $get;
                text.line(get(scand))
            },
            |scand, text| {
                let set: fn(&$crate::sysfs::Scand, _) -> Result = $set;
                set(scand, $knob.parse(text).ok_or(EINVAL)?)
            },
        )
    };
}

/// The file of a knob whose values are words. `$values` are the meanings of the words, in their order;
/// `$get` reads the value, and `$set` sets it.
macro_rules! choice {
    ($knob:expr, $values:expr, $get:expr, $set:expr $(,)?) => {{
        const _: () = assert!($values.len() == $knob.words().len());
        $crate::sys::sysfs::Attribute::read_write(
            $knob.name,
            |scand, text| {
                let get: fn(&$crate::sysfs::Scand) -> _ = $get;
                $crate::sysfs::choices(text, &$values, $knob.words(), get(scand))
            },
            |scand, text| {
                let set: fn(&$crate::sysfs::Scand, _) -> Result = $set;
                let position: usize = $knob.parse(text).ok_or(EINVAL)?;
                set(scand, *$values.get(position).ok_or(EINVAL)?)
            },
        )
    }};
}

mod compat;
mod control;
mod counts;
mod policy;

use crate::control::Daemon;
use crate::scan::profile::Settings;
use crate::scan::worker::Threads;
use crate::sys::imports::Imports;
use crate::sys::sysfs::Attribute;
use crate::sys::sysfs::Listing;
use crate::sys::sysfs::Text;
use crate::sys::sysfs::Tree;
use core::fmt::Write;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The state behind the files.
struct Scand {
    threads: Pin<KBox<Threads>>,
    daemon: Arc<Daemon>,
}

impl Scand {
    /// The settings of this directory, whether in force or not.
    fn own(&self) -> Settings {
        self.daemon.read(|state| state.profiles.own)
    }

    /// Changes the settings of this directory, with immediate effect if they are in force.
    fn change(&self, change: impl FnOnce(&mut Settings)) -> Result {
        self.daemon.change(|profiles| change(&mut profiles.own));
        Ok(())
    }
}

/// The directories. Dropping them removes the files, and then stops the threads.
pub(crate) struct Files {
    _tree: Tree<Scand, Arc<Daemon>>,
}

impl Files {
    /// Makes the directories.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENOMEM`.
    pub(crate) fn new(
        imports: Imports,
        daemon: Arc<Daemon>,
        threads: Pin<KBox<Threads>>,
    ) -> Result<Self> {
        let compat = Listing {
            name: c"compat",
            files: &compat::ATTRIBUTES,
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

static ATTRIBUTES: [Attribute<Scand>; 25] = [
    control::RUN,
    control::PROFILE,
    control::SCAN_RATE,
    control::SLEEP_MS,
    control::PROMOTE_AFTER,
    control::MAX_PAGE_SHARING,
    control::MAX_INTERVAL,
    control::MOVABLE,
    control::MAX_CPU,
    control::GOVERNOR,
    control::THREADS,
    control::MERGE_NOW,
    policy::SCOPE,
    policy::DOMAIN,
    counts::FULL_SCANS,
    counts::PAGES_SHARED,
    counts::PAGES_SHARING,
    counts::PAGES_UNSHARED,
    counts::PAGES_SCANNED,
    counts::PAGES_SKIPPED,
    counts::MERGE_RATIO_X100,
    counts::ZERO_PAGES,
    counts::INDEX_BYTES,
    counts::INDEX_FAILURES,
    counts::CPU_NS,
];

/// Writes all names, the chosen one in brackets, like `/sys/kernel/mm/transparent_hugepage` does.
fn choices<T: PartialEq>(text: &mut Text<'_>, values: &[T], names: &[&str], chosen: T) -> Result {
    let mut separator = "";
    for (value, name) in values.iter().zip(names) {
        let (open, close) = if *value == chosen {
            ("[", "]")
        } else {
            ("", "")
        };
        write!(text, "{separator}{open}{name}{close}").map_err(|_| EMSGSIZE)?;
        separator = " ";
    }
    text.line("")
}
