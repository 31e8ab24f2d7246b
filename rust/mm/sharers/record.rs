// SPDX-License-Identifier: GPL-2.0

//! A record: a sharer of a merged page, as an anon_vma and an index in it.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::mm::anon_vmas;
use crate::mm::anon_vmas::Number;
use crate::mm::anon_vmas::NUMBER_BITS;
use crate::mm::vma::StableVma;
use crate::shim;
use crate::sys::kthread::cond_resched;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use kernel::bindings;

/// Bits of an index in an anon_vma. VMAs at larger indices are left alone.
pub(super) const INDEX_BITS: u32 = u64::BITS - NUMBER_BITS;

/// A sharer of a page: an anon_vma, and an index in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::mm) struct Record(u64);

impl Record {
    /// The record that pages get if the kernel does not walk records: see
    /// [`is_redirected`](crate::mm::redirect::is_redirected).
    pub(super) const NONE: Record = Record(0);

    /// The record of the sharer at `index` in an anon_vma.
    pub(super) fn new(number: Number, index: u64) -> Self {
        Record((u64::from(number.0) << INDEX_BITS) | index)
    }

    /// The number of the anon_vma.
    fn number(self) -> Number {
        Number((self.0 >> INDEX_BITS) as u32)
    }

    /// The index in the anon_vma.
    fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }

    /// The anon_vma, which stays at least as long as the record does.
    fn anon_vma(self) -> Option<NonNull<bindings::anon_vma>> {
        anon_vmas::at(self.number())
    }

    /// Whether no VMA is linked in the anon_vma any more, so that no process can map the page there.
    pub(super) fn is_unused(self) -> bool {
        let is_unused = |anon_vma: NonNull<bindings::anon_vma>| {
            // SAFETY: The record owns a count in `anon_vmas`, which keeps a reference to the anon_vma.
            unsafe { shim::ksm_v_anon_vma_is_unused(anon_vma.as_ptr()) }
        };
        self.anon_vma().is_some_and(is_unused)
    }
}

/// Gives up a record that was removed from its set, or that was never added.
pub(super) fn forget(record: Record) {
    if record != Record::NONE {
        anon_vmas::put(record.number(), 1);
    }
}

/// Calls `visit` for each VMA that may map the page of `record`, with the address at which it would, under
/// the anon_vma lock. The record must not be removed while this runs. Returns false if `try_lock` is set
/// and the lock is not available at once.
pub(in crate::mm) fn each_area<F>(record: Record, try_lock: bool, visit: &mut F) -> bool
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
