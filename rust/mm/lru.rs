// SPDX-License-Identifier: GPL-2.0

//! Drains LRU batches: a page that waits in a batch has a reference that looks like a pin.
//!
//! C header: [`include/linux/swap.h`](srctree/include/linux/swap.h)

use crate::mm::redirect::is_redirected;
use crate::shim;

/// Drains the LRU batches of all CPUs. May sleep, and waits for workers on all CPUs.
pub(crate) fn drain_lru() {
    // SAFETY: The callers may sleep, and hold no lock.
    unsafe { shim::lru_add_drain_all() };
}

/// Drains the LRU batches of this CPU: a page in a batch is not freed with its last mapping, and can't be
/// migrated.
pub(crate) fn drain_own_lru() {
    if is_redirected() {
        // SAFETY: Any thread may call this function. It was found, because the redirects need it and are in
        // place.
        unsafe { shim::ksm_v_lru_add_drain() };
    }
}
