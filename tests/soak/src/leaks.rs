// SPDX-License-Identifier: GPL-2.0

//! That the module keeps nothing: no merged frame, no memory.

use std::path::Path;
use std::time::Duration;

use guest::expect;
use guest::procfs;
use guest::task;
use guest::Result;

use crate::frames;

/// Where the kernel lists memory that nothing refers to, if it was built to look for it.
const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
/// How much free memory may differ before and after a suite, for the kernel's own caches, in KiB.
const TOLERANCE_KIB: u64 = 24 << 10;

/// Until memory has to be free again.
const PATIENCE: Duration = guest::task::PATIENCE;

/// Free memory before a suite.
pub struct Baseline {
    available_kib: u64,
}

impl Baseline {
    /// Reads how much is free.
    pub fn take() -> Result<Self> {
        available_kib().map(|available_kib| Baseline { available_kib })
    }

    /// Expects about as much to be free again, soon.
    pub fn expect_back(&self) -> Result {
        let (expected, mut now) = (self.available_kib - tolerance_kib()?, 0);
        // Whoever lets go of a dead process last leaves its memory to a work item.
        let is_back = task::wait_until(PATIENCE, || {
            now = available_kib().unwrap_or(0);
            now >= expected
        });
        expect::that(is_back, || {
            format!("free memory: expected {expected} KiB or more, found {now} KiB")
        })
    }
}

/// A kernel that looks for lost memory keeps freed objects for a while, in KASAN's quarantine, up
/// to 1/32 of memory. There it is that search which finds what is lost.
fn tolerance_kib() -> Result<u64> {
    let total = procfs::number_in("/proc/meminfo", "MemTotal")?;
    Ok(if Path::new(KMEMLEAK).exists() {
        TOLERANCE_KIB + total / 32
    } else {
        TOLERANCE_KIB
    })
}

fn available_kib() -> Result<u64> {
    procfs::write("/proc/sys/vm/drop_caches", "3")?;
    procfs::number_in("/proc/meminfo", "MemAvailable")
}

/// Expects no frame of all memory to be a merged one.
pub fn expect_no_merged_frame() -> Result {
    let left = frames::merged()?;
    expect::that(left.is_empty(), || {
        format!(
            "merged frames after everything was unmerged: expected none, found {}, first {:?}",
            left.len(),
            left[0]
        )
    })
}

/// Forgets what was lost before, if the kernel looks for lost memory.
pub fn forget_old() {
    if Path::new(KMEMLEAK).exists() {
        scan().and_then(|_| procfs::write(KMEMLEAK, "clear")).ok();
    }
}

/// Expects no memory to have been lost since. Returns false if this kernel does not look for it.
pub fn expect_none() -> Result<bool> {
    if !Path::new(KMEMLEAK).exists() {
        return Ok(false);
    }
    // What was allocated in the last five seconds is not judged, and one scan may mistake what
    // moves meanwhile.
    std::thread::sleep(Duration::from_secs(6));
    scan()?;
    scan()?;
    let lost = procfs::read(KMEMLEAK)?;
    expect::that(lost.is_empty(), || {
        let lines: Vec<&str> = lost.lines().take(40).collect();
        format!("kmemleak:\n{}", lines.join("\n"))
    })?;
    Ok(true)
}

fn scan() -> Result {
    procfs::write(KMEMLEAK, "scan")
}
