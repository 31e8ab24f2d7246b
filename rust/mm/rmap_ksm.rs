// SPDX-License-Identifier: GPL-2.0

//! Walks the mappings of merged pages for the kernel, which calls this instead of `rmap_walk_ksm()`
//! ([`crate::mm::redirect`]).
//!
//! A walk takes the lock of one anon_vma after the other, as `rmap_walk_ksm()` does, and no other lock, so
//! it may run during reclaim.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::mm::sharers;
use crate::mm::sharers::each_area;
use crate::mm::vma::StableVma;
use crate::shim;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use kernel::bindings;

/// Shows the sharers of a merged page to `control`, as `rmap_walk_ksm()` does.
///
/// # Safety
///
/// `folio` must be a KSM folio without a stable node, referenced and locked. `control` must be valid, and
/// used by nobody else.
#[no_mangle]
unsafe extern "C" fn ksm_v_walk_sharers(
    folio: *mut bindings::folio,
    control: *mut shim::rmap_walk_control,
) {
    let Some(folio) = NonNull::new(folio) else {
        return;
    };
    // SAFETY: The caller promises that the folio is referenced and locked while this function runs; the set
    // is not used for longer.
    let Some(set) = (unsafe { sharers::of_walked(folio) }) else {
        return;
    };
    // SAFETY: The caller promises that the control is valid and that nobody else uses it.
    let control = unsafe { &mut *control };
    // SAFETY: The folio lock is held while the records are borrowed, and the walk changes none.
    for &record in unsafe { set.records() } {
        let mut is_done = false;
        let looked = each_area(record, control.try_lock, &mut |vma, addr| {
            // SAFETY: The caller's promises about the folio and the control still hold. `each_area` holds
            // the lock of the anon_vma in which `vma` is linked, as the functions of the control expect.
            is_done = unsafe { show(folio, control, vma, addr) };
            if is_done {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        control.contended |= !looked;
        if is_done || !looked {
            return;
        }
    }
}

/// Shows one VMA to `control`. Returns true if the walk is done.
///
/// # Safety
///
/// As for [`ksm_v_walk_sharers`]. The lock of an anon_vma in which `vma` is linked must be held.
unsafe fn show(
    folio: NonNull<bindings::folio>,
    control: &shim::rmap_walk_control,
    vma: &StableVma<'_>,
    addr: usize,
) -> bool {
    let (folio, arg) = (folio.as_ptr(), control.arg);
    // SAFETY: The caller promises a locked folio, a valid control, and the lock of the anon_vma. This is
    // what `rmap_walk_ksm()` guarantees to these functions.
    unsafe {
        if (control.invalid_vma).is_some_and(|is_invalid| is_invalid(vma.as_ptr(), arg)) {
            return false;
        }
        let goes_on = (control.rmap_one).is_some_and(|one| one(folio, vma.as_ptr(), addr, arg));
        !goes_on || (control.done).is_some_and(|is_done| is_done(folio) != 0)
    }
}
