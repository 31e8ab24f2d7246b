// SPDX-License-Identifier: GPL-2.0

//! Shrinkers, through which the kernel asks for memory when memory is short.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)

use crate::shim;
use core::ptr::NonNull;
use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A cache that can free memory, object by object.
///
/// Called by any thread whose allocation may wait, even by one that holds a lock of the cache. So the
/// methods must not wait for these locks.
pub(crate) trait Cache: Send + Sync {
    /// About how many objects could be freed.
    fn count(&self) -> usize;

    /// Frees up to `objects` objects, and returns how many were freed; `None` if none can be freed now.
    fn shrink(&self, objects: usize) -> Option<usize>;
}

/// Tells the kernel that nothing can be freed now.
const SHRINK_STOP: c_ulong = c_ulong::MAX;

/// A registered shrinker. Dropping it unregisters the shrinker, and no call follows.
///
/// # Invariants
///
/// `shrinker` was made by `ksm_v_shrinker_new()`, with the callbacks for `T` and a pointer to `cache`.
pub(crate) struct Shrinker<T: Cache> {
    shrinker: NonNull<shim::shrinker>,
    _cache: Arc<T>,
}

// SAFETY: Any thread may free a shrinker, and `Arc<T>` is `Send`.
unsafe impl<T: Cache> Send for Shrinker<T> {}
// SAFETY: A `Shrinker` has no methods, so a shared reference gives access to nothing.
unsafe impl<T: Cache> Sync for Shrinker<T> {}

impl<T: Cache> Shrinker<T> {
    /// Registers a shrinker that asks `cache` for memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &'static CStr, cache: Arc<T>) -> Result<Self> {
        let data = core::ptr::from_ref(&*cache).cast_mut().cast();
        // SAFETY: The callbacks cast `data` back to `T`, which it is. The cache outlives the shrinker,
        // because it is dropped after the shrinker is freed.
        let shrinker = unsafe {
            shim::ksm_v_shrinker_new(name.as_char_ptr(), Some(count::<T>), Some(scan::<T>), data)
        };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;
        // INVARIANT: `ksm_v_shrinker_new()` has just made the shrinker, with these callbacks and a pointer
        // to `cache`.
        Ok(Shrinker {
            shrinker,
            _cache: cache,
        })
    }
}

impl<T: Cache> Drop for Shrinker<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the shrinker is registered. The function waits for callbacks that
        // are running.
        unsafe { shim::ksm_v_shrinker_free(self.shrinker.as_ptr()) };
    }
}

/// # Safety
///
/// Must be called for a shrinker that [`Shrinker::<T>::new`] made.
unsafe extern "C" fn count<T: Cache>(
    shrinker: *mut shim::shrinker,
    _control: *mut shim::shrink_control,
) -> c_ulong {
    // SAFETY: The caller passes a shrinker that `Shrinker::<T>::new` made.
    unsafe { cache_of::<T>(shrinker) }.count()
}

/// # Safety
///
/// Must be called for a shrinker that [`Shrinker::<T>::new`] made, with a valid control.
unsafe extern "C" fn scan<T: Cache>(
    shrinker: *mut shim::shrinker,
    control: *mut shim::shrink_control,
) -> c_ulong {
    // SAFETY: The caller passes a shrinker that `Shrinker::<T>::new` made, and a control that the kernel
    // made for this call.
    let (cache, objects) = unsafe { (cache_of::<T>(shrinker), shim::ksm_v_shrink_count(control)) };
    cache.shrink(objects).unwrap_or(SHRINK_STOP)
}

/// The cache of a shrinker.
///
/// # Safety
///
/// `shrinker` must have been made by [`Shrinker::<T>::new`], and must not be freed during `'a`.
unsafe fn cache_of<'a, T: Cache>(shrinker: *mut shim::shrinker) -> &'a T {
    // SAFETY: The caller passes a shrinker that `Shrinker::<T>::new` made. Its data points to the cache,
    // which is not dropped before the shrinker is freed.
    unsafe { &*shim::ksm_v_shrinker_data(shrinker).cast::<T>() }
}
