// SPDX-License-Identifier: GPL-2.0

//! What reaches a scanner besides its knobs: readers of debugfs, memory that is going offline, and reclaim.

use crate::control::debugfs::Insight;
use crate::control::hotplug::Offlining;
use crate::control::Daemon;
use crate::scan::turns::Commons;
use crate::sys::shrinker::Shrinker;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The observers of a scanner. Dropping this ends them.
pub(crate) struct Observers {
    _insight: Insight,
    _offlining: Offlining,
    _shrinker: Shrinker<Commons>,
}

impl Observers {
    /// Begins to observe. If this fails, nothing observes any more.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(module: &'static ThisModule, daemon: Arc<Daemon>) -> Result<Self> {
        let shrinker = Shrinker::new(c"ksm_v", daemon.commons())?;
        let offlining = Offlining::watch(daemon.clone());
        Ok(Observers {
            // The last fallible step: open files cannot pin a module whose `init` fails.
            _insight: Insight::new(module, daemon)?,
            _offlining: offlining,
            _shrinker: shrinker,
        })
    }
}
