// SPDX-License-Identifier: GPL-2.0

//! Information about tasks from `/proc/PID`.

use std::fs;
use std::io;
use std::time::Duration;
use std::time::Instant;

use nix::sched::sched_setaffinity;
use nix::sched::CpuSet;
use nix::unistd::Pid;

use crate::kernel::procfs;
use crate::Result;

/// How long a test waits for something that should happen soon before it reports a hang. Correct
/// behaviour never takes this long, even on a busy machine; a hang lasts much longer, or for ever.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The name of the module's thread.
pub const SCANNER: &str = "ksm_v_scand";

/// The flag of kernel threads (`PF_KTHREAD` of include/linux/sched.h).
pub const PF_KTHREAD: u64 = 0x0020_0000;
/// The flag of tasks that are not frozen when the system is suspended (`PF_NOFREEZE`).
pub const PF_NOFREEZE: u64 = 0x0000_8000;

/// The IDs of all processes.
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// The IDs of all processes of this name.
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

/// All threads of the module: the others append a number to the first one's name.
pub fn scanners() -> Vec<i32> {
    let is_one = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(SCANNER))
    };
    all().into_iter().filter(is_one).collect()
}

/// Field `number` of `/proc/PID/stat`, counted from 1 as in proc(5). `number` must be at least 3.
pub fn stat(pid: i32, number: usize) -> Result<String> {
    let text = procfs::read(&format!("/proc/{pid}/stat"))?;
    stat_field(&text, number)
        .map(str::to_owned)
        .ok_or_else(|| format!("/proc/{pid}/stat has no field {number}: {text}").into())
}

/// The name may contain spaces and parentheses, so the fields are counted from the last parenthesis.
fn stat_field(text: &str, number: usize) -> Option<&str> {
    let rest = &text[text.rfind(')')? + 1..];
    rest.split_whitespace().nth(number.checked_sub(3)?)
}

/// The CPU time of a task in nanoseconds, from `/proc/PID/schedstat`.
pub fn run_time_ns(pid: i32) -> Result<u64> {
    let text = procfs::read(&format!("/proc/{pid}/schedstat"))?;
    text.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("/proc/{pid}/schedstat: {text:?}").into())
}

/// The number of context switches of a task, voluntary or not.
pub fn switches(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = procfs::read(&path)?;
    ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
        .iter()
        .map(|name| procfs::field(&text, name))
        .sum::<Option<u64>>()
        .ok_or_else(|| format!("{path} has no counts of switches").into())
}

/// Returns whether a process has released its memory: it is gone or a zombie.
pub fn ended(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => matches!(stat_field(&text, 3), None | Some("Z" | "X")),
        Err(_) => true,
    }
}

/// Restricts a task (0: the calling one) to one CPU.
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

/// Returns whether a task sleeps interruptibly, or is idle, which does not count as load.
pub fn sleeps(pid: i32) -> bool {
    stat(pid, 3).is_ok_and(|state| matches!(state.as_str(), "S" | "I"))
}

/// Waits until `condition` holds; returns false after `timeout`.
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
