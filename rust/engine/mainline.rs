// SPDX-License-Identifier: GPL-2.0

//! Mainline KSM's settings and what it counts of passes, by its names, its defaults and its rules
//! (`Documentation/admin-guide/mm/ksm.rst` of the kernel).

use crate::advisor::Advisor;
use crate::advisor::Mode;
use crate::advisor::Pass;
use crate::knobs::Knobs;
use crate::knobs::MOST_PAGE_SHARING;
use crate::region::LONGEST_INTERVAL;
use crate::stats::KsmStats;

/// Pages of a cycle, unless an advisor says so.
const PAGES_TO_SCAN: u32 = 100;
/// As mainline, which merges a page in the second pass in which it is the same.
const PROMOTE_AFTER: u8 = 2;

/// The settings that mainline's files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mainline {
    pages_to_scan: u32,
    /// Pause between two cycles, in milliseconds.
    pub sleep_millisecs: u32,
    max_page_sharing: u32,
    /// Whether pages of different NUMA nodes may be merged.
    pub merge_across_nodes: bool,
    /// Whether pages of zeroes are merged with the kernel's zero page.
    pub use_zero_pages: bool,
    /// Whether pages that were not merged for a while are looked at less often.
    pub smart_scan: bool,
    /// Of no effect.
    pub stable_node_chains_prune_millisecs: u32,
    /// Who may say how many pages a cycle has.
    pub advisor: Advisor,
}

/// An advisor says how many pages a cycle has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advised;

impl Default for Mainline {
    /// Mainline's defaults.
    fn default() -> Self {
        Mainline {
            pages_to_scan: PAGES_TO_SCAN,
            sleep_millisecs: 20,
            max_page_sharing: 256,
            merge_across_nodes: true,
            use_zero_pages: false,
            smart_scan: true,
            stable_node_chains_prune_millisecs: 2000,
            advisor: Advisor::default(),
        }
    }
}

impl Mainline {
    /// Pages of a cycle; 0: it looks at none.
    pub fn pages_to_scan(&self) -> u32 {
        self.pages_to_scan
    }

    /// Sets how many pages a cycle has.
    ///
    /// # Errors
    ///
    /// [`Advised`]: they stay as they are.
    pub fn set_pages_to_scan(&mut self, pages: u32) -> Result<(), Advised> {
        match self.advisor.mode() {
            Mode::None => self.pages_to_scan = pages,
            Mode::ScanTime => return Err(Advised),
        }
        Ok(())
    }

    /// How many page table entries may be made to map a shared page.
    pub fn max_page_sharing(&self) -> u32 {
        self.max_page_sharing
    }

    /// Sets how many page table entries may be made to map a shared page; below 2 means 2. No more than
    /// [`MOST_PAGE_SHARING`] are made all the same.
    pub fn set_max_page_sharing(&mut self, mappings: u32) {
        self.max_page_sharing = mappings.max(2);
    }

    /// Sets who says how many pages a cycle has. They begin anew, unless it is as before.
    pub fn set_advisor_mode(&mut self, mode: Mode) {
        if self.advisor.set_mode(mode) {
            self.pages_to_scan = match mode {
                Mode::None => PAGES_TO_SCAN,
                Mode::ScanTime => u32::try_from(self.advisor.min_pages_to_scan).unwrap_or(u32::MAX),
            };
        }
    }

    /// Has the advisor, if there is one, say how many pages a cycle has after this pass.
    pub fn end_pass(&mut self, pass: Pass) {
        if self.advisor.mode() == Mode::ScanTime {
            self.pages_to_scan = self.advisor.advise(self.pages_to_scan, pass);
        }
    }

    /// What that means for the scanner.
    pub fn knobs(&self) -> Knobs {
        Knobs {
            scan_rate: self.pages_to_scan,
            sleep_ms: self.sleep_millisecs,
            promote_after: PROMOTE_AFTER,
            max_page_sharing: self.max_page_sharing.min(MOST_PAGE_SHARING),
            max_interval: if self.smart_scan { LONGEST_INTERVAL } else { 1 },
        }
    }
}

/// What mainline counts of passes. All totals are since any beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    full_scans: u64,
    /// Pages that were met in the last pass.
    last_met: u64,
    /// The total of pages met when this pass began.
    met_before: u64,
}

impl Passes {
    /// Passes that were completed.
    pub fn full_scans(&self) -> u64 {
        self.full_scans
    }

    /// Ends a pass: so many pages have been met in all. It counts if there was registered memory.
    pub fn end_pass(&mut self, met: u64, is_any_registered: bool) {
        self.last_met = met.saturating_sub(self.met_before);
        self.met_before = met;
        self.full_scans = self.full_scans.wrapping_add(u64::from(is_any_registered));
    }

    /// Begins anew: everything has been unmerged, after so many pages were met in all.
    pub fn reset(&mut self, met: u64) {
        *self = Passes {
            met_before: met,
            ..Passes::default()
        };
    }

    /// Pages that change too fast to be merged, or were not looked at often enough, when so many
    /// pages have been met in all and so many contents are `unshared`.
    pub fn pages_volatile(&self, met: u64, unshared: u64, stats: &KsmStats) -> u64 {
        // In the first pass those that it has met so far.
        let known = self.last_met.max(met.saturating_sub(self.met_before));
        known
            .saturating_sub(stats.pages_shared)
            .saturating_sub(stats.pages_sharing)
            .saturating_sub(unshared)
    }
}

/// What merging has brought, in bytes: the pages saved, less the tables.
pub fn general_profit(pages_saved: u64, table_bytes: u64) -> i64 {
    let saved = pages_saved.saturating_mul(crate::PAGE_SIZE as u64);
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    signed(saved).saturating_sub(signed(table_bytes))
}
