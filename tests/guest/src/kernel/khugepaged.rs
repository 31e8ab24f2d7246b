// SPDX-License-Identifier: GPL-2.0

//! khugepaged, the kernel's thread that copies ranges of small pages into huge pages, merged pages too.
//!
//! By default it takes a range of which up to 256 pages are shared, and so undoes their merges whenever it comes
//! past. A test that counts merged pages can't know when that is. So khugepaged rests in every test but those
//! that are about it (Documentation/admin-guide/mm/transhuge.rst).

use crate::expect;
use crate::kernel::feature::Feature;
use crate::kernel::procfs;
use crate::process::task;
use crate::Result;

/// The directory of its settings.
const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged";

/// Settings in which it leaves ranges alone that have merged pages or pages of zeroes, and sleeps for an hour. It
/// still wakes up when the first process appears that has memory for huge pages.
const AT_REST: &[(&str, u64)] = &[
    ("max_ptes_shared", 0),
    ("max_ptes_none", 0),
    ("scan_sleep_millisecs", 3_600_000),
];

/// The kernel's default limits, without any sleep.
const AT_WORK: &[(&str, u64)] = &[
    ("max_ptes_shared", 256),
    ("max_ptes_none", 511),
    ("pages_to_scan", 100_000),
    ("alloc_sleep_millisecs", 10),
    ("scan_sleep_millisecs", 0),
];

/// Puts khugepaged to rest, where there is one.
pub fn rest() -> Result {
    match Feature::HugePages.missing() {
        None => set(AT_REST),
        Some(_) => Ok(()),
    }
}

/// Whether it rests.
pub fn is_at_rest() -> Result<bool> {
    for &(name, value) in AT_REST {
        if procfs::number(&format!("{DIRECTORY}/{name}"))? != value {
            return Ok(false);
        }
    }
    Ok(true)
}

/// khugepaged at work, while this exists.
pub struct AtWork(());

impl AtWork {
    /// Lets khugepaged scan without a pause.
    pub fn start() -> Result<Self> {
        set(AT_WORK)?;
        Ok(AtWork(()))
    }

    /// Waits until it has scanned everything `count` times.
    pub fn wait_scans(&self, count: u64) -> Result {
        let target = full_scans()? + count;
        let seen = || full_scans().is_ok_and(|found| found >= target);
        expect::that(task::wait_until(task::PATIENCE, seen), || {
            format!(
                "full_scans of khugepaged: expected {target}, found {:?}",
                full_scans()
            )
        })
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if let Err(failed) = rest() {
            eprintln!("khugepaged: {}", failed.message().unwrap_or("not at rest"));
        }
    }
}

/// Writes what is not in force: to write how long khugepaged sleeps wakes it up.
fn set(settings: &[(&str, u64)]) -> Result {
    for &(name, value) in settings {
        let path = format!("{DIRECTORY}/{name}");
        if procfs::number(&path)? != value {
            procfs::write(&path, &value.to_string())?;
        }
    }
    Ok(())
}

fn full_scans() -> Result<u64> {
    procfs::number(&format!("{DIRECTORY}/full_scans"))
}
