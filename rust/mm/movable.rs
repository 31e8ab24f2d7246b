// SPDX-License-Identifier: GPL-2.0

//! Whether new shared pages are movable: the kernel must find their sharers ([`crate::mm::redirect`]), and the
//! administrator must want it.

use crate::mm::redirect::is_redirected;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

/// Whether the administrator wants new shared pages to be movable, if the kernel can move them.
static IS_WANTED: Atomic<bool> = Atomic::new(true);

/// Whether there may be shared pages that the kernel can't move.
static IS_ANY_FIXED: Atomic<bool> = Atomic::new(false);

/// Whether new shared pages are movable.
pub(crate) fn is_movable() -> bool {
    is_redirected() && IS_WANTED.load(Relaxed)
}

/// Sets whether new shared pages are movable.
///
/// # Errors
///
/// `EOPNOTSUPP`: this kernel can't move them.
pub(crate) fn set_movable(is_wanted: bool) -> Result {
    if is_wanted && !is_redirected() {
        // The kernel crate of 7.2 does not define this error.
        return Err(Error::from_errno(-(bindings::EOPNOTSUPP as i32)));
    }
    IS_WANTED.store(is_wanted, Relaxed);
    Ok(())
}

/// Whether there may be shared pages that the kernel can't move.
pub(crate) fn is_any_fixed() -> bool {
    IS_ANY_FIXED.load(Relaxed)
}

/// Records that there may be a shared page that the kernel can't move.
pub(super) fn note_fixed() {
    IS_ANY_FIXED.store(true, Relaxed);
}

/// Records that there is no shared page left.
pub(super) fn note_none() {
    IS_ANY_FIXED.store(false, Relaxed);
}
