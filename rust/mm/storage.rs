// SPDX-License-Identifier: GPL-2.0

//! Memory for the engine's tables.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`include/linux/slab.h`](srctree/include/linux/slab.h)

use crate::shim;
use core::ptr::NonNull;
use engine::Storage;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::ffi::c_void;

/// Allocates blocks of any size, and rather none than an out-of-memory kill.
///
/// Larger ones are exactly as many pages as they need, out of the kernel's linear mapping where
/// there are some in a row (`kmalloc()` would round up to a power of two, and tell nobody).
pub(crate) struct KernelStorage;

impl Storage for KernelStorage {
    type Block<T: Copy + Default> = Block<T>;

    fn allocate<T: Copy + Default>(&self, len: usize) -> Option<Block<T>> {
        let size = len.checked_mul(size_of::<T>())?;
        let (ptr, is_exact) = allocate(size)?;
        let ptr = ptr.cast::<T>();
        for index in 0..len {
            // SAFETY: The allocation holds `len` values, and is aligned as any type needs.
            unsafe { ptr.add(index).write(T::default()) };
        }
        // INVARIANT: `len` values were just written to an allocation of that size.
        Some(Block { ptr, len, is_exact })
    }
}

/// Allocates so many bytes, and says whether by `alloc_pages_exact()`, or else by `kvmalloc()`.
fn allocate(size: usize) -> Option<(NonNull<c_void>, bool)> {
    // SAFETY: May sleep: the scanner holds no spin lock while its tables grow.
    unsafe {
        if size > PAGE_SIZE {
            let pages = shim::ksm_v_alloc_pages_exact(size, shim::KSM_V_GFP_TABLE);
            if let Some(pages) = NonNull::new(pages) {
                return Some((pages, true));
            }
        }
        NonNull::new(shim::ksm_v_kvmalloc(size, shim::KSM_V_GFP_TABLE)).map(|ptr| (ptr, false))
    }
}

/// An allocated block.
///
/// # Invariants
///
/// `ptr` is an allocation by [`allocate`], owned by this, of `len` initialised values; `is_exact`
/// is what that said of it.
pub(crate) struct Block<T> {
    ptr: NonNull<T>,
    len: usize,
    is_exact: bool,
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
        let ptr = self.ptr.as_ptr().cast();
        // SAFETY: By the type invariant; the values are `Copy`, so there is nothing to drop.
        unsafe {
            if self.is_exact {
                shim::ksm_v_free_pages_exact(ptr, self.len * size_of::<T>());
            } else {
                bindings::kvfree(ptr);
            }
        }
    }
}
