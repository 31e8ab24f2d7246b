// SPDX-License-Identifier: GPL-2.0

//! Checks that the module keeps no merged frame and leaks no memory.

use std::path::Path;
use std::time::Duration;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::process::task;
use guest::Result;

use crate::frames;

/// The kernel's list of unreferenced memory, if the kernel has kmemleak.
const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
/// Most that free memory may differ after a suite, for the kernel's own caches, in KiB.
const TOLERANCE_KIB: u64 = 24 << 10;

/// How long it may take until memory is free again.
const PATIENCE: Duration = task::PATIENCE;

/// Free memory before a suite.
pub struct Baseline {
    available_kib: u64,
}

impl Baseline {
    /// Reads the amount of free memory.
    pub fn take() -> Result<Self> {
        available_kib().map(|available_kib| Baseline { available_kib })
    }

    /// Expects about the same amount to be free again soon.
    pub fn expect_back(&self) -> Result {
        let (expected, mut now) = (self.available_kib - tolerance_kib()?, 0);
        // The last user of a dead process's memory may leave its freeing to a work item.
        let is_back = task::wait_until(PATIENCE, || {
            now = available_kib().unwrap_or(0);
            now >= expected
        });
        expect::that(is_back, || {
            format!("free memory: expected {expected} KiB or more, found {now} KiB")
        })
    }
}

/// With KASAN, freed objects stay in its quarantine for a while, up to 1/32 of memory. Kernels with
/// kmemleak have KASAN here, and kmemleak finds the leaks on them.
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

/// Expects no merged frame in all memory, once the batches of the LRU lists are drained: one on another CPU may
/// still reference a page that nothing maps any more.
pub fn expect_no_merged_frame() -> Result {
    let mut left = frames::merged()?;
    task::wait_until(task::PATIENCE, || {
        // Drains the batches of all CPUs first.
        let drained = scanner::drain_lru();
        let looked = drained.and_then(|()| frames::merged());
        match looked {
            Ok(found) => left = found,
            Err(_) => return false,
        }
        left.is_empty()
    });
    expect::that(left.is_empty(), || {
        format!(
            "merged frames after everything was unmerged: expected none, found {}, first {:?}",
            left.len(),
            left[0]
        )
    })
}

/// Clears older leaks, if the kernel has kmemleak.
pub fn forget_old() {
    if Path::new(KMEMLEAK).exists() {
        scan().and_then(|_| procfs::write(KMEMLEAK, "clear")).ok();
    }
}

/// Expects no new leak. Returns false if this kernel has no kmemleak.
pub fn expect_none() -> Result<bool> {
    if !Path::new(KMEMLEAK).exists() {
        return Ok(false);
    }
    // kmemleak ignores allocations of the last five seconds, and one scan may be wrong about
    // pointers that move meanwhile.
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
