// SPDX-License-Identifier: GPL-2.0

//! The documented API, in which merging cannot fail.

use super::stable::forget_stable_entry;
use super::KsmScanner;
use super::ScannerStorage;
use crate::content::Content;
use crate::hash::HashKind;
use crate::ids::Domain;
use crate::ids::Frame;
use crate::ids::Key;
use crate::seats::Seats;
use crate::shared::Copies;
use crate::shared::Shared;
use crate::shared::Standing;
use crate::stats::merge_ratio_x100;
use crate::stats::KsmStats;
use crate::verdict::Glance;
use crate::verdict::Target;

/// The documented API.
impl<S: ScannerStorage + Default> KsmScanner<S> {
    /// Makes a disabled scanner with the documented defaults: 100 pages a cycle, 200 ms between
    /// cycles, promotion after 3 sightings.
    pub fn new() -> Self {
        Self::with(S::default(), HashKind::default(), 0)
    }
}

impl<S: ScannerStorage + Default> Default for KsmScanner<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// The documented API, continued: methods that need no default storage.
impl<S: ScannerStorage> KsmScanner<S> {
    /// Forgets all contents and shared frames, as if none had been seen.
    ///
    /// The settings and the totals since the start are kept. Shared frames that still exist are no longer
    /// counted.
    pub fn init(&mut self) {
        self.forget_contents();
        self.shared = Shared::new();
        self.seats = Seats::new();
    }

    /// Forgets all contents. Shared frames that still exist stay counted, but nothing is merged into
    /// them.
    pub fn forget_contents(&mut self) {
        self.index.clear();
        self.unstable = 0;
        self.at_rest = 0;
        self.last_copies = Copies::default();
        self.shared.close();
        self.shared.shrink(&self.storage);
    }

    /// Sets the number of pages scanned per cycle; 0 means 1.
    pub fn set_scan_rate(&mut self, pages_per_cycle: u32) {
        self.settings.set_scan_rate(pages_per_cycle);
    }

    /// Pages scanned per cycle.
    pub fn scan_rate(&self) -> u32 {
        self.settings.scan_rate
    }

    /// Sets the pause between two cycles, in milliseconds; 0 means none.
    pub fn set_sleep_ms(&mut self, ms: u32) {
        self.settings.set_sleep_ms(ms);
    }

    /// Pause between two cycles, in milliseconds.
    pub fn sleep_ms(&self) -> u32 {
        self.settings.sleep_ms
    }

    /// Allows the owner to scan.
    pub fn enable(&mut self) {
        self.enabled = true;
    }

    /// Asks the owner to stop scanning. Merged pages stay merged.
    pub fn disable(&mut self) {
        self.enabled = false;
    }

    /// Whether the owner may scan.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The counts.
    pub fn get_stats(&self) -> KsmStats {
        let pages_shared = self.shared.pages_shared();
        let pages_sharing = self.shared.pages_sharing();
        KsmStats {
            pages_shared,
            pages_sharing,
            pages_unshared: self.unstable,
            pages_scanned: self.pages_scanned,
            merge_ratio_x100: merge_ratio_x100(pages_sharing, pages_shared),
        }
    }

    /// Scans a page of the only domain; returns true if the page is merged, and the caller then remaps
    /// it copy-on-write.
    ///
    /// This is the documented one-call form, in which merging can't fail. An owner whose merges can
    /// fail, or which has several domains, calls [`KsmScanner::scan`] and [`KsmScanner::merged`].
    pub fn scan_page<C: Content + ?Sized>(&mut self, frame: u64, content: &C) -> bool {
        let (frame, domain) = (Frame(frame), Domain::default());
        self.pages_scanned = self.pages_scanned.wrapping_add(1);
        // A sample is not enough: the caller compares no bytes.
        let key = self.keys.of_whole(domain, Key::default(), content);
        if content.is_zero() || !matches!(self.sighting(key, frame), Glance::Merge(_)) {
            return false;
        }
        // The page is the shared frame of this content, still mapped where it was first seen.
        if self.shared.get(frame).is_some_and(|known| known.key == key) {
            return false;
        }
        match self.target(key, domain) {
            Some(Target::Shared(shared)) => self.share_one_more(key, shared, frame),
            Some(Target::Twin(twin)) => self.announce(twin, 0) && self.made(key, twin, domain, 2),
            None => false,
        }
    }

    /// Counts one more page that maps `shared`, the shared frame of `key`. Returns false if `shared`
    /// has `max_page_sharing` mappings already; it is then retired.
    fn share_one_more(&mut self, key: Key, shared: Frame, page: Frame) -> bool {
        let mappings = self.shared.get(shared).map_or(0, |entry| entry.mappings);
        if mappings >= self.settings.max_page_sharing {
            self.retire(key, page);
            return false;
        }
        self.shared
            .update(shared, |entry| entry.mappings = mappings.saturating_add(1))
    }

    /// Counts a mapping of a shared frame that a write has broken.
    ///
    /// Returns false if `frame` is no shared frame. The frame is freed with its last mapping. A fork
    /// may have added a mapping without telling the engine; the next recount finds it.
    pub fn unmerge_page(&mut self, frame: u64) -> bool {
        let frame = Frame(frame);
        let Some(&known) = self.shared.get(frame).filter(|entry| entry.mappings > 0) else {
            return false;
        };
        let left = known.mappings.saturating_sub(1);
        if left == 0 {
            forget_stable_entry(&mut self.index, &known);
            self.set_standing(frame, Standing::Closed);
        }
        self.shared.update(frame, |entry| entry.mappings = left)
    }
}
