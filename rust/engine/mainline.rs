// SPDX-License-Identifier: GPL-2.0

//! Mainline KSM's settings and pass counts, with its names, defaults and rules
//! (`Documentation/admin-guide/mm/ksm.rst` of the kernel).

use crate::advisor::Advisor;
use crate::advisor::Mode;
use crate::advisor::Pass;
use crate::knobs::MOST_PAGE_SHARING;
use crate::region::LONGEST_INTERVAL;
use crate::settings::EngineSettings;
use crate::stats::KsmStats;

/// Default number of pages per cycle, without an advisor.
const PAGES_TO_SCAN: u32 = 100;
/// As in mainline, which merges a page in the second pass that finds it unchanged.
const PROMOTE_AFTER: u8 = 2;

/// The settings in mainline's files (`compat/`), with mainline's units and rules. The scanner follows
/// what they amount to: [`Self::engine_settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainlineSettings {
    pages_to_scan: u32,
    /// Pause between two cycles, in milliseconds.
    pub sleep_millisecs: u32,
    max_page_sharing: u32,
    /// Whether pages of different NUMA nodes may be merged.
    pub merge_across_nodes: bool,
    /// Whether zero-filled pages are merged with the kernel's zero page.
    pub use_zero_pages: bool,
    /// Whether only zero-filled pages are merged, with the kernel's zero page. This is a setting of Red Hat's
    /// kernels, not of mainline.
    pub only_zero_pages: bool,
    /// Whether pages that were not merged for a while are scanned less often.
    pub smart_scan: bool,
    /// Has no effect.
    pub stable_node_chains_prune_millisecs: u32,
    /// The advisor, which may set the number of pages per cycle.
    pub advisor: Advisor,
}

/// The error of a write to a setting that an advisor controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advised;

impl Default for MainlineSettings {
    /// Mainline's defaults.
    fn default() -> Self {
        MainlineSettings {
            pages_to_scan: PAGES_TO_SCAN,
            sleep_millisecs: 20,
            max_page_sharing: 256,
            merge_across_nodes: true,
            use_zero_pages: false,
            only_zero_pages: false,
            smart_scan: true,
            stable_node_chains_prune_millisecs: 2000,
            advisor: Advisor::default(),
        }
    }
}

impl MainlineSettings {
    /// Pages per cycle; 0 scans none.
    pub fn pages_to_scan(&self) -> u32 {
        self.pages_to_scan
    }

    /// Sets the number of pages per cycle.
    ///
    /// # Errors
    ///
    /// [`Advised`]: the advisor sets it, and it stays as it is.
    pub fn set_pages_to_scan(&mut self, pages: u32) -> Result<(), Advised> {
        match self.advisor.mode() {
            Mode::None => self.pages_to_scan = pages,
            Mode::ScanTime => return Err(Advised),
        }
        Ok(())
    }

    /// Number of page table entries that merges may map to one shared page.
    pub fn max_page_sharing(&self) -> u32 {
        self.max_page_sharing
    }

    /// Sets the number of page table entries that merges may map to one shared page; values below 2
    /// mean 2. The scanner never maps more than [`MOST_PAGE_SHARING`].
    pub fn set_max_page_sharing(&mut self, mappings: u32) {
        self.max_page_sharing = mappings.max(2);
    }

    /// Sets the advisor's mode. A change resets the number of pages per cycle.
    pub fn set_advisor_mode(&mut self, mode: Mode) {
        if self.advisor.set_mode(mode) {
            self.pages_to_scan = match mode {
                Mode::None => PAGES_TO_SCAN,
                Mode::ScanTime => u32::try_from(self.advisor.min_pages_to_scan).unwrap_or(u32::MAX),
            };
        }
    }

    /// Ends a pass: the advisor, if it is in force, sets the number of pages per cycle.
    pub fn end_pass(&mut self, pass: Pass) {
        if self.advisor.mode() == Mode::ScanTime {
            self.pages_to_scan = self.advisor.advise(self.pages_to_scan, pass);
        }
    }

    /// What these settings amount to for the engine.
    pub fn engine_settings(&self) -> EngineSettings {
        EngineSettings {
            scan_rate: self.pages_to_scan,
            sleep_ms: self.sleep_millisecs,
            promote_after: PROMOTE_AFTER,
            max_page_sharing: self.max_page_sharing.min(MOST_PAGE_SHARING),
            max_interval: if self.smart_scan { LONGEST_INTERVAL } else { 1 },
        }
    }
}

/// Pass counts as mainline defines them. Totals count from any starting point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    full_scans: u64,
    /// Number of pages seen in the last pass.
    last_met: u64,
    /// Total number of pages seen when this pass began.
    met_before: u64,
}

impl Passes {
    /// Number of completed passes.
    pub fn full_scans(&self) -> u64 {
        self.full_scans
    }

    /// Ends a pass; `met` is the total number of pages seen. The pass counts if there was memory to scan: mainline
    /// counts no pass without registered memory.
    pub fn end_pass(&mut self, met: u64, is_any_in_scope: bool) {
        self.last_met = met.saturating_sub(self.met_before);
        self.met_before = met;
        self.full_scans = self.full_scans.wrapping_add(u64::from(is_any_in_scope));
    }

    /// Starts over after everything was unmerged; `met` is the total number of pages seen.
    pub fn reset(&mut self, met: u64) {
        *self = Passes {
            met_before: met,
            ..Passes::default()
        };
    }

    /// Number of pages seen in the present pass so far; `met` is the total number of pages seen.
    pub fn seen(&self, met: u64) -> u64 {
        met.saturating_sub(self.met_before)
    }

    /// Number of pages seen in the last completed pass; 0 if there is none.
    pub fn last_seen(&self) -> u64 {
        self.last_met
    }

    /// Number of pages that change too fast to be merged, or were not seen often enough. `met` is the
    /// total number of pages seen, and `unshared` the number of unshared contents.
    pub fn pages_volatile(&self, met: u64, unshared: u64, stats: &KsmStats) -> u64 {
        // In the first pass, the pages it has seen so far.
        let known = self.last_met.max(self.seen(met));
        known
            .saturating_sub(stats.pages_shared)
            .saturating_sub(stats.pages_sharing)
            .saturating_sub(unshared)
    }
}

/// The profit of merging, in bytes: the pages saved minus the memory of the tables.
pub fn general_profit(pages_saved: u64, table_bytes: u64) -> i64 {
    let saved = pages_saved.saturating_mul(crate::PAGE_SIZE as u64);
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    signed(saved).saturating_sub(signed(table_bytes))
}
