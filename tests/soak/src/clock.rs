// SPDX-License-Identifier: GPL-2.0

//! A clock that is the same in all processes.

use std::time::Duration;

/// Time since boot, without suspension (`CLOCK_MONOTONIC`).
pub fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` has room for the time. This clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
