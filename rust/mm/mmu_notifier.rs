// SPDX-License-Identifier: GPL-2.0

//! Invalidates secondary MMUs (KVM, devices), which map the pages of a process by themselves. They must drop a
//! page before its entry is changed to map another page.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h);
//! document: [`Documentation/mm/mmu_notifier.rst`](srctree/Documentation/mm/mmu_notifier.rst)

use crate::mm::vma::StableVma;
use crate::shim;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Range;
use kernel::bindings;
use kernel::types::NotThreadSafe;

/// An invalidation of secondary MMUs (KVM): they have dropped the pages in a range, and do not map them
/// again until this is dropped.
///
/// # Invariants
///
/// `range` was started by `mmu_notifier_invalidate_range_start_nonblock()` and has not ended.
pub(super) struct Invalidation<'a> {
    range: bindings::mmu_notifier_range,
    _vma: PhantomData<&'a ()>,
    _nts: NotThreadSafe,
}

impl<'a> Invalidation<'a> {
    /// Invalidates the pages in `range`; `None` if a secondary MMU can't do that at once. Never sleeps: the
    /// driver of a GPU would wait until the user's jobs end.
    pub(super) fn try_start(vma: &'a StableVma<'_>, range: Range<usize>) -> Option<Self> {
        let mut notified = MaybeUninit::uninit();
        // SAFETY: The first call initialises the range, so that the second may use it and `assume_init`
        // holds. By the invariant of `StableVma` the VMA keeps the mm in place.
        let (range, error) = unsafe {
            shim::ksm_v_mmu_notifier_range_init(
                notified.as_mut_ptr(),
                vma.mm().as_raw(),
                range.start,
                range.end,
            );
            let range = notified.as_mut_ptr();
            let error = shim::ksm_v_mmu_notifier_invalidate_range_start_nonblock(range);
            (notified.assume_init(), error)
        };
        // INVARIANT: Without an error the range was just started; with one, the kernel has ended what had
        // started. The range may be moved, because nothing points to it between the calls.
        (error == 0).then(|| Invalidation {
            range,
            _vma: PhantomData,
            _nts: NotThreadSafe,
        })
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the range was started and has not ended.
        unsafe { shim::ksm_v_mmu_notifier_invalidate_range_end(&mut self.range) };
    }
}
