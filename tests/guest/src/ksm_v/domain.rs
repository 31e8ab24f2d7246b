// SPDX-License-Identifier: GPL-2.0

//! The domains that restrict merging, derived from `/proc`.

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::knob;
use crate::memory::census::Census;
use crate::memory::pagemap::Frame;
use crate::process::task;
use crate::Context;
use crate::Result;

/// The domain of a process if the knob `domain` is set to `division`.
pub fn of(pid: i32, division: &str) -> Result<String> {
    match division {
        "user" => user(pid),
        "process" => Ok(pid.to_string()),
        "cgroup" => cgroup(pid),
        _ => Ok("all".to_owned()),
    }
}

/// The real user and group IDs.
fn user(pid: i32) -> Result<String> {
    let text = procfs::read(&format!("/proc/{pid}/status"))?;
    let ids = (procfs::field(&text, "Uid"), procfs::field(&text, "Gid"));
    match ids {
        (Some(uid), Some(gid)) => Ok(format!("{uid}:{gid}")),
        _ => Err(format!("/proc/{pid}/status has no Uid and Gid").into()),
    }
}

/// The path in the unified cgroup hierarchy.
fn cgroup(pid: i32) -> Result<String> {
    let text = procfs::read(&format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned)
        .ok_or_else(|| format!("/proc/{pid}/cgroup: {text:?}").into())
}

/// Expects that no merged frame is shared between processes of different domains, unless one process
/// forked the other. Returns how many frames are shared by several processes.
///
/// Call it while the scanner is stopped and the processes are idle.
pub fn expect_apart() -> Result<usize> {
    let division = knob::choice("domain")?;
    let (census, mut shared) = (Census::take()?, 0);
    for (frame, _) in census.frames() {
        let pids = census.mappers(frame);
        shared += usize::from(pids.len() > 1);
        expect_frame_apart(frame, &pids, &division)?;
    }
    Ok(shared)
}

fn expect_frame_apart(frame: Frame, pids: &[i32], division: &str) -> Result {
    for &one in pids {
        for &other in pids {
            let domains = (of(one, division)?, of(other, division)?);
            expect::that(
                domains.0 == domains.1 || is_child(one, other)? || is_child(other, one)?,
                || {
                    format!(
                        "{frame:?} with domain={division}: expected to be in one domain, found it \
                         in process {one} of {} and in process {other} of {}",
                        domains.0, domains.1
                    )
                },
            )?;
        }
    }
    Ok(())
}

/// Returns whether `parent` forked `child`: the parent's process ID is field 4 of `/proc/PID/stat`.
fn is_child(child: i32, parent: i32) -> Result<bool> {
    let found: i32 = task::stat(child, 4)?
        .parse()
        .context(|| format!("/proc/{child}/stat"))?;
    Ok(found == parent)
}
