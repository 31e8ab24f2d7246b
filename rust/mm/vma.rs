// SPDX-License-Identifier: GPL-2.0

//! The VMAs of an address space, one type for each lock that is held. Each dereferences to the weaker one:
//! [`VmaReadGuard`] (the VMA lock) and [`MmapLockedVma`] (the mmap lock) to [`LockedVma`] (either of them), and
//! that to [`StableVma`] (any lock that keeps the VMA).
//!
//! Locks are only tried, never waited for: a process may hold its locks as long as it likes.
//!
//! C headers: [`include/linux/mmap_lock.h`](srctree/include/linux/mmap_lock.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::shim;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ops::Range;
use core::ptr::NonNull;
use engine::region::REGION_BYTES;
use kernel::bindings;
use kernel::mm::virt::vm_flags_t;
use kernel::mm::virt::VmaRef;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::mm::MmapReadGuard;
use kernel::prelude::*;
use kernel::sync::rcu;
use kernel::types::NotThreadSafe;

/// A VMA that is not freed or moved during `'a`.
///
/// Weaker than [`VmaRef`]: under the anon_vma lock alone, its flags may change.
///
/// # Invariants
///
/// For `'a`, one of three locks is held: the VMA lock, the mmap lock, or the lock of an anon_vma in which
/// the VMA is linked. Each of them blocks `unlink_anon_vmas()` and `vm_area_free()`, and thereby keeps the
/// mm, too.
pub(crate) struct StableVma<'a> {
    vma: NonNull<bindings::vm_area_struct>,
    _lock: PhantomData<&'a ()>,
}

impl<'a> StableVma<'a> {
    /// Wraps a VMA.
    ///
    /// # Safety
    ///
    /// One of the locks in the type's invariant must be held for `'a`.
    pub(super) unsafe fn from_raw(vma: NonNull<bindings::vm_area_struct>) -> Self {
        // INVARIANT: The caller promises that one of the locks is held for `'a`.
        StableVma {
            vma,
            _lock: PhantomData,
        }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::vm_area_struct {
        self.vma.as_ptr()
    }

    /// The address space that the VMA belongs to.
    pub(crate) fn mm(&self) -> &'a Mm {
        // SAFETY: By the type invariant the VMA is in place for `'a`, and with it the mm.
        unsafe { Mm::from_raw((*self.as_ptr()).vm_mm) }
    }

    /// The first address of the part of the VMA that the same page table maps as `addr`. Only a hint if the
    /// anon_vma lock alone is held: the bounds of the VMA may be changing.
    pub(super) fn start_of_part(&self, addr: usize) -> usize {
        // SAFETY: By the type invariant the VMA is in place. The address is read once.
        let start = unsafe { shim::ksm_v_vma_start(self.as_ptr()) };
        start.max(addr - addr % REGION_BYTES)
    }

    /// The `VM_…` flags.
    pub(crate) fn flags(&self) -> vm_flags_t {
        // SAFETY: By the type invariant the VMA is in place. The flags are read once, because they may be
        // changing if only the anon_vma lock is held.
        unsafe { shim::ksm_v_vma_flags(self.as_ptr()) }
    }

    /// Whether the VMA is for I/O, PFN maps or mixed maps, must not be expanded, or is for DAX.
    pub(crate) fn is_special(&self) -> bool {
        // SAFETY: By the type invariant the VMA is in place.
        unsafe {
            shim::ksm_v_vma_is_special(self.as_ptr()) || shim::ksm_v_vma_is_dax(self.as_ptr())
        }
    }

    /// Whether the VMA has ever mapped an anonymous page.
    pub(crate) fn has_anon_vma(&self) -> bool {
        // SAFETY: By the type invariant the VMA is in place.
        unsafe { shim::ksm_v_vma_has_anon_vma(self.as_ptr()) }
    }

    /// The root of the tree of anon_vmas that the VMA's is in, as a name: one for all VMAs that come from one by
    /// forks. `None` if the VMA has never mapped an anonymous page.
    pub(super) fn anon_vma_root(&self) -> Option<NonNull<bindings::anon_vma>> {
        // SAFETY: By the type invariant the VMA is in place. It keeps its anon_vma, which keeps its root.
        NonNull::new(unsafe { shim::ksm_v_vma_anon_vma_root(self.as_ptr()) })
    }

    /// Whether the kernel forbids to map the zero page in this address space.
    pub(super) fn forbids_zero_page(&self) -> bool {
        // SAFETY: By the type invariant the VMA is in place, and with it the mm.
        unsafe { shim::ksm_v_mm_forbids_zeropage(self.mm().as_raw()) }
    }

    /// The protection of new read-only mappings.
    pub(super) fn page_prot(&self) -> bindings::pgprot_t {
        // SAFETY: By the type invariant the VMA is in place.
        unsafe { shim::ksm_v_vma_page_prot(self.as_ptr()) }
    }
}

/// A VMA whose page tables stay, and whose bounds do not change, during `'a`.
///
/// Like [`VmaRef`]. [`VmaReadGuard`] and [`MmapLockedVma`] say which lock is held.
///
/// # Invariants
///
/// For `'a`, the VMA lock or the mmap lock is held for reading.
pub(crate) struct LockedVma<'a>(StableVma<'a>);

impl LockedVma<'_> {
    /// Wraps a VMA.
    ///
    /// # Safety
    ///
    /// One of the locks in the type's invariant must be held as long as this exists.
    unsafe fn from_raw(vma: NonNull<bindings::vm_area_struct>) -> Self {
        // INVARIANT: The caller promises that one of the locks is held.
        // SAFETY: `StableVma` requires one of these locks, or another one.
        LockedVma(unsafe { StableVma::from_raw(vma) })
    }

    /// First address.
    pub(crate) fn start(&self) -> usize {
        self.as_vma_ref().start()
    }

    /// First address after the VMA.
    pub(crate) fn end(&self) -> usize {
        self.as_vma_ref().end()
    }

    /// The VMA as the kernel crate has it.
    fn as_vma_ref(&self) -> &VmaRef {
        // SAFETY: By the type invariant one of the locks that `VmaRef` requires is held while `self` is
        // borrowed.
        unsafe { VmaRef::from_raw(self.as_ptr()) }
    }
}

impl<'a> Deref for LockedVma<'a> {
    type Target = StableVma<'a>;

    fn deref(&self) -> &StableVma<'a> {
        &self.0
    }
}

/// The mmap lock of an address space, held for reading until this is dropped.
///
/// # Invariants
///
/// `_lock` holds the mmap lock of `mm`.
pub(super) struct MmapLock<'a> {
    mm: &'a MmWithUser,
    _lock: MmapReadGuard<'a>,
}

impl<'a> MmapLock<'a> {
    /// Takes the lock if it is available at once.
    pub(super) fn try_read(mm: &'a MmWithUser) -> Option<Self> {
        // INVARIANT: The lock of `mm` was just taken.
        mm.mmap_read_trylock().map(|_lock| MmapLock { mm, _lock })
    }

    /// The first VMA that ends above `addr`.
    pub(super) fn next(&self, addr: usize) -> Option<MmapLockedVma<'_>> {
        // SAFETY: By the type invariant the mmap lock is held for reading, as `find_vma()` requires.
        let vma = NonNull::new(unsafe { bindings::find_vma(self.mm.as_raw(), addr) })?;
        // SAFETY: By the type invariant the mmap lock is held as long as `self` is borrowed.
        let vma = unsafe { LockedVma::from_raw(vma) };
        // INVARIANT: The lock is the mmap lock.
        Some(MmapLockedVma(vma))
    }
}

/// A VMA whose mmap lock is held for reading by a [`MmapLock`].
///
/// # Invariants
///
/// For `'a` this thread holds the mmap lock for reading.
pub(crate) struct MmapLockedVma<'a>(LockedVma<'a>);

impl<'a> Deref for MmapLockedVma<'a> {
    type Target = LockedVma<'a>;

    fn deref(&self) -> &LockedVma<'a> {
        &self.0
    }
}

/// The VMA lock of a VMA, held for reading until this is dropped. The flags of the VMA do not change, either.
///
/// # Invariants
///
/// This thread holds the VMA lock for reading.
pub(crate) struct VmaReadGuard<'a> {
    vma: LockedVma<'a>,
    _nts: NotThreadSafe,
}

/// The next VMA of an address space.
pub(crate) enum NextArea<'a> {
    /// The VMA, locked for the caller.
    Locked(VmaReadGuard<'a>),
    /// The process is changing the VMA, for an unknown time. The walk can resume at its end.
    Busy {
        /// First address after the VMA.
        end: usize,
    },
    /// There is no further VMA.
    None,
}

impl<'a> VmaReadGuard<'a> {
    /// Number of lookups of a VMA that changes during each of them.
    const LOOKUPS: u32 = 3;

    /// Locks the first VMA that ends above `addr`. Never sleeps: a process may hold its locks forever, if a
    /// file system does not answer (FUSE).
    ///
    /// May miss a VMA that is mapped between `addr` and the result at the same time.
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

    /// Finds the first VMA that ends above `addr`, and locks it under RCU.
    ///
    /// # Errors
    ///
    /// The range of the VMA, if it can't be locked at once.
    fn try_next(mm: &'a MmWithUser, addr: usize) -> Result<Option<Self>, Range<usize>> {
        let mut other = core::ptr::null_mut();
        let mut iterator = MaybeUninit::<shim::vma_iterator>::uninit();
        let rcu = rcu::read_lock();
        // SAFETY: The first call initialises the iterator. `mm` is in use, and the RCU read lock is held,
        // under which its tree may be read.
        let (vma, range) = unsafe {
            shim::ksm_v_vma_iter_init(iterator.as_mut_ptr(), mm.as_raw(), addr);
            let mas = &mut iterator.assume_init_mut().mas;
            let vma = bindings::mas_find(mas, usize::MAX);
            (vma, mas.index..mas.last.saturating_add(1))
        };
        let Some(vma) = NonNull::new(vma.cast::<bindings::vm_area_struct>()) else {
            return Ok(None);
        };
        // SAFETY: The VMA was found under RCU, which is still held. So its memory is that of some VMA
        // (SLAB_TYPESAFE_BY_RCU), which is all that the function requires.
        let is_locked =
            unsafe { shim::ksm_v_vma_start_read(mm.as_raw(), vma.as_ptr(), &mut other) };
        drop(rcu);
        if let Some(other) = NonNull::new(other) {
            // SAFETY: The function took this reference to `other` for the caller.
            unsafe { bindings::mmdrop(other.as_ptr()) };
        }
        if !is_locked {
            return Err(range);
        }
        // SAFETY: The function has just locked the VMA for this thread, after it checked that it belongs to
        // `mm`.
        let guard = unsafe { Self::from_locked(vma) };
        // Before it was locked, the VMA may have been shrunk, or its memory reused for another VMA.
        if guard.end() > addr && guard.start() < range.end {
            Ok(Some(guard))
        } else {
            Err(range)
        }
    }

    /// As [`Self::next`], but finds the VMA under the mmap lock; `None` if that lock is not available at
    /// once, or if the VMA has too many readers.
    fn next_under_mmap_lock(mm: &'a MmWithUser, addr: usize) -> Option<NextArea<'a>> {
        let lock = MmapLock::try_read(mm)?;
        let Some(vma) = lock.next(addr) else {
            return Some(NextArea::None);
        };
        // SAFETY: The mmap lock is held, so the VMA is in place. The function fails only if the VMA has too
        // many readers.
        if !unsafe { shim::ksm_v_vma_start_read_locked(vma.as_ptr()) } {
            return None;
        }
        // SAFETY: The VMA lock was just taken by this thread, of a VMA of `mm`.
        Some(NextArea::Locked(unsafe { Self::from_locked(vma.vma) }))
    }

    /// Takes over the VMA lock of `vma`.
    ///
    /// # Safety
    ///
    /// This thread must have just locked `vma` for reading. `vma` must belong to an address space that is
    /// in use for `'a`.
    unsafe fn from_locked(vma: NonNull<bindings::vm_area_struct>) -> Self {
        VmaReadGuard {
            // SAFETY: The caller promises that the VMA lock is held; the guard keeps it until it is
            // dropped.
            // INVARIANT: The caller promises that this thread holds the VMA lock.
            vma: unsafe { LockedVma::from_raw(vma) },
            _nts: NotThreadSafe,
        }
    }

    /// Whether userfaultfd may move pages into the VMA (`UFFDIO_MOVE`).
    pub(super) fn is_moved_to(&self) -> bool {
        // SAFETY: By the type invariant the VMA lock is held, without which no VMA gets or loses a
        // userfaultfd.
        unsafe { shim::ksm_v_vma_is_moved_to(self.as_ptr()) }
    }
}

impl<'a> Deref for VmaReadGuard<'a> {
    type Target = LockedVma<'a>;

    fn deref(&self) -> &LockedVma<'a> {
        &self.vma
    }
}

impl Drop for VmaReadGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this thread holds the VMA lock, and it is released once.
        unsafe { bindings::vma_end_read(self.as_ptr()) };
    }
}
