// SPDX-License-Identifier: GPL-2.0

//! All tasks frozen, as before the system is suspended.
//!
//! Reference: Documentation/power/basic-pm-debugging.rst.

use crate::expect;
use crate::procfs;
use crate::task;
use crate::Result;

/// Whether the kernel can suspend to idle, and test that.
pub fn is_there() -> bool {
    let has = |path: &str, word: &str| {
        let words = procfs::read(path).unwrap_or_default();
        words.split_whitespace().any(|found| found == word)
    };
    has("/sys/power/state", "freeze") && has("/sys/power/pm_test", "freezer")
}

/// Freezes all tasks for a second, in the kernel's own test of suspending, and expects the
/// scanner not to run then.
pub fn freeze() -> Result {
    procfs::write("/sys/power/pm_test", "freezer")?;
    procfs::write("/sys/module/suspend/parameters/pm_test_delay", "1")?;
    let pid = task::scanner()?;
    let before = task::run_time_ns(pid)?;
    let frozen = procfs::write("/sys/power/state", "freeze");
    let ran = task::run_time_ns(pid)? - before;
    procfs::write("/sys/power/pm_test", "none")?;
    frozen?;
    expect::within(
        "nanoseconds run while frozen for a second",
        0..=250_000_000,
        ran,
    )
}
