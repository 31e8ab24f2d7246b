// SPDX-License-Identifier: GPL-2.0

//! All tasks frozen, as before the system is suspended.
//!
//! Reference: Documentation/power/basic-pm-debugging.rst.

use std::time::Duration;
use std::time::Instant;

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

/// For how long tasks are frozen.
const FROZEN: Duration = Duration::from_secs(1);
/// What counts of a task may be late by.
const LATE: Duration = Duration::from_millis(100);

/// Freezes all tasks for a second, in the kernel's own test of suspending, and expects the
/// scanner not to run then. Before and after, while others are frozen and thawed, it may.
pub fn freeze() -> Result {
    procfs::write("/sys/power/pm_test", "freezer")?;
    procfs::write(
        "/sys/module/suspend/parameters/pm_test_delay",
        &FROZEN.as_secs().to_string(),
    )?;
    let pid = task::scanner()?;
    let (before, start) = (task::run_time_ns(pid)?, Instant::now());
    let frozen = procfs::write("/sys/power/state", "freeze");
    let ran = Duration::from_nanos(task::run_time_ns(pid)? - before);
    let took = start.elapsed();
    procfs::write("/sys/power/pm_test", "none")?;
    frozen?;
    expect::within(
        format!("time run within {took:?}, of which {FROZEN:?} frozen"),
        Duration::ZERO..=took.saturating_sub(FROZEN) + LATE,
        ran,
    )
}
