// SPDX-License-Identifier: GPL-2.0

//! Memory for the engine's tables.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`include/linux/slab.h`](srctree/include/linux/slab.h)

use crate::mm::anon_vmas::Known;
use crate::shim;
use core::ptr::NonNull;
use engine::index::IndexEntry;
use engine::region::Record;
use engine::seats::OwnSeats;
use engine::shared::Retired;
use engine::shared::SharedFrame;
use engine::Storage;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::bindings::gfp_t;
use kernel::ffi::c_void;

/// Allocates blocks of any size, and rather none than an out-of-memory kill.
///
/// Larger ones are exactly as many pages as they need, out of the kernel's linear mapping where
/// there are some in a row (`kmalloc()` would round up to a power of two, and tell nobody).
///
/// May reclaim, unless it is told not to: for tables that grow under locks which reclaim takes, too.
pub(crate) struct KernelStorage<const MAY_RECLAIM: bool = true>;

/// What tables consist of.
///
/// # Safety
///
/// If `IS_ZERO`, bytes that are all zero must be the default value.
unsafe trait Element: Copy + Default {
    /// Whether a block of zeroes needs not be written to: by default the kernel zeroes what it
    /// allocates, asked or not (`init_on_alloc`).
    const IS_ZERO: bool;
}

// SAFETY: Words, of which the default is derived.
unsafe impl Element for IndexEntry {
    const IS_ZERO: bool = true;
}

// SAFETY: Numbers, of which the default is derived.
unsafe impl Element for Record {
    const IS_ZERO: bool = true;
}

// SAFETY: As above.
unsafe impl Element for Retired {
    const IS_ZERO: bool = true;
}

// SAFETY: As above.
unsafe impl Element for OwnSeats {
    const IS_ZERO: bool = true;
}

// SAFETY: Nothing is promised: how an enum with fields is laid out is not specified.
unsafe impl Element for SharedFrame {
    const IS_ZERO: bool = false;
}

// SAFETY: Numbers, of which the default is derived.
unsafe impl Element for Known {
    const IS_ZERO: bool = true;
}

impl<T: Element, const MAY_RECLAIM: bool> Storage<T> for KernelStorage<MAY_RECLAIM> {
    type Block = Block<T>;

    fn allocate(&self, len: usize) -> Option<Block<T>> {
        let size = len.checked_mul(size_of::<T>())?;
        let gfp = if MAY_RECLAIM {
            shim::KSM_V_GFP_TABLE
        } else {
            shim::KSM_V_GFP_NOWAIT_TABLE
        };
        let (ptr, is_exact) = allocate(size, gfp)?;
        let ptr = ptr.cast::<T>();
        let unwritten = if T::IS_ZERO { 0 } else { len };
        for index in 0..unwritten {
            // SAFETY: The allocation holds `len` values, and is aligned as any type needs.
            unsafe { ptr.add(index).write(T::default()) };
        }
        // INVARIANT: There are `len` values in an allocation of that size: just written, or zeroes
        // that are values by the contract of the trait.
        Some(Block { ptr, len, is_exact })
    }

    fn can_truncate(&self, block: &Block<T>) -> bool {
        block.is_exact
    }

    fn truncate(&self, block: &mut Block<T>, len: usize) {
        let (old, new) = (pages_of::<T>(block.len), pages_of::<T>(len));
        if !block.is_exact || len > block.len || new == 0 {
            return;
        }
        // INVARIANT: `alloc_pages_exact()` has split what it took into pages that are freed one by one:
        // with the last ones gone, it is an allocation of so many values as are left.
        block.len = len;
        if new < old {
            // SAFETY: The pages are part of the allocation, and hold no value any more.
            unsafe {
                let tail = block.ptr.as_ptr().cast::<c_void>().byte_add(new);
                shim::ksm_v_free_pages_exact(tail, old - new);
            }
        }
    }
}

/// Bytes of the pages that so many values take.
fn pages_of<T>(len: usize) -> usize {
    len.saturating_mul(size_of::<T>())
        .next_multiple_of(PAGE_SIZE)
}

/// Allocates so many bytes of zeroes, and says whether by `alloc_pages_exact()`, or else by
/// `kvmalloc()`.
fn allocate(size: usize, gfp: gfp_t) -> Option<(NonNull<c_void>, bool)> {
    // SAFETY: May sleep, where `gfp` says so: the scanner holds no spin lock while its tables grow.
    unsafe {
        if size > PAGE_SIZE {
            let pages = shim::ksm_v_alloc_pages_exact(size, gfp);
            if let Some(pages) = NonNull::new(pages) {
                return Some((pages, true));
            }
        }
        NonNull::new(shim::ksm_v_kvmalloc(size, gfp)).map(|ptr| (ptr, false))
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
