// SPDX-License-Identifier: GPL-2.0

//! Random numbers.
//!
//! C header: [`include/linux/random.h`](srctree/include/linux/random.h)

use kernel::bindings;

/// A number that nobody can predict.
pub(crate) fn get_random_u64() -> u64 {
    // SAFETY: The function may be called at any time, and does not wait.
    unsafe { bindings::get_random_u64() }
}
