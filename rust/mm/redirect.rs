// SPDX-License-Identifier: GPL-2.0

//! Redirects kernel functions that look for the mappings of a page to this module, for merged pages
//! ([`crate::mm::rmap_ksm`]). So the kernel can move merged pages, swap them out, see whether they are used, and
//! tell their sharers about failed memory.
//!
//! C file: `rust/shim/redirect.c`

use crate::shim;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

/// Whether the kernel calls this module to find the mappings of merged pages.
static IS_REDIRECTED: Atomic<bool> = Atomic::new(false);

/// Whether the kernel finds the sharers of merged pages. Does not change while there are any merged pages.
#[inline]
pub(crate) fn is_redirected() -> bool {
    IS_REDIRECTED.load(Relaxed)
}

/// Redirects the functions, if the kernel allows that.
///
/// # Safety
///
/// Must be called once, before anything is merged. The sets of sharers must be initialised: calls that are
/// redirected use them.
pub(super) unsafe fn begin() {
    // SAFETY: The caller promises that this is the only call, and that the sets are initialised.
    let error = unsafe { shim::ksm_v_redirect_begin() };
    IS_REDIRECTED.store(error == 0, Relaxed);
    if error == Error::to_errno(EBUSY) {
        pr_warn!("merged pages stay where they are: another module redirects rmap_walk_ksm() or a similar function (a livepatch?)\n");
    } else if error != 0 {
        pr_warn!("merged pages stay where they are: this kernel does not support moving them ({error})\n");
    }
}

/// Ends the redirects, and waits for the calls that were redirected.
///
/// # Safety
///
/// Must be called once, after [`begin`]. There must be no merged page.
pub(super) unsafe fn end() {
    if is_redirected() {
        // SAFETY: `begin` has made the redirects, and only this call ends them.
        unsafe { shim::ksm_v_redirect_end() };
    }
    IS_REDIRECTED.store(false, Relaxed);
}
