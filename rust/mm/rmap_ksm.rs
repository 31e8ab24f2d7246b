// SPDX-License-Identifier: GPL-2.0

//! Walks the mappings of merged pages for the kernel. The kernel calls this module instead of
//! `rmap_walk_ksm()`, and instead of some other functions that look for mappings (`rust/shim/redirect.c`).
//! So the kernel can move merged pages, swap them out, see whether they are used, and tell their sharers about
//! failed memory.
//!
//! A walk takes the lock of one anon_vma after the other, as `rmap_walk_ksm()` does, and no other lock, so
//! it may run during reclaim.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::mm::sharers;
use crate::mm::sharers::Record;
use crate::mm::vma::StableVma;
use crate::shim;
use crate::sys::kthread::cond_resched;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use kernel::bindings;
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

/// The redirects. They end when this is dropped; there must be no merged page then.
pub(crate) struct Redirects;

impl Redirects {
    /// Initialises the sets, and redirects the kernel's functions to this module, if the kernel allows
    /// that. Must be called once, before anything is merged.
    pub(crate) fn begin() -> Self {
        // SAFETY: The `init` of the module calls this function once, before anything uses the sets.
        unsafe { sharers::init() };
        // SAFETY: The `init` of the module calls this function once. The sets, which walks use, are
        // initialised.
        let error = unsafe { shim::ksm_v_redirect_begin() };
        IS_REDIRECTED.store(error == 0, Relaxed);
        if error == Error::to_errno(EBUSY) {
            pr_warn!("merged pages stay where they are: another module redirects rmap_walk_ksm() or a similar function (a livepatch?)\n");
        } else if error != 0 {
            pr_warn!("merged pages stay where they are: this kernel does not support moving them ({error})\n");
        }
        Redirects
    }
}

impl Drop for Redirects {
    fn drop(&mut self) {
        // SAFETY: The work item is static. No set is left, so nothing queues it again after this.
        unsafe { shim::ksm_v_tidy_end() };
        if is_redirected() {
            // SAFETY: `begin` has made the redirects, and only this ends them.
            unsafe { shim::ksm_v_redirect_end() };
        }
        sharers::end();
        IS_REDIRECTED.store(false, Relaxed);
    }
}

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

/// Calls `visit` for each VMA that may map the page of `record`, with the address at which it would, under
/// the anon_vma lock. The record must not be removed while this runs. Returns false if `try_lock` is set
/// and the lock is not available at once.
pub(super) fn each_area<F>(record: Record, try_lock: bool, visit: &mut F) -> bool
where
    F: FnMut(&StableVma<'_>, usize) -> ControlFlow<()>,
{
    let Some(anon_vma) = record.anon_vma() else {
        return true;
    };
    let (anon_vma, index) = (anon_vma.as_ptr(), record.index());
    cond_resched();
    // SAFETY: The record owns a count in `anon_vmas`, which keeps a reference to the anon_vma.
    unsafe {
        if !shim::ksm_v_anon_vma_trylock_read(anon_vma) {
            if try_lock {
                return false;
            }
            shim::ksm_v_anon_vma_lock_read(anon_vma);
        }
    }
    // SAFETY: The anon_vma lock is held, under which its tree does not change.
    let mut chain = unsafe { shim::ksm_v_anon_vma_first(anon_vma, index) };
    while !chain.is_null() {
        // SAFETY: The anon_vma lock is held, so the chain entry is in the tree and valid.
        let vma = NonNull::new(unsafe { shim::ksm_v_anon_vma_chain_vma(chain) });
        if let Some(vma) = vma {
            cond_resched();
            // SAFETY: The VMA is linked in the anon_vma, whose lock is held until `visit` has returned. So
            // it is not freed, and one of the locks of `StableVma` is held.
            let (addr, vma) = unsafe {
                let addr = shim::ksm_v_anon_address(vma.as_ptr(), index);
                (addr, StableVma::from_raw(vma))
            };
            if visit(&vma, addr).is_break() {
                break;
            }
        }
        // SAFETY: The anon_vma lock is still held, so `chain` is still in the tree.
        chain = unsafe { shim::ksm_v_anon_vma_next(chain, index) };
    }
    // SAFETY: The lock was taken above, and is released once.
    unsafe { shim::ksm_v_anon_vma_unlock_read(anon_vma) };
    true
}
