// SPDX-License-Identifier: GPL-2.0

//! Address spaces that move pages by userfaultfd (`UFFDIO_MOVE`): *movers*.
//!
//! C headers: [`include/linux/userfaultfd_k.h`](srctree/include/linux/userfaultfd_k.h),
//! `move_pages()` in `mm/userfaultfd.c`
//!
//! The kernel moves exclusive pages only: of a merged one it says `EBUSY`, to a program that shares
//! nothing as far as it knows. So the memory of movers is left alone, but for areas that they registered
//! for merging themselves. The source of a move is any memory of the process; what tells a mover is that
//! it registers the target with a userfaultfd that has `UFFD_FEATURE_MOVE`, which it has to do before.
//! A probe tells of that. Who did so before the module was loaded is known by the area, when the scanner
//! comes by.
//!
//! What was merged before is broken apart as soon as a mover is known; a move meanwhile may find `EBUSY`
//! still. A mapping of the zero page that stands for a merged page does move, and the kernel forgets its
//! mark: so movers have no such marks, and those they lost are taken off the count.

use crate::mm::process;
use crate::mm::process::Owner;
use crate::mm::unmerge::unmerge;
use crate::mm::unmerge::Which;
use crate::mm::vma::VmaReadGuard;
use crate::mm::zero;
use crate::shim;
use crate::sys::entry_probe::EntryProbe;
use crate::sys::entry_probe::Watcher;
use kernel::bindings;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::rcu;

/// Movers that are known at first without a look for those that have exited.
const FEW: usize = 16;

/// A mover. Its address is its own for as long as it is referenced.
struct Mover {
    mm: ARef<Mm>,
    /// Its merged pages have been broken apart, and no further ones come.
    is_done: bool,
}

impl Mover {
    fn addr(&self) -> usize {
        self.mm.as_raw() as usize
    }

    fn has_exited(&self) -> bool {
        // SAFETY: The mm is referenced.
        unsafe { !shim::ksm_v_mm_is_in_use(self.mm.as_raw()) }
    }
}

/// All that are known, in the order of their addresses.
#[derive(Default)]
struct Movers(KVec<Mover>);

impl Movers {
    const fn new() -> Self {
        Movers(KVec::new())
    }

    fn place(&self, addr: usize) -> core::result::Result<usize, usize> {
        self.0.binary_search_by_key(&addr, Mover::addr)
    }

    /// Adds one. Where there is no memory for it, it is known when it is met again.
    fn add(&mut self, mm: &Mm) {
        if self.place(mm.as_raw() as usize).is_ok() {
            return;
        }
        if self.0.len() == self.0.capacity() {
            self.0.retain(|mover| !mover.has_exited());
            // Twice as many as are alive, so that this is done for few of those that come.
            let more = self.0.len().max(FEW);
            let _ = self.0.reserve(more, GFP_NOWAIT);
        }
        if let Err(place) = self.place(mm.as_raw() as usize) {
            let mover = Mover {
                mm: mm.into(),
                is_done: false,
            };
            let _ = self.0.insert_within_capacity(place, mover);
        }
        COUNT.store(self.0.len(), Relaxed);
    }

    /// The next one above `addr` whose pages are to be broken apart.
    fn next(&self, addr: usize) -> Option<ARef<Mm>> {
        let next = |mover: &&Mover| mover.addr() > addr && !mover.is_done;
        self.0.iter().find(next).map(|mover| mover.mm.clone())
    }

    fn done(&mut self, mm: &Mm) {
        if let Ok(place) = self.place(mm.as_raw() as usize) {
            if let Some(mover) = self.0.get_mut(place) {
                mover.is_done = true;
            }
        }
    }
}

kernel::sync::global_lock! {
    // SAFETY: `Watch::new` initialises it, before which the module asks for nothing.
    unsafe(uninit) static MOVERS: SpinLock<Movers> = Movers::new();
}

/// How many are known: most systems have none.
static COUNT: Atomic<usize> = Atomic::new(0);

/// Whether `mm` is known to move pages.
#[inline]
pub(crate) fn includes(mm: &Mm) -> bool {
    COUNT.load(Relaxed) > 0 && MOVERS.lock().place(mm.as_raw() as usize).is_ok()
}

/// Comes by an area of `mm`, which may tell that pages are moved there.
#[inline]
pub(crate) fn meet(mm: &Mm, vma: &VmaReadGuard<'_>) {
    if vma.is_moved_to() {
        MOVERS.lock().add(mm);
    }
}

/// Breaks apart what movers have merged, as far as that is still to be done.
///
/// To be called when no step is under way that began before a mover was known: none of its pages is
/// merged then any more.
pub(crate) fn leave_alone() {
    let mut last = 0;
    while let Some(mm) = (COUNT.load(Relaxed) > 0)
        .then(|| MOVERS.lock().next(last))
        .flatten()
    {
        last = mm.as_raw() as usize;
        let Some(user) = mm.mmget_not_zero() else {
            continue;
        };
        let user = MmWithUser::into_mmput_async(user);
        if zero::settle(&user) && unmerge(&user, Which::NotRegistered).is_ok() {
            MOVERS.lock().done(&mm);
        }
    }
}

/// Tells of movers. Dropping it forgets them.
pub(crate) struct Watch {
    _registering: Option<EntryProbe<Registering>>,
}

impl Watch {
    /// Begins to watch. To be called once, before anything else asks for movers.
    pub(crate) fn new() -> Self {
        // SAFETY: Called once.
        unsafe { MOVERS.init() };
        Watch {
            // Its caller, the table of the file's operations, keeps it a function of its own.
            _registering: cfg!(CONFIG_USERFAULTFD)
                .then(|| EntryProbe::new(c"userfaultfd_ioctl", Registering).ok())
                .flatten(),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self._registering = None;
        // Nobody else knows: references are given up without the lock.
        let movers = core::mem::take(&mut *MOVERS.lock());
        COUNT.store(0, Relaxed);
        drop(movers);
    }
}

/// Watches registrations with userfaultfds.
struct Registering;

impl Watcher for Registering {
    /// The address of the mover's `mm_struct`, and its owner's process id: neither keeps anything.
    unsafe fn note(&self, [file, request]: [usize; 2]) -> Option<[usize; 2]> {
        if request as u32 != shim::KSM_V_UFFDIO_REGISTER {
            return None;
        }
        let rcu = rcu::read_lock();
        // SAFETY: The first argument of `userfaultfd_ioctl()` is the file of a userfaultfd, which the
        // caller keeps, and with it the address space's structure.
        let mm = unsafe {
            let mm = shim::ksm_v_userfaultfd_mover(file as *const bindings::file);
            (!mm.is_null()).then(|| Mm::from_raw(mm))
        }?;
        let owner = Owner::of(mm, &rcu)?;
        Some([mm.as_raw() as usize, owner.tgid() as usize])
    }

    fn called(&self, [addr, tgid]: [usize; 2]) {
        // Works for the initial namespace, whose ids these are.
        let mm = process::find(tgid as i32);
        let Some(mm) = mm.filter(|mm| mm.as_raw() as usize == addr) else {
            return;
        };
        if includes(&mm) {
            return;
        }
        MOVERS.lock().add(&mm);
        // At once, for the moves are to come. Steps that are under way may merge more, which is done
        // after the pass.
        if let Some(user) = mm.mmget_not_zero() {
            let user = MmWithUser::into_mmput_async(user);
            zero::unmark(&user);
            let _ = unmerge(&user, Which::NotRegistered);
        }
    }
}
