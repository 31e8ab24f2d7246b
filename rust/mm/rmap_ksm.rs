// SPDX-License-Identifier: GPL-2.0

//! What the kernel calls in place of `rmap_walk_ksm()` for merged pages, and what is called in place of some
//! other functions walks by (`rust/shim/redirect.c`): so the kernel can move them, swap them out, see whether
//! they are used, and tell their sharers of failed memory.
//!
//! A walk takes the lock of one anon_vma after the other, as `rmap_walk_ksm()` does, and nothing else: it may
//! run while memory is reclaimed.
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

/// Whether the kernel calls this module for merged pages.
static IS_REDIRECTED: Atomic<bool> = Atomic::new(false);

/// Whether the kernel finds the sharers of merged pages. Does not change while there are any.
#[inline]
pub(crate) fn is_redirected() -> bool {
    IS_REDIRECTED.load(Relaxed)
}

/// The redirects. Dropping them ends them: there must be no merged page then.
pub(crate) struct Redirects;

impl Redirects {
    /// Makes ready what merged pages need, and has the kernel call this module for them, where it can. To be
    /// called once, before anything is merged.
    pub(crate) fn begin() -> Self {
        // SAFETY: Called once, by the `init` of the module.
        unsafe { sharers::init() };
        // SAFETY: Called once, with all in place that a walk uses.
        let error = unsafe { shim::ksm_v_redirect_begin() };
        IS_REDIRECTED.store(error == 0, Relaxed);
        if error == Error::to_errno(EBUSY) {
            pr_warn!("merged pages stay where they are: another module redirects rmap_walk_ksm() or a like function (a livepatch?)\n");
        } else if error != 0 {
            pr_warn!("merged pages stay where they are: this kernel does not allow what moving them needs ({error})\n");
        }
        Redirects
    }
}

impl Drop for Redirects {
    fn drop(&mut self) {
        // SAFETY: There is no set left, for which it would be called later again.
        unsafe { shim::ksm_v_tidy_end() };
        if is_redirected() {
            // SAFETY: They were begun, and end here once.
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
/// `folio` is a KSM folio without a stable node, referenced and locked. `control` is valid.
#[no_mangle]
unsafe extern "C" fn ksm_v_walk_sharers(
    folio: *mut bindings::folio,
    control: *mut shim::rmap_walk_control,
) {
    let Some(folio) = NonNull::new(folio) else {
        return;
    };
    // SAFETY: Promised by the caller; for as long as this function runs.
    let Some(set) = (unsafe { sharers::of_walked(folio) }) else {
        return;
    };
    // SAFETY: As above; nobody else uses the control.
    let control = unsafe { &mut *control };
    // SAFETY: The folio is locked.
    for &record in unsafe { set.records() } {
        let mut is_done = false;
        let looked = each_area(record, control.try_lock, &mut |vma, addr| {
            // SAFETY: As above: this is what the functions of the control expect.
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

/// Shows one area; returns whether that was enough.
///
/// # Safety
///
/// As for [`ksm_v_walk_sharers`].
unsafe fn show(
    folio: NonNull<bindings::folio>,
    control: &shim::rmap_walk_control,
    vma: &StableVma<'_>,
    addr: usize,
) -> bool {
    let (folio, arg) = (folio.as_ptr(), control.arg);
    // SAFETY: Promised by the caller; the lock of the anon_vma is held.
    unsafe {
        if (control.invalid_vma).is_some_and(|is_invalid| is_invalid(vma.as_ptr(), arg)) {
            return false;
        }
        let goes_on = (control.rmap_one).is_some_and(|one| one(folio, vma.as_ptr(), addr, arg));
        !goes_on || (control.done).is_some_and(|is_done| is_done(folio) != 0)
    }
}

/// Shows `visit` each area that may map the page of a record, which must stay meanwhile, with the address at
/// which it would, under the anon_vma lock. Returns false where that lock was not to be had at once, and
/// `try_lock`.
pub(super) fn each_area<F>(record: Record, try_lock: bool, visit: &mut F) -> bool
where
    F: FnMut(&StableVma<'_>, usize) -> ControlFlow<()>,
{
    let Some(anon_vma) = record.anon_vma() else {
        return true;
    };
    let (anon_vma, index) = (anon_vma.as_ptr(), record.index());
    cond_resched();
    // SAFETY: The anon_vma is referenced, on behalf of the record.
    unsafe {
        if !shim::ksm_v_anon_vma_trylock_read(anon_vma) {
            if try_lock {
                return false;
            }
            shim::ksm_v_anon_vma_lock_read(anon_vma);
        }
    }
    // SAFETY: The lock is held, under which the tree stays as it is.
    let mut chain = unsafe { shim::ksm_v_anon_vma_first(anon_vma, index) };
    while !chain.is_null() {
        // SAFETY: As above.
        let vma = NonNull::new(unsafe { shim::ksm_v_anon_vma_chain_vma(chain) });
        if let Some(vma) = vma {
            cond_resched();
            // SAFETY: As above: it is linked in the anon_vma.
            let (addr, vma) = unsafe {
                let addr = shim::ksm_v_anon_address(vma.as_ptr(), index);
                (addr, StableVma::from_raw(vma))
            };
            if visit(&vma, addr).is_break() {
                break;
            }
        }
        // SAFETY: As above.
        chain = unsafe { shim::ksm_v_anon_vma_next(chain, index) };
    }
    // SAFETY: The lock was taken above.
    unsafe { shim::ksm_v_anon_vma_unlock_read(anon_vma) };
    true
}
