// SPDX-License-Identifier: GPL-2.0

//! Finds the mappings of a page by the kernel's own reverse map (rmap): [`each_mapping`] finds the VMAs that may
//! map it, [`Mapping`] the page table entry in one of them.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::mm::page::LockedPage;
use crate::mm::vma::StableVma;
use crate::shim;
use core::mem::MaybeUninit;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::ffi::c_uint;
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

/// A mapping that the rmap led to, with its page table locked.
///
/// # Invariants
///
/// `walk` stopped at an entry of `vma` that maps `page`, and holds the lock of the entry's page table.
pub(super) struct Mapping<'a> {
    walk: shim::page_vma_mapped_walk,
    vma: &'a StableVma<'a>,
    page: &'a LockedPage<'a>,
}

impl<'a> Mapping<'a> {
    /// Finds where `vma` maps `page`, at the address `addr` that the rmap gives, and locks the page table.
    pub(super) fn find(
        page: &'a LockedPage<'a>,
        vma: &'a StableVma<'a>,
        addr: usize,
    ) -> Option<Self> {
        Self::find_by(page, vma, addr, 0)
    }

    /// As [`Self::find`], for a caller that must not miss a mapping: `find` misses an entry while it is
    /// being changed (`ptep_modify_prot_start()`).
    pub(super) fn find_surely(
        page: &'a LockedPage<'a>,
        vma: &'a StableVma<'a>,
        addr: usize,
    ) -> Option<Self> {
        Self::find_by(page, vma, addr, shim::KSM_V_PVMW_SYNC)
    }

    /// Finds and locks the entry by `page_vma_mapped_walk()` with these flags.
    fn find_by(
        page: &'a LockedPage<'a>,
        vma: &'a StableVma<'a>,
        addr: usize,
        flags: c_uint,
    ) -> Option<Self> {
        let mut walk = MaybeUninit::uninit();
        // SAFETY: The function initialises the walk. The folio is locked and referenced by `page`, and by
        // the invariant of `StableVma` the VMA is in place.
        let mut walk = unsafe {
            let (folio, vma) = (page.folio(), vma.as_ptr());
            shim::ksm_v_folio_vma_walk_init(walk.as_mut_ptr(), folio, vma, addr, flags);
            walk.assume_init()
        };
        // SAFETY: The walk was just initialised, with a locked folio and a VMA that is in place. The lock
        // that keeps the VMA also keeps its page tables from being freed. If the function returns false, it
        // has unlocked.
        if !unsafe { shim::page_vma_mapped_walk(&mut walk) } {
            return None;
        }
        // INVARIANT: The function returned true: the walk stopped at an entry that maps the page, with its
        // page table locked.
        Some(Mapping { walk, vma, page })
    }

    /// The entry; `None` if the mapping is a huge one.
    pub(super) fn entry(&self) -> Option<NonNull<bindings::pte_t>> {
        NonNull::new(self.walk.pte)
    }

    /// The address of the entry.
    pub(super) fn addr(&self) -> usize {
        self.walk.address
    }

    /// The VMA that maps the page.
    pub(super) fn vma(&self) -> &'a StableVma<'a> {
        self.vma
    }

    /// The page.
    pub(super) fn page(&self) -> &'a LockedPage<'a> {
        self.page
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the walk stopped at an entry and holds the lock that is released
        // here.
        unsafe { shim::ksm_v_page_vma_mapped_walk_done(&mut self.walk) };
    }
}
