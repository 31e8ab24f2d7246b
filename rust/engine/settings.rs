// SPDX-License-Identifier: GPL-2.0

//! [`EngineSettings`]: the settings of the engine.

use crate::knobs;
use crate::knobs::MOST_PAGE_SHARING;
use crate::region::LONGEST_INTERVAL;

/// The settings that a [`crate::KsmScanner`] keeps: the values of five knobs, or what mainline's settings
/// amount to ([`crate::mainline::MainlineSettings`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    pub(crate) scan_rate: u32,
    pub(crate) sleep_ms: u32,
    pub(crate) promote_after: u8,
    pub(crate) max_page_sharing: u32,
    pub(crate) max_interval: u8,
}

impl Default for EngineSettings {
    /// The defaults of the knobs.
    fn default() -> Self {
        EngineSettings {
            scan_rate: knobs::SCAN_RATE.default,
            sleep_ms: knobs::SLEEP_MS.default,
            promote_after: knobs::PROMOTE_AFTER.default as u8,
            max_page_sharing: knobs::MAX_PAGE_SHARING.default,
            max_interval: knobs::MAX_INTERVAL.default as u8,
        }
    }
}

impl EngineSettings {
    /// Sets the number of pages scanned per cycle; 0 means 1.
    pub fn set_scan_rate(&mut self, pages_per_cycle: u32) {
        self.scan_rate = pages_per_cycle.max(1);
    }

    /// Pages scanned per cycle. Only mainline's setting may be 0.
    pub fn scan_rate(&self) -> u32 {
        self.scan_rate
    }

    /// Sets the pause between two cycles, in milliseconds; 0 means none.
    pub fn set_sleep_ms(&mut self, ms: u32) {
        self.sleep_ms = ms;
    }

    /// Pause between two cycles, in milliseconds.
    pub fn sleep_ms(&self) -> u32 {
        self.sleep_ms
    }

    /// Sets the number of sightings after which an unknown content is merged; 0 means 1.
    pub fn set_promote_after(&mut self, sightings: u8) {
        self.promote_after = sightings.max(1);
    }

    /// Number of sightings after which an unknown content is merged.
    pub fn promote_after(&self) -> u8 {
        self.promote_after
    }

    /// Sets the number of page table entries that merges may map to one shared frame. The value is
    /// clamped to 2..=[`MOST_PAGE_SHARING`].
    pub fn set_max_page_sharing(&mut self, mappings: u32) {
        self.max_page_sharing = mappings.clamp(2, MOST_PAGE_SHARING);
    }

    /// Number of page table entries that merges may map to one shared frame.
    pub fn max_page_sharing(&self) -> u32 {
        self.max_page_sharing
    }

    /// Sets the longest interval between two visits of a page, in passes; 1 visits every page in every
    /// pass. The value is rounded down to a power of two and clamped to 1..=[`LONGEST_INTERVAL`].
    pub fn set_max_interval(&mut self, passes: u8) {
        let mut lower = LONGEST_INTERVAL;
        while lower > 1 && lower > passes {
            lower /= 2;
        }
        self.max_interval = lower;
    }

    /// Longest interval between two visits of a page, in passes.
    pub fn max_interval(&self) -> u8 {
        self.max_interval
    }
}
