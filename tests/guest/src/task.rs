// SPDX-License-Identifier: GPL-2.0

//! Tasks by what `/proc/PID` says about them.

use std::fs;
use std::io;
use std::time::Duration;
use std::time::Instant;

use nix::sched::sched_setaffinity;
use nix::sched::CpuSet;
use nix::unistd::Pid;

use crate::procfs;
use crate::Result;

/// How long a test waits for what is to come soon, before it calls that hung. Nothing right takes so
/// long on a machine however busy, and what is wrong takes far longer, or for ever.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Name of the module's thread.
pub const SCANNER: &str = "ksm_v_scand";

/// A task is a kernel thread (`PF_KTHREAD` of include/linux/sched.h).
pub const PF_KTHREAD: u64 = 0x0020_0000;
/// A task is not stopped when the system is frozen (`PF_NOFREEZE`).
pub const PF_NOFREEZE: u64 = 0x0000_8000;

/// Numbers of all processes.
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Numbers of all processes of this name.
pub fn named(name: &str) -> Vec<i32> {
    let is_named = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    all().into_iter().filter(is_named).collect()
}

/// The module's thread.
pub fn scanner() -> Result<i32> {
    match named(SCANNER)[..] {
        [pid] => Ok(pid),
        ref found => Err(format!("expected one thread {SCANNER}, found {found:?}").into()),
    }
}

/// All threads of the module: others have a number behind the first one's name.
pub fn scanners() -> Vec<i32> {
    let is_one = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(SCANNER))
    };
    all().into_iter().filter(is_one).collect()
}

/// Field `number` of `/proc/PID/stat`, counted from 1 as proc(5) does, from 3 on.
pub fn stat(pid: i32, number: usize) -> Result<String> {
    let text = procfs::read(&format!("/proc/{pid}/stat"))?;
    stat_field(&text, number)
        .map(str::to_owned)
        .ok_or_else(|| format!("/proc/{pid}/stat has no field {number}: {text}").into())
}

/// The name may hold spaces and parentheses: what counts begins behind its last one.
fn stat_field(text: &str, number: usize) -> Option<&str> {
    let rest = &text[text.rfind(')')? + 1..];
    rest.split_whitespace().nth(number.checked_sub(3)?)
}

/// Nanoseconds that a task has run, from `/proc/PID/schedstat`.
pub fn run_time_ns(pid: i32) -> Result<u64> {
    let text = procfs::read(&format!("/proc/{pid}/schedstat"))?;
    text.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("/proc/{pid}/schedstat: {text:?}").into())
}

/// How often a task was switched to and from, for whatever reason.
pub fn switches(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = procfs::read(&path)?;
    ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
        .iter()
        .map(|name| procfs::field(&text, name))
        .sum::<Option<u64>>()
        .ok_or_else(|| format!("{path} has no counts of switches").into())
}

/// Whether a process has let go of its memory: it is gone or a zombie.
pub fn ended(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => matches!(stat_field(&text, 3), None | Some("Z" | "X")),
        Err(_) => true,
    }
}

/// Lets a task (0: the calling one) run on one CPU only.
pub fn pin(pid: i32, cpu: u64) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu as usize)?;
    Ok(sched_setaffinity(Pid::from_raw(pid), &set)?)
}

/// Lets a task run on any CPU again.
pub fn unpin(pid: i32) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(pid), &set)?)
}

/// Whether a task sleeps until it is told, a sleep that does not count as load or one that does.
pub fn sleeps(pid: i32) -> bool {
    stat(pid, 3).is_ok_and(|state| matches!(state.as_str(), "S" | "I"))
}

/// Waits until `condition` holds; false after `timeout`.
pub fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > timeout {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses() {
        let text = "12 (a) (b c) S 1 2 3";
        assert_eq!(stat_field(text, 3), Some("S"));
        assert_eq!(stat_field(text, 6), Some("3"));
        assert_eq!(stat_field(text, 7), None);
    }
}
