// SPDX-License-Identifier: GPL-2.0

//! Memory for the engine's tables.
//!
//! C header: [`include/linux/slab.h`](srctree/include/linux/slab.h)

use crate::shim;
use core::ptr::NonNull;
use engine::Storage;
use kernel::bindings;

/// Allocates blocks with `kvmalloc()`: any size, and rather none than an out-of-memory kill.
pub(crate) struct KernelStorage;

impl Storage for KernelStorage {
    type Block<T: Copy + Default> = Block<T>;

    fn allocate<T: Copy + Default>(&self, len: usize) -> Option<Block<T>> {
        let size = len.checked_mul(size_of::<T>())?;
        // SAFETY: May sleep: the scanner holds no spin lock while its tables grow.
        let ptr = unsafe { shim::ksm_v_kvmalloc(size, shim::KSM_V_GFP_TABLE) };
        let ptr = NonNull::new(ptr.cast::<T>())?;
        for index in 0..len {
            // SAFETY: The allocation holds `len` values; kvmalloc() aligns as any type needs.
            unsafe { ptr.add(index).write(T::default()) };
        }
        // INVARIANT: `len` values were just written to an allocation of that size.
        Some(Block { ptr, len })
    }
}

/// An allocated block.
///
/// # Invariants
///
/// `ptr` is an allocation by `kvmalloc()`, owned by this, of `len` initialised values.
pub(crate) struct Block<T> {
    ptr: NonNull<T>,
    len: usize,
}

// SAFETY: A block owns its values.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for Block<T> {}

impl<T> AsRef<[T]> for Block<T> {
    #[inline]
    fn as_ref(&self) -> &[T] {
        // SAFETY: By the type invariant.
        unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> AsMut<[T]> for Block<T> {
    #[inline]
    fn as_mut(&mut self) -> &mut [T] {
        // SAFETY: By the type invariant.
        unsafe { core::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the values are `Copy`, so there is nothing to drop.
        unsafe { bindings::kvfree(self.ptr.as_ptr().cast()) };
    }
}
