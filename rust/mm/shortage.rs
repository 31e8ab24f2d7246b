// SPDX-License-Identifier: GPL-2.0

//! How much memory is available, and whether it is short.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h), [`include/linux/psi.h`](srctree/include/linux/psi.h),
//! [`include/linux/swap.h`](srctree/include/linux/swap.h), [`include/linux/vmstat.h`](srctree/include/linux/vmstat.h)

use crate::shim;
use engine::promise::Memory;
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

fn is_little_available() -> bool {
    let memory = memory();
    memory.available < memory.total / SHORT
}

/// The memory of the host at this moment: `MemTotal`, `MemAvailable` and `SwapFree` of `/proc/meminfo`.
pub(crate) fn memory() -> Memory {
    // SAFETY: All three functions only read counters, and may be called at any time.
    let (total, available, free_swap) = unsafe {
        (
            shim::ksm_v_totalram_pages(),
            shim::si_mem_available(),
            shim::ksm_v_get_nr_swap_pages(),
        )
    };
    Memory {
        total: total as u64,
        available: u64::try_from(available).unwrap_or(0),
        free_swap: u64::try_from(free_swap).unwrap_or(0),
    }
}

/// Number of merged pages that writers have copied since the boot, those of ksmd included: `cow_ksm` of
/// `/proc/vmstat`. The kernel does not count copies of the zero page.
pub(crate) fn copies() -> u64 {
    // SAFETY: The function only reads counters, and may be called at any time.
    unsafe { shim::ksm_v_cow_ksm_events() as u64 }
}
