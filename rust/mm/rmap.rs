// SPDX-License-Identifier: GPL-2.0

//! Finds all mappings of a page by the kernel's own rmap.
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

/// Calls `visit` for each VMA that may map `page`, with the address at which it would, under the anon_vma
/// lock. May sleep, and so may `visit`.
///
/// Returns false if the anon_vma lock is not available at once: it is never waited for.
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
        // The folio lock and a reference do not keep the anon_vma, because the last process that maps the
        // page may exit at any moment. This function takes the lock only if the page is still mapped.
        anon_lock: Some(shim::folio_lock_anon_vma_read),
        invalid_vma: None,
    };
    // SAFETY: `LockedPage` keeps the folio referenced and locked. `rmap_one` casts `arg` back to `F`, which
    // `visit` is.
    unsafe { shim::rmap_walk(page.folio(), &mut control) };
    !control.contended
}

/// Calls `visit` for one VMA; returns whether to continue.
///
/// # Safety
///
/// Must be called by `rmap_walk()`, which [`each_mapping`] called: the folio is locked, and the lock of an
/// anon_vma is held in which `vma` is linked.
unsafe extern "C" fn rmap_one<F>(
    _folio: *mut bindings::folio,
    vma: *mut bindings::vm_area_struct,
    addr: c_ulong,
    arg: *mut c_void,
) -> bool
where
    F: FnMut(&StableVma<'_>, usize) -> ControlFlow<()>,
{
    // SAFETY: `arg` is the pointer that `each_mapping` passed, and nobody else uses it during the walk.
    let visit = unsafe { &mut *arg.cast::<F>() };
    let Some(vma) = NonNull::new(vma) else {
        return true;
    };
    // SAFETY: The lock of an anon_vma in which `vma` is linked is held until this function returns.
    visit(&unsafe { StableVma::from_raw(vma) }, addr).is_continue()
}
