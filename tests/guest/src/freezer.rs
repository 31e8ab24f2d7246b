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

/// For how long the scanner has to stand still when it is frozen for a second: clocks are read
/// one after the other.
const STANDSTILL: Duration = Duration::from_millis(900);

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
    let (start, before) = (Instant::now(), task::run_time_ns(pid)?);
    let frozen = procfs::write("/sys/power/state", "freeze");
    let ran = Duration::from_nanos(task::run_time_ns(pid)? - before);
    // It may run until all others are frozen, too, which takes its time.
    let stood_still = start.elapsed().saturating_sub(ran);
    procfs::write("/sys/power/pm_test", "none")?;
    frozen?;
    expect::that(stood_still >= STANDSTILL, || {
        format!(
            "the scanner's standstill while all tasks were frozen for a second: \
             expected {STANDSTILL:?} or more, found {stood_still:?}"
        )
    })
}
