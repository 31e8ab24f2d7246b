// SPDX-License-Identifier: GPL-2.0

//! All mappings of a page, by the kernel's own rmap.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::mm::page::LockedPage;
use crate::mm::vma::StableVma;
use crate::shim;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::ffi::c_ulong;
use kernel::ffi::c_void;

/// Shows `visit` each area that may map `page`, with the address at which it would, under the
/// anon_vma lock. May sleep, and so may `visit`.
///
/// Returns false where that lock was not to be had: nobody waits for it.
pub(super) fn each_mapping<F>(page: &LockedPage<'_>, visit: &mut F) -> bool
where
    F: FnMut(&StableVma<'_>, usize) -> ControlFlow<()>,
{
    let mut control = shim::rmap_walk_control {
        arg: core::ptr::from_mut(visit).cast(),
        try_lock: true,
        contended: false,
        rmap_one: Some(rmap_one::<F>),
        done: None,
        // The folio lock and a reference do not keep the anon_vma: the last process that maps the
        // page may exit at any moment. This one takes it only where the page is mapped.
        anon_lock: Some(shim::folio_lock_anon_vma_read),
        invalid_vma: None,
    };
    // SAFETY: The folio is referenced and locked; `rmap_one` takes `arg` as what it is.
    unsafe { shim::rmap_walk(page.folio(), &mut control) };
    !control.contended
}

/// Shows `visit` one area; returns whether to go on.
///
/// # Safety
///
/// Called by `rmap_walk()` as called by [`each_mapping`]: with the folio locked and the lock of an
/// anon_vma held in which `vma` is linked.
unsafe extern "C" fn rmap_one<F>(
    _folio: *mut bindings::folio,
    vma: *mut bindings::vm_area_struct,
    addr: c_ulong,
    arg: *mut c_void,
) -> bool
where
    F: FnMut(&StableVma<'_>, usize) -> ControlFlow<()>,
{
    // SAFETY: `arg` is what `each_mapping` passed, and nobody else uses it meanwhile.
    let visit = unsafe { &mut *arg.cast::<F>() };
    let Some(vma) = NonNull::new(vma) else {
        return true;
    };
    // SAFETY: The anon_vma lock is held.
    visit(&unsafe { StableVma::from_raw(vma) }, addr).is_continue()
}
