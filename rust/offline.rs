// SPDX-License-Identifier: GPL-2.0

//! Learns of memory that is to go offline, so that shared pages leave it.
//!
//! Nothing can move a shared page, and the kernel looks for what it can't move before it notifies
//! anybody (`offline_pages()` isolates the range before it sends `MEM_GOING_OFFLINE`;
//! `soft_offline_page()` sends nothing). So their entries are probed. The attempt that tells of it
//! fails with `EBUSY` or `EIO`; one made a moment later finds no shared page.

use crate::daemon::Daemon;
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
    /// Has `daemon` leave what is to go offline, as far as the kernel can take memory offline.
    pub(crate) fn watch(daemon: Arc<Daemon>) -> Self {
        let probe = |symbol, frames| {
            let daemon = daemon.clone();
            EntryProbe::new(symbol, Leaver { daemon, frames })
                .inspect_err(|_| {
                    pr_warn!("can't probe {symbol:?}: merged pages will be in its way\n")
                })
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

/// Leaves the frames that a call is about.
struct Leaver {
    daemon: Arc<Daemon>,
    /// Which those are, by the call's arguments.
    frames: fn([usize; 2]) -> Range<u64>,
}

impl Watcher for Leaver {
    // What is not told, as too many calls wait, is told at the next attempt.
    fn called(&self, arguments: [usize; 2]) {
        self.daemon.evacuate((self.frames)(arguments));
    }
}

fn frames(first: usize, count: usize) -> Range<u64> {
    let first = first as u64;
    first..first.saturating_add(count as u64)
}
