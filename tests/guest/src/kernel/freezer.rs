// SPDX-License-Identifier: GPL-2.0

//! Freezing all tasks, as the kernel does before it suspends the system.
//!
//! Reference: Documentation/power/basic-pm-debugging.rst.

use std::time::Duration;
use std::time::Instant;

use crate::expect;
use crate::kernel::procfs;
use crate::process::task;
use crate::Result;

/// The minimum time for which the scanner must not run during a freeze of one second. It is shorter
/// than a second because the two clocks are not read at the same instant.
const STANDSTILL: Duration = Duration::from_millis(900);

/// Returns whether the kernel supports suspend-to-idle and its test mode.
pub fn is_there() -> bool {
    let has = |path: &str, word: &str| {
        let words = procfs::read(path).unwrap_or_default();
        words.split_whitespace().any(|found| found == word)
    };
    has("/sys/power/state", "freeze") && has("/sys/power/pm_test", "freezer")
}

/// Freezes all tasks for one second through the kernel's suspend test mode, and expects that the
/// scanner does not run meanwhile.
pub fn freeze() -> Result {
    procfs::write("/sys/power/pm_test", "freezer")?;
    procfs::write("/sys/module/suspend/parameters/pm_test_delay", "1")?;
    let pid = task::scanner()?;
    let (start, before) = (Instant::now(), task::run_time_ns(pid)?);
    let frozen = procfs::write("/sys/power/state", "freeze");
    let ran = Duration::from_nanos(task::run_time_ns(pid)? - before);
    // The scanner may also run until all other tasks are frozen, which takes time.
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
