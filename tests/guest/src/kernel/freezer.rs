// SPDX-License-Identifier: GPL-2.0

//! Freezing all tasks, as the kernel does before it suspends the system.
//!
//! Reference: Documentation/power/basic-pm-debugging.rst.

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::events::Recorder;
use crate::process::task;
use crate::Result;

/// The last event before all tasks are frozen, and the first one after.
const FROZEN: &str = "suspend_resume: freeze_processes[0] end";
const THAWED: &str = "suspend_resume: thaw_processes[0] begin";

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
    let is_scanner = format!("next_pid == {}", task::scanner()?);
    let recorder = Recorder::of_kernel_events(&[
        ("power/suspend_resume", "val == 0"),
        ("sched/sched_switch", &is_scanner),
    ])?;
    let frozen = procfs::write("/sys/power/state", "freeze");
    procfs::write("/sys/power/pm_test", "none")?;
    frozen?;
    expect_frozen(&recorder.lines()?)
}

/// Expects that the scanner was not switched to between the two events.
fn expect_frozen(lines: &[String]) -> Result {
    let place = |text: &str| {
        let found = lines.iter().position(|line| line.contains(text));
        found.ok_or_else(|| format!("trace: expected {text:?}, found {lines:?}"))
    };
    let (frozen, thawed) = (place(FROZEN)?, place(THAWED)?);
    let between = lines.get(frozen..thawed).unwrap_or(&[]);
    let switches = between.iter().filter(|line| line.contains("sched_switch"));
    expect::eq(
        "switches to the scanner while all tasks were frozen",
        0,
        switches.count(),
    )
}
