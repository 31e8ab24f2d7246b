// SPDX-License-Identifier: GPL-2.0

//! Memory for the engine's tables.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`include/linux/slab.h`](srctree/include/linux/slab.h)

use crate::shim;
use core::ptr::NonNull;
use engine::index::IndexEntry;
use engine::region::RegionRecord;
use engine::seats::OwnSeats;
use engine::shared::Retired;
use engine::shared::SharedFrame;
use engine::Storage;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::bindings::gfp_t;
use kernel::ffi::c_void;

/// Allocates blocks of any size. An allocation fails rather than invoke the OOM killer.
///
/// A block that is larger than a page has exactly as many pages as it needs, in the kernel's linear mapping
/// if there are enough contiguous pages. (`kmalloc()` would round up to a power of two without reporting
/// it.)
///
/// May reclaim, unless `MAY_RECLAIM` is false: for tables that grow under locks which reclaim takes, too.
pub(crate) struct KernelStorage<const MAY_RECLAIM: bool = true>;

/// An element of the engine's tables, and of [`crate::mm::anon_vmas`].
///
/// # Safety
///
/// If `IS_ZERO`, bytes that are all zero must be the default value.
pub(super) unsafe trait Element: Copy + Default {
    /// Whether the default value is all zeroes, so that a block of zeroes need not be written again. The
    /// kernel zeroes all allocations by default anyway (`init_on_alloc`).
    const IS_ZERO: bool;
}

// SAFETY: The type consists of integers, and its default is derived, so the default is all zeroes.
unsafe impl Element for IndexEntry {
    const IS_ZERO: bool = true;
}

// SAFETY: The type consists of integers, and its default is derived, so the default is all zeroes.
unsafe impl Element for RegionRecord {
    const IS_ZERO: bool = true;
}

// SAFETY: The type consists of integers, and its default is derived, so the default is all zeroes.
unsafe impl Element for Retired {
    const IS_ZERO: bool = true;
}

// SAFETY: The type consists of integers, and its default is derived, so the default is all zeroes.
unsafe impl Element for OwnSeats {
    const IS_ZERO: bool = true;
}

// SAFETY: `IS_ZERO` is false, so nothing is promised: the layout of an enum with fields is unspecified.
unsafe impl Element for SharedFrame {
    const IS_ZERO: bool = false;
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
            // SAFETY: The allocation holds `len` values, and is aligned to at least 8 bytes, as the
            // elements require.
            unsafe { ptr.add(index).write(T::default()) };
        }
        // INVARIANT: The allocation holds `len` values, which were just written, or are zeroes, which are
        // values by the contract of `Element`.
        Some(Block { ptr, len, is_exact })
    }

    #[inline]
    fn fetch(value: &T) {
        fetch(core::ptr::from_ref(value).cast());
    }

    fn can_truncate(&self, block: &Block<T>) -> bool {
        block.is_exact
    }

    fn truncate(&self, block: &mut Block<T>, len: usize) {
        let (old, new) = (pages_of::<T>(block.len), pages_of::<T>(len));
        if !block.is_exact || len > block.len || new == 0 {
            return;
        }
        // INVARIANT: `alloc_pages_exact()` has split its allocation into pages that can be freed
        // separately. Without the last pages it is an allocation of the remaining `len` values.
        block.len = len;
        if new < old {
            // SAFETY: The pages are the last ones of the allocation, and hold none of the remaining values.
            unsafe {
                let tail = block.ptr.as_ptr().cast::<c_void>().byte_add(new);
                shim::ksm_v_free_pages_exact(tail, old - new);
            }
        }
    }
}

/// Begins to fetch the cache line at `place`. Has no other effect.
#[cfg(CONFIG_X86_64)]
#[inline]
fn fetch(place: *const c_void) {
    // SAFETY: The instruction is a hint: it neither faults nor changes what the program sees, whatever the address.
    unsafe {
        core::arch::asm!(
            "prefetcht0 byte ptr [{place}]",
            place = in(reg) place,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Does nothing: fetching ahead was measured on x86 only.
#[cfg(not(CONFIG_X86_64))]
#[inline]
fn fetch(_place: *const c_void) {}

/// Size of the pages that `len` values occupy, in bytes.
fn pages_of<T>(len: usize) -> usize {
    len.saturating_mul(size_of::<T>())
        .next_multiple_of(PAGE_SIZE)
}

/// Allocates `size` bytes of zeroes. Also returns whether they came from `alloc_pages_exact()`; otherwise
/// they came from `kvmalloc()`.
fn allocate(size: usize, gfp: gfp_t) -> Option<(NonNull<c_void>, bool)> {
    // SAFETY: The callers may sleep if `gfp` allows that: the scanner holds no spin lock while its tables
    // grow.
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
/// `ptr` is an allocation by [`allocate`], which this owns, of `len` initialised values. `is_exact` says
/// whether it came from `alloc_pages_exact()`.
pub(crate) struct Block<T> {
    ptr: NonNull<T>,
    len: usize,
    is_exact: bool,
}

// SAFETY: A block owns its values, and has no tie to a thread.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: A shared reference to a block only gives shared references to its values.
unsafe impl<T: Sync> Sync for Block<T> {}

impl<T> AsRef<[T]> for Block<T> {
    #[inline]
    fn as_ref(&self) -> &[T] {
        // SAFETY: By the type invariant `ptr` holds `len` initialised values, which are borrowed with
        // `self`.
        unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> AsMut<[T]> for Block<T> {
    #[inline]
    fn as_mut(&mut self) -> &mut [T] {
        // SAFETY: By the type invariant `ptr` holds `len` initialised values, which are borrowed mutably
        // with `self`.
        unsafe { core::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        let ptr = self.ptr.as_ptr().cast();
        // SAFETY: By the type invariant this owns the allocation, and `is_exact` says which function frees
        // it. The values are `Copy`, so none has to be dropped.
        unsafe {
            if self.is_exact {
                shim::ksm_v_free_pages_exact(ptr, self.len * size_of::<T>());
            } else {
                bindings::kvfree(ptr);
            }
        }
    }
}
