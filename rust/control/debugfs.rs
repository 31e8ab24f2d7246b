// SPDX-License-Identifier: GPL-2.0

//! Internal state for debugging, under `/sys/kernel/debug/ksm_v`; `Documentation/ABI/debugfs-ksm_v`
//! describes the files.

use crate::control::Daemon;
use crate::sys::debugfs::Directory;
use crate::sys::debugfs::File;
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The files; dropping it removes them.
pub(crate) struct Insight {
    _directory: Directory<Daemon>,
}

impl Insight {
    /// Makes the files, if the kernel has debugfs.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(module: &'static ThisModule, daemon: Arc<Daemon>) -> Result<Self> {
        Ok(Insight {
            _directory: Directory::new(module, c"ksm_v", &FILES, daemon)?,
        })
    }
}

static FILES: [File<Daemon>; 2] = [
    File {
        name: c"sharers",
        show: sharers,
    },
    File {
        name: c"refusals",
        show: refusals,
    },
];

fn sharers(daemon: &Daemon, text: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(text, "# from and to how many mappings, shared pages")?;
    for (first, last, pages) in daemon.sharers().classes() {
        writeln!(text, "{first} {last} {pages}")?;
    }
    Ok(())
}

fn refusals(daemon: &Daemon, text: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        text,
        "# why pages were not merged, how often since the module was loaded"
    )?;
    for (reason, count) in daemon.refusals().by_name() {
        writeln!(text, "{reason} {count}")?;
    }
    Ok(())
}
