// SPDX-License-Identifier: GPL-2.0

//! Mainline's scan-time advisor: it sets the number of pages per cycle, so that a pass takes a target
//! time. The formulas are those of `scan_time_advisor()` in `mm/ksm.c`.

/// Smallest CPU share that the advisor plans for scanning, in percent.
const MIN_CPU: u64 = 10;
/// Weight of the last pass in the moving average, in percent.
const EWMA_WEIGHT: u64 = 30;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// What sets the number of pages per cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The knob `pages_to_scan`.
    #[default]
    None,
    /// The advisor, from the duration of passes.
    ScanTime,
}

/// The advisor's settings, and its record of the last pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advisor {
    mode: Mode,
    /// Largest CPU share that the advisor plans for scanning, in percent.
    pub max_cpu: u32,
    /// First number of pages per cycle.
    pub min_pages_to_scan: u64,
    /// Largest number of pages per cycle.
    pub max_pages_to_scan: u64,
    target_scan_time: u64,
    last: Last,
}

/// The record of the last pass. All zeroes if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Last {
    /// Its duration, in seconds.
    scan_time: u64,
    /// Moving average of the change of the duration, in percent.
    change: u64,
    /// CPU time of the scanner up to its end, in nanoseconds.
    cpu_ns: u64,
}

/// A pass that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Its duration, in nanoseconds.
    pub took_ns: u64,
    /// CPU time of the scanner since it was started, in nanoseconds.
    pub cpu_ns: u64,
}

impl Default for Advisor {
    /// Mainline's defaults.
    fn default() -> Self {
        Advisor {
            mode: Mode::None,
            max_cpu: 70,
            min_pages_to_scan: 500,
            max_pages_to_scan: 30_000,
            target_scan_time: 200,
            last: Last::default(),
        }
    }
}

impl Advisor {
    /// What sets the number of pages per cycle.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Sets the mode. Returns whether that is a change, which also clears the record of the last pass.
    pub(crate) fn set_mode(&mut self, mode: Mode) -> bool {
        let is_change = mode != self.mode;
        if is_change {
            self.mode = mode;
            self.last = Last::default();
        }
        is_change
    }

    /// Target duration of a pass, in seconds.
    pub fn target_scan_time(&self) -> u64 {
        self.target_scan_time
    }

    /// Sets the target duration of a pass, in seconds; 0 means 1.
    pub fn set_target_scan_time(&mut self, seconds: u64) {
        self.target_scan_time = seconds.max(1);
    }

    /// Returns the number of pages per cycle after this pass, which had `pages_to_scan`.
    pub fn advise(&mut self, pages_to_scan: u32, pass: Pass) -> u32 {
        let now = u64::from(pages_to_scan);
        let scan_time = (pass.took_ns / NS_PER_S).max(1);
        let last_scan_time = match self.last.scan_time {
            0 => scan_time,
            known => known,
        };
        // The scan time relative to its target, and to the last scan time.
        let factor = percent(self.target_scan_time, scan_time);
        let change = ewma(self.last.change, percent(scan_time, last_scan_time));
        let pages = divided(now.saturating_mul(100), factor);
        let pages = pages.saturating_mul(change) / 100;
        let per_percent = divided(now, self.cpu_percent(scan_time, pass.cpu_ns)).max(1);
        let pages = pages
            .min(per_percent.saturating_mul(self.max_cpu.into()))
            .max(per_percent.saturating_mul(MIN_CPU))
            .min(self.max_pages_to_scan);
        self.last = Last {
            scan_time,
            change,
            cpu_ns: pass.cpu_ns,
        };
        u32::try_from(pages).unwrap_or(u32::MAX)
    }

    /// CPU share of the scanner in a pass of `scan_time` seconds, at least 1 percent.
    fn cpu_percent(&self, scan_time: u64, cpu_ns: u64) -> u64 {
        let ran_ms = cpu_ns.saturating_sub(self.last.cpu_ns) / NS_PER_MS;
        percent(ran_ms, scan_time.saturating_mul(1000))
    }
}

/// `part` of `whole` in percent, at least 1.
fn percent(part: u64, whole: u64) -> u64 {
    divided(part.saturating_mul(100), whole).max(1)
}

/// The exponentially weighted moving average of percentages.
fn ewma(before: u64, now: u64) -> u64 {
    let weighted = before.saturating_mul(100 - EWMA_WEIGHT);
    weighted.saturating_add(now.saturating_mul(EWMA_WEIGHT)) / 100
}

fn divided(number: u64, by: u64) -> u64 {
    number.checked_div(by).unwrap_or(number)
}
