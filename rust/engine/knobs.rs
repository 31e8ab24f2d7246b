// SPDX-License-Identifier: GPL-2.0

//! [`Knobs`]: how a scanner is to work.

use crate::region::LONGEST_INTERVAL;

/// The most page table entries that may be made to map a shared frame: enough for few copies of what
/// thousands of processes have. Whatever the limit, [`crate::seats`] bounds what forks make of it.
pub const MOST_PAGE_SHARING: u32 = 1 << 16;

/// How many it is by default. Whoever moves or swaps a shared page looks at each of its mappings, with the page
/// locked: 3 us each, so that it takes 3 ms in all. The limit costs one page of 1024 at the most.
const PAGE_SHARING: u32 = 1024;

/// The documented settings of a scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    pub(crate) scan_rate: u32,
    pub(crate) sleep_ms: u32,
    pub(crate) promote_after: u8,
    pub(crate) max_page_sharing: u32,
    pub(crate) max_interval: u8,
}

impl Default for Knobs {
    /// The documented defaults.
    fn default() -> Self {
        Knobs {
            scan_rate: 100,
            sleep_ms: 200,
            promote_after: 3,
            max_page_sharing: PAGE_SHARING,
            max_interval: LONGEST_INTERVAL,
        }
    }
}

impl Knobs {
    /// Sets how many pages a cycle looks at; 0 means 1.
    pub fn set_scan_rate(&mut self, pages_per_cycle: u32) {
        self.scan_rate = pages_per_cycle.max(1);
    }

    /// Pages a cycle looks at. Only mainline's may be 0.
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

    /// Sets how often an unknown content must be seen before it is merged; 0 means 1.
    pub fn set_promote_after(&mut self, sightings: u8) {
        self.promote_after = sightings.max(1);
    }

    /// Sightings before an unknown content is merged.
    pub fn promote_after(&self) -> u8 {
        self.promote_after
    }

    /// Sets how many page table entries may be made to map a shared frame: 2 to
    /// [`MOST_PAGE_SHARING`], or else what of that is nearest.
    pub fn set_max_page_sharing(&mut self, mappings: u32) {
        self.max_page_sharing = mappings.clamp(2, MOST_PAGE_SHARING);
    }

    /// How many page table entries may be made to map a shared frame.
    pub fn max_page_sharing(&self) -> u32 {
        self.max_page_sharing
    }

    /// Sets within how many passes each page is looked at, at the latest; 1: in every pass. What is
    /// no power of two, or above [`LONGEST_INTERVAL`], becomes the next lower one, 0 becomes 1.
    pub fn set_max_interval(&mut self, passes: u8) {
        let mut lower = LONGEST_INTERVAL;
        while lower > 1 && lower > passes {
            lower /= 2;
        }
        self.max_interval = lower;
    }

    /// Within how many passes each page is looked at, at the latest.
    pub fn max_interval(&self) -> u8 {
        self.max_interval
    }
}
