// SPDX-License-Identifier: GPL-2.0

//! Whether memory is short.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h), [`include/linux/psi.h`](srctree/include/linux/psi.h)

use crate::shim;
use kernel::ffi::c_ulong;

/// Memory is short if less than one in this many pages is available.
const SHORT: u64 = 8;

/// Memory is short if some task waited for memory during this percentage of the last ten seconds.
const WAITED: c_ulong = 10;

/// Whether tasks wait for memory, or little memory is available without swapping.
pub(crate) fn is_memory_short() -> bool {
    is_waited_for() || is_little_available()
}

/// As reported by `/proc/pressure/memory`, if the kernel counts that.
fn is_waited_for() -> bool {
    // SAFETY: The function only reads counters, and may be called at any time.
    unsafe { shim::ksm_v_memory_pressure() >= WAITED }
}

/// As reported by `MemAvailable` in `/proc/meminfo`.
fn is_little_available() -> bool {
    // SAFETY: Both functions only read counters, and may be called at any time.
    let (available, total) = unsafe { (shim::si_mem_available(), shim::ksm_v_totalram_pages()) };
    u64::try_from(available).unwrap_or(0) < total as u64 / SHORT
}
