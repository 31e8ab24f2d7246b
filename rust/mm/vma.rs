// SPDX-License-Identifier: GPL-2.0

//! The areas of an address space.
//!
//! C headers: [`include/linux/mmap_lock.h`](srctree/include/linux/mmap_lock.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::mm::movers;
use crate::shim;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ops::Range;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::mm::virt::vm_flags_t;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::rcu;
use kernel::types::NotThreadSafe;

/// An area that can't go away or move, for `'a`.
///
/// Weaker than [`kernel::mm::virt::VmaRef`]: under the anon_vma lock alone, flags may change.
///
/// # Invariants
///
/// For `'a`, the VMA lock or the mmap lock or the lock of an anon_vma in which the area is linked
/// is held. Each keeps `unlink_anon_vmas()` and `vm_area_free()` away, and so also the mm.
pub(crate) struct StableVma<'a> {
    vma: NonNull<bindings::vm_area_struct>,
    _lock: PhantomData<&'a ()>,
}

impl<'a> StableVma<'a> {
    /// # Safety
    ///
    /// One of the locks of the type's invariant must be held for `'a`.
    pub(super) unsafe fn from_raw(vma: NonNull<bindings::vm_area_struct>) -> Self {
        // INVARIANT: Promised by the caller.
        StableVma {
            vma,
            _lock: PhantomData,
        }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::vm_area_struct {
        self.vma.as_ptr()
    }

    /// The address space it belongs to.
    pub(crate) fn mm(&self) -> &'a Mm {
        // SAFETY: By the type invariant the area is in place, and with it the mm.
        unsafe { Mm::from_raw((*self.as_ptr()).vm_mm) }
    }

    /// The `VM_…` flags.
    pub(crate) fn flags(&self) -> vm_flags_t {
        // SAFETY: By the type invariant. Read once; may be changing under the anon_vma lock.
        unsafe { shim::ksm_v_vma_flags(self.as_ptr()) }
    }

    /// I/O, PFN maps, mixed maps, and those that must not be expanded; or DAX.
    pub(crate) fn is_special(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe {
            shim::ksm_v_vma_is_special(self.as_ptr()) || shim::ksm_v_vma_is_dax(self.as_ptr())
        }
    }

    /// Whether it ever held an anonymous page.
    pub(crate) fn has_anon_vma(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_vma_has_anon_vma(self.as_ptr()) }
    }

    /// Whether faults in it are handled by user space.
    pub(crate) fn has_userfaultfd(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_userfaultfd_armed(self.as_ptr()) }
    }

    /// Whether merged pages must not be replaced by the zero page in its address space: where the
    /// kernel forbids it, or moves such a mapping without telling anybody (`move_zeropage_pte()`).
    pub(crate) fn forbids_zero_page(&self) -> bool {
        // SAFETY: By the type invariant the mm is in place.
        let is_forbidden = unsafe { shim::ksm_v_mm_forbids_zeropage(self.mm().as_raw()) };
        is_forbidden || movers::includes(self.mm())
    }

    /// The protection that a new read-only mapping gets.
    pub(super) fn page_prot(&self) -> bindings::pgprot_t {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_vma_page_prot(self.as_ptr()) }
    }
}

/// An area whose VMA lock is held for reading: its page tables stay, its bounds and flags too.
///
/// # Invariants
///
/// The VMA lock is held for reading, by this thread.
pub(crate) struct VmaReadGuard<'a> {
    vma: StableVma<'a>,
    _nts: NotThreadSafe,
}

/// The next area of an address space.
pub(crate) enum NextArea<'a> {
    /// It is locked for the caller.
    Locked(VmaReadGuard<'a>),
    /// Its process is changing it, for as long as it likes: the walk can go on at its end.
    Busy {
        /// First address behind it.
        end: usize,
    },
    /// There is no further one.
    None,
}

impl<'a> VmaReadGuard<'a> {
    /// How often an area is looked up again that changed while it was looked up.
    const LOOKUPS: u32 = 3;

    /// Locks the first area that ends above `addr`. Never sleeps: a process may hold its locks for
    /// ever, with the help of a file system that does not answer (FUSE).
    ///
    /// What is mapped between `addr` and the area meanwhile may be missed.
    pub(crate) fn next(mm: &'a MmWithUser, addr: usize) -> NextArea<'a> {
        let mut busy = None;
        for _ in 0..Self::LOOKUPS {
            let range = match Self::try_next(mm, addr) {
                Ok(Some(guard)) => return NextArea::Locked(guard),
                Ok(None) => return NextArea::None,
                Err(range) => range,
            };
            if busy.as_ref() == Some(&range) {
                return NextArea::Busy { end: range.end };
            }
            match Self::next_under_mmap_lock(mm, addr) {
                Some(next) => return next,
                None => busy = Some(range),
            }
        }
        busy.map_or(NextArea::None, |range| NextArea::Busy { end: range.end })
    }

    /// Finds the first area that ends above `addr`, and locks it under RCU.
    ///
    /// # Errors
    ///
    /// Where it was, if it can't be locked just now.
    fn try_next(mm: &'a MmWithUser, addr: usize) -> Result<Option<Self>, Range<usize>> {
        let mut other = core::ptr::null_mut();
        let mut iterator = MaybeUninit::<shim::vma_iterator>::uninit();
        let rcu = rcu::read_lock();
        // SAFETY: Initialises the iterator; `mm` is in use, and its tree may be read under RCU.
        let (vma, range) = unsafe {
            shim::ksm_v_vma_iter_init(iterator.as_mut_ptr(), mm.as_raw(), addr);
            let mas = &mut iterator.assume_init_mut().mas;
            let vma = bindings::mas_find(mas, usize::MAX);
            (vma, mas.index..mas.last.saturating_add(1))
        };
        let Some(vma) = NonNull::new(vma.cast::<bindings::vm_area_struct>()) else {
            return Ok(None);
        };
        // SAFETY: Found under RCU, which still is held: its memory is that of some area
        // (SLAB_TYPESAFE_BY_RCU), which is all that the function asks for.
        let is_locked =
            unsafe { shim::ksm_v_vma_start_read(mm.as_raw(), vma.as_ptr(), &mut other) };
        drop(rcu);
        if let Some(other) = NonNull::new(other) {
            // SAFETY: The function took a reference for us.
            unsafe { bindings::mmdrop(other.as_ptr()) };
        }
        if !is_locked {
            return Err(range);
        }
        // SAFETY: The VMA lock of an area of `mm` was just taken.
        let guard = unsafe { Self::from_locked(vma) };
        // The area may have been shrunk, or its memory used for another one, before it was locked.
        if guard.end() > addr && guard.start() < range.end {
            Ok(Some(guard))
        } else {
            Err(range)
        }
    }

    /// As [`Self::next`], with the help of the mmap lock; `None` where that is not to be had at once.
    fn next_under_mmap_lock(mm: &'a MmWithUser, addr: usize) -> Option<NextArea<'a>> {
        let _lock = mm.mmap_read_trylock()?;
        // SAFETY: The mmap lock is held.
        let Some(vma) = NonNull::new(unsafe { bindings::find_vma(mm.as_raw(), addr) }) else {
            return Some(NextArea::None);
        };
        // SAFETY: As above. False only if too many others have the area locked.
        if !unsafe { shim::ksm_v_vma_start_read_locked(vma.as_ptr()) } {
            return None;
        }
        // SAFETY: The VMA lock of an area of `mm` was just taken.
        Some(NextArea::Locked(unsafe { Self::from_locked(vma) }))
    }

    /// # Safety
    ///
    /// This thread has just locked `vma`, an area of an address space in use for `'a`, for reading.
    unsafe fn from_locked(vma: NonNull<bindings::vm_area_struct>) -> Self {
        VmaReadGuard {
            // SAFETY: Promised by the caller.
            // INVARIANT: As above.
            vma: unsafe { StableVma::from_raw(vma) },
            _nts: NotThreadSafe,
        }
    }

    /// First address.
    pub(crate) fn start(&self) -> usize {
        self.area().start()
    }

    /// First address behind it.
    pub(crate) fn end(&self) -> usize {
        self.area().end()
    }

    /// Whether pages are moved into it by userfaultfd (`UFFDIO_MOVE`).
    pub(super) fn is_moved_to(&self) -> bool {
        // SAFETY: By the type invariant the VMA lock is held, without which no area gets or loses its
        // userfaultfd.
        unsafe { shim::ksm_v_vma_is_moved_to(self.as_ptr()) }
    }

    fn area(&self) -> &kernel::mm::virt::VmaRef {
        // SAFETY: By the type invariant the VMA lock is held.
        unsafe { kernel::mm::virt::VmaRef::from_raw(self.as_ptr()) }
    }
}

impl<'a> Deref for VmaReadGuard<'a> {
    type Target = StableVma<'a>;

    fn deref(&self) -> &StableVma<'a> {
        &self.vma
    }
}

impl Drop for VmaReadGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::vma_end_read(self.as_ptr()) };
    }
}
