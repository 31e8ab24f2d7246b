// SPDX-License-Identifier: GPL-2.0

//! CPU priorities. Workers are many and never idle: the scanner runs at full speed only if its
//! priority is higher.

use guest::process::peer::spawn::check;
use guest::process::task;
use guest::Context;
use guest::Result;
use std::io;

/// The nice value of workers and of the checker.
const WORKER: i32 = 15;
/// The nice value for the scanner's thread, which sets another one when it starts.
const SCANNER: i32 = -10;

/// Lowers the priority of this process.
pub fn give_way() -> Result {
    set(0, WORKER).context(|| "making a worker give way")
}

/// Gives the scanner's first thread nearly a processor of its own. Its other threads compete with
/// the workers, and may already be gone, since `threads` is a knob.
pub fn prefer_scanner() -> Result {
    for pid in task::scanners() {
        match set(pid, WORKER) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            result => result.context(|| format!("making the scanner's thread {pid} give way"))?,
        }
    }
    set(task::scanner()?, SCANNER).context(|| "preferring the scanner")
}

fn set(pid: i32, nice: i32) -> io::Result<()> {
    // SAFETY: Takes only numbers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, pid as libc::id_t, nice) };
    check(result.into()).map(drop)
}
