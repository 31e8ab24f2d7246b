// SPDX-License-Identifier: GPL-2.0

//! Samples the module's files while a suite runs, and the kernel's own count of broken pages.
//!
//! Merges are a lower bound: merges that are undone between two samples are missed. Merged
//! mappings that a fork copied count as merges.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use guest::kernel::procfs;
use guest::ksm_v::knob;

use crate::tally::Tally;

/// Number of mappings that were merged, at least.
pub const MERGES: &str = "merges, at least";

/// Number of writes to merged pages; the kernel answered each with a copy.
const COPIES: &str = "merged pages copied for a write";

/// Time between two samples.
const INTERVAL: Duration = Duration::from_millis(50);

/// Samples the module's counts.
pub struct Observer {
    last: Option<Sample>,
}

impl Observer {
    /// Starts with the current counts.
    pub fn begin() -> Self {
        Observer {
            last: Sample::read(None),
        }
    }

    /// Samples until `stop` is set.
    pub fn observe(mut self, tally: &Tally, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            std::thread::sleep(INTERVAL);
            let sample = Sample::read(self.last.as_ref());
            if let (Some(before), Some(now)) = (&self.last, &sample) {
                now.count(before, tally);
            }
            self.last = sample.or(self.last);
        }
    }
}

/// The counts of one moment.
struct Sample {
    /// Page table entries that map a merged page or a merged page of zeros.
    mappings: u64,
    /// Writes to merged pages that the kernel copied, since boot.
    copies: u64,
    passes: u64,
    scanned: u64,
}

impl Sample {
    /// `None` if the module is not loaded.
    fn read(last: Option<&Sample>) -> Option<Self> {
        let number = |name| knob::number(name).ok();
        // The kernel's own sum may be negative for a moment.
        let zero = number("zero_pages").unwrap_or(0);
        let copies = procfs::number_in("/proc/vmstat", "cow_ksm").ok();
        Some(Sample {
            mappings: number("pages_shared")? + number("pages_sharing")? + zero,
            copies: copies.or(last.map(|last| last.copies))?,
            passes: number("full_scans")?,
            scanned: number("pages_scanned")?,
        })
    }

    fn count(&self, before: &Sample, tally: &Tally) {
        tally.add(MERGES, self.mappings.saturating_sub(before.mappings));
        tally.add(COPIES, self.copies.saturating_sub(before.copies));
        tally.add("passes", since(self.passes, before.passes));
        tally.add("pages scanned", since(self.scanned, before.scanned));
        tally.peak("most merged mappings", self.mappings);
    }
}

/// The growth of a count that restarts at 0 when the module is loaded.
fn since(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}
