// SPDX-License-Identifier: GPL-2.0

//! Detects memory that is going offline, so that shared pages leave it in time.
//!
//! The kernel can't migrate a fixed shared page, and it looks for unmovable pages before it notifies
//! anybody (`offline_pages()` isolates the range before it sends `MEM_GOING_OFFLINE`;
//! `soft_offline_page()` sends nothing). So the entries of these two functions are probed. The attempt
//! that hits the probe fails with `EBUSY` or `EIO`; one made a moment later finds no shared page.

use crate::control::Daemon;
use crate::sys::entry_probe::EntryProbe;
use crate::sys::entry_probe::Watcher;
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The probes. Dropping them ends the watch.
pub(crate) struct Offlining {
    _blocks: Option<EntryProbe<Leaver>>,
    _pages: Option<EntryProbe<Leaver>>,
}

impl Offlining {
    /// Makes `daemon` vacate memory that is going offline, as far as this kernel can take memory
    /// offline.
    pub(crate) fn watch(daemon: Arc<Daemon>) -> Self {
        let probe = |symbol, frames| {
            let daemon = daemon.clone();
            EntryProbe::new(symbol, Leaver { daemon, frames })
                .inspect_err(|_| pr_warn!("can't probe {symbol:?}: it will fail on merged pages\n"))
                .ok()
        };
        Offlining {
            _blocks: cfg!(CONFIG_MEMORY_HOTREMOVE)
                .then(|| probe(c"offline_pages", |[first, count]| frames(first, count)))
                .flatten(),
            _pages: cfg!(CONFIG_MEMORY_FAILURE)
                .then(|| probe(c"soft_offline_page", |[frame, _flags]| frames(frame, 1)))
                .flatten(),
        }
    }
}

/// Vacates the frames that a probed call is about.
struct Leaver {
    daemon: Arc<Daemon>,
    /// Computes the frames from the arguments of the call.
    frames: fn([usize; 2]) -> Range<u64>,
}

impl Watcher for Leaver {
    // A call is lost if too many calls are queued. The next attempt is then reported.
    fn called(&self, arguments: [usize; 2]) {
        self.daemon.evacuate((self.frames)(arguments));
    }
}

fn frames(first: usize, count: usize) -> Range<u64> {
    let first = first as u64;
    first..first.saturating_add(count as u64)
}
