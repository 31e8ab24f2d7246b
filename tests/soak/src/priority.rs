// SPDX-License-Identifier: GPL-2.0

//! Who gets the processors. Workers are many and never idle: the scanner runs flat out only if it
//! has the better of them.

use guest::peer::spawn::check;
use guest::task;
use guest::Context;
use guest::Result;
use std::io;

/// The nice value of workers and of the checker.
const WORKER: i32 = 15;
/// The nice value of the scanner's thread, which it gives itself another of when it starts.
const SCANNER: i32 = -10;

/// Makes this process give way to others.
pub fn give_way() -> Result {
    set(0, WORKER).context(|| "making a worker give way")
}

/// Lets the scanner have a processor to itself, nearly: its first thread. Others share with the
/// workers, and may be gone already, as `threads` is a knob.
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
    // SAFETY: Takes numbers only.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, pid as libc::id_t, nice) };
    check(result.into()).map(drop)
}
