// SPDX-License-Identifier: GPL-2.0

//! Shrinkers: what the kernel asks for memory when that is short.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)

use crate::shim;
use core::ptr::NonNull;
use kernel::ffi::c_ulong;
use kernel::prelude::*;
use kernel::sync::Arc;

/// What can give up memory, object by object. Called from wherever memory is allocated that may
/// wait, also by whoever holds locks of the cache: must not wait for those.
pub(crate) trait Cache: Send + Sync {
    /// About how many objects could be given up.
    fn count(&self) -> usize;

    /// Gives up to so many objects up, and says how many; `None`: not now.
    fn shrink(&self, objects: usize) -> Option<usize>;
}

/// Says that nothing can be given up now.
const SHRINK_STOP: c_ulong = c_ulong::MAX;

/// A registered shrinker. Dropping it ends the calls.
///
/// # Invariants
///
/// `shrinker` was made by `ksm_v_shrinker_new()` with the callbacks for `T` and a pointer to
/// `cache`.
pub(crate) struct Shrinker<T: Cache> {
    shrinker: NonNull<shim::shrinker>,
    _cache: Arc<T>,
}

// SAFETY: May be freed by any thread; `Arc<T>` is `Send`.
unsafe impl<T: Cache> Send for Shrinker<T> {}
// SAFETY: Has no methods.
unsafe impl<T: Cache> Sync for Shrinker<T> {}

impl<T: Cache> Shrinker<T> {
    /// Has `cache` asked for memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &'static CStr, cache: Arc<T>) -> Result<Self> {
        let data = core::ptr::from_ref(&*cache).cast_mut().cast();
        // SAFETY: The callbacks take `data` as what it is; it outlives the shrinker, for it is
        // dropped after that.
        let shrinker = unsafe {
            shim::ksm_v_shrinker_new(name.as_char_ptr(), Some(count::<T>), Some(scan::<T>), data)
        };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;
        // INVARIANT: Just made.
        Ok(Shrinker {
            shrinker,
            _cache: cache,
        })
    }
}

impl<T: Cache> Drop for Shrinker<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Waits for callbacks that run.
        unsafe { shim::ksm_v_shrinker_free(self.shrinker.as_ptr()) };
    }
}

/// # Safety
///
/// Called for a shrinker that [`Shrinker::<T>::new`] made.
unsafe extern "C" fn count<T: Cache>(
    shrinker: *mut shim::shrinker,
    _control: *mut shim::shrink_control,
) -> c_ulong {
    // SAFETY: Promised by the caller.
    unsafe { cache_of::<T>(shrinker) }.count()
}

/// # Safety
///
/// As [`count`].
unsafe extern "C" fn scan<T: Cache>(
    shrinker: *mut shim::shrinker,
    control: *mut shim::shrink_control,
) -> c_ulong {
    // SAFETY: Promised by the caller; the control is the kernel's, for this call.
    let (cache, objects) = unsafe { (cache_of::<T>(shrinker), shim::ksm_v_shrink_count(control)) };
    cache.shrink(objects).unwrap_or(SHRINK_STOP)
}

/// # Safety
///
/// As [`count`]. The cache is there until the shrinker is freed.
unsafe fn cache_of<'a, T: Cache>(shrinker: *mut shim::shrinker) -> &'a T {
    // SAFETY: Promised by the caller.
    unsafe { &*shim::ksm_v_shrinker_data(shrinker).cast::<T>() }
}
