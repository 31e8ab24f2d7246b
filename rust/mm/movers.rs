// SPDX-License-Identifier: GPL-2.0

//! Address spaces whose pages are moved by who can't move merged ones: *movers*. Their memory is left
//! alone, and what was merged before is broken apart as soon as a mover is known.
//!
//! C headers: [`include/linux/userfaultfd_k.h`](srctree/include/linux/userfaultfd_k.h),
//! [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h);
//! `move_pages()` in `mm/userfaultfd.c`, `migrate_vma_collect_pmd()` in `mm/migrate_device.c`
//!
//! # By userfaultfd (`UFFDIO_MOVE`)
//!
//! The kernel moves exclusive pages only: of a merged one it says `EBUSY`, to a program that shares
//! nothing as far as it knows. So the memory of movers is left alone, but for areas that they registered
//! for merging themselves. The source of a move is any memory of the process; what tells a mover is that
//! it registers the target with a userfaultfd that has `UFFD_FEATURE_MOVE`, which it has to do before.
//! A probe tells of that. Who did so before the module was loaded is known by the area, when the scanner
//! comes by.
//!
//! A move before pages were broken apart may find `EBUSY` still. A mapping of the zero page that stands
//! for a merged page does move, and the kernel forgets its mark: so movers have no such marks, and those
//! they lost are taken off the count.
//!
//! # By the driver of a device
//!
//! `migrate_vma_setup()` replaces entries of any page by migration entries, and restores them through the
//! rmap if it can't isolate the page. If the kernel finds the sharers of merged pages
//! ([`crate::mm::rmap_ksm`]), entries are restored, and a merged page moves to the memory of the device and back
//! for all its sharers (suite `movable`, `device.rs`). Without that the rmap finds no entry: whoever touches the
//! page next waits for ever.
//!
//! Memory that a driver may migrate is still left alone, with any value of `movable`, and even if it was
//! registered:
//!
//! - The fault of *any* sharer on a page in the memory of a device is up to the driver that has the page.
//!   amdgpu looks the address up among the ranges of the process that uses the device
//!   (`svm_migrate_to_ram()`). A sharer may have the page at another address: it gets SIGBUS, or faults
//!   again and again. It gets SIGBUS as well if the process that uses the device has exited.
//! - What resets or removes the device loses the page for sharers that never used the device.
//! - Each merge has the device forget the page: to do so, amdgpu may stop the queues of the process.
//!
//! Drivers that migrate (amdgpu, xe, nouveau) have interval notifiers in the address space, and so has
//! everybody who mirrors page tables (`hmm_range_fault()`) and never migrates (RDMA): the module can't tell
//! them apart. Probes tell of the first notifier. A driver that migrates at once, before the pages have been
//! broken apart, still gets merged pages.

use crate::mm::process;
use crate::mm::process::Owner;
use crate::mm::unmerge::unmerge;
use crate::mm::unmerge::Which;
use crate::mm::vma::VmaReadGuard;
use crate::mm::zero;
use crate::shim;
use crate::sys::entry_probe::EntryProbe;
use crate::sys::entry_probe::Watcher;
use engine::delay::Delays;
use kernel::bindings;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::rcu;
use kernel::time::delay::fsleep;
use kernel::time::Delta;

/// Movers that are known at first without a look for those that have exited.
const FEW: usize = 16;

/// Who moves pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Userfaultfd,
    Device,
}

impl By {
    /// What must not be merged.
    fn concerns(self) -> Which {
        match self {
            By::Userfaultfd => Which::NotRegistered,
            By::Device => Which::All,
        }
    }
}

/// How far a mover's merged pages have been broken apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Apart {
    /// Not yet.
    No,
    /// Once: steps that were under way may have merged more.
    Once,
    /// All, and no further ones come.
    All,
}

/// A mover. Its address is its own for as long as it is referenced.
struct Mover {
    mm: ARef<Mm>,
    by: By,
    apart: Apart,
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
    fn add(&mut self, mm: &Mm, by: By) {
        if let Some(known) = self.get_mut(mm) {
            if by == By::Device && known.by != by {
                (known.by, known.apart) = (by, Apart::No);
            }
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
                by,
                apart: Apart::No,
            };
            let _ = self.0.insert_within_capacity(place, mover);
        }
        COUNT.store(self.0.len(), Relaxed);
    }

    /// The next one above `addr` whose pages are to be broken apart.
    fn next(&self, addr: usize) -> Option<(ARef<Mm>, By)> {
        let next = |mover: &&Mover| mover.addr() > addr && mover.apart < Apart::All;
        let next = self.0.iter().find(next);
        next.map(|mover| (mover.mm.clone(), mover.by))
    }

    /// Takes note of how far what concerns `by` has been broken apart.
    fn note(&mut self, mm: &Mm, by: By, apart: Apart) {
        if let Some(mover) = self.get_mut(mm).filter(|mover| mover.by == by) {
            mover.apart = mover.apart.max(apart);
        }
    }

    fn get(&self, mm: &Mm) -> Option<&Mover> {
        let place = self.place(mm.as_raw() as usize).ok()?;
        self.0.get(place)
    }

    fn get_mut(&mut self, mm: &Mm) -> Option<&mut Mover> {
        let place = self.place(mm.as_raw() as usize).ok()?;
        self.0.get_mut(place)
    }
}

kernel::sync::global_lock! {
    // SAFETY: `Watch::new` initialises it, before which the module asks for nothing.
    unsafe(uninit) static MOVERS: SpinLock<Movers> = Movers::new();
}

/// How many are known: most systems have none.
static COUNT: Atomic<usize> = Atomic::new(0);

/// Whether pages of `mm` are known to be moved.
#[inline]
pub(crate) fn includes(mm: &Mm) -> bool {
    COUNT.load(Relaxed) > 0 && MOVERS.lock().get(mm).is_some()
}

/// Whether the driver of a device may move pages of `mm`.
#[inline]
pub(crate) fn is_device_in(mm: &Mm) -> bool {
    has_interval_notifiers(mm) || is_device_known_in(mm)
}

fn is_device_known_in(mm: &Mm) -> bool {
    COUNT.load(Relaxed) > 0 && (MOVERS.lock().get(mm)).is_some_and(|mover| mover.by == By::Device)
}

#[inline]
fn has_interval_notifiers(mm: &Mm) -> bool {
    // SAFETY: The mm is in place, and with it what its notifiers are in.
    unsafe { shim::ksm_v_mm_has_interval_notifiers(mm.as_raw()) }
}

/// Comes by `mm`, which may tell that a device moves its pages.
#[inline]
pub(crate) fn meet(mm: &Mm) {
    if has_interval_notifiers(mm) {
        MOVERS.lock().add(mm, By::Device);
    }
}

/// Comes by an area of `mm`, which may tell that pages are moved there.
#[inline]
pub(crate) fn meet_area(mm: &Mm, vma: &VmaReadGuard<'_>) {
    if vma.is_moved_to() {
        MOVERS.lock().add(mm, By::Userfaultfd);
    }
}

/// Breaks apart what movers have merged, as far as that is still to be done.
///
/// To be called when no step is under way that began before a mover was known: none of its pages is
/// merged then any more.
pub(crate) fn leave_alone() {
    let mut last = 0;
    while let Some((mm, by)) = (COUNT.load(Relaxed) > 0)
        .then(|| MOVERS.lock().next(last))
        .flatten()
    {
        last = mm.as_raw() as usize;
        let Some(user) = mm.mmget_not_zero() else {
            continue;
        };
        let user = MmWithUser::into_mmput_async(user);
        if zero::settle(&user) && unmerge(&user, by.concerns()).is_ok() {
            MOVERS.lock().note(&mm, by, Apart::All);
        }
    }
}

/// Tells of movers. Dropping it forgets them.
pub(crate) struct Watch {
    _registering: Option<EntryProbe<Registering>>,
    _mirroring: [Option<EntryProbe<Mirroring>>; 2],
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
            // Exported, and each a function of its own.
            _mirroring: [
                c"mmu_interval_notifier_insert",
                c"mmu_interval_notifier_insert_locked",
            ]
            .map(|function| EntryProbe::new(function, Mirroring).ok()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self._registering = None;
        self._mirroring = [None, None];
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
        // SAFETY: The first argument of `userfaultfd_ioctl()` is the file of a userfaultfd, which the
        // caller keeps, and with it the address space's structure.
        let mm = unsafe {
            let mm = shim::ksm_v_userfaultfd_mover(file as *const bindings::file);
            (!mm.is_null()).then(|| Mm::from_raw(mm))
        }?;
        note(mm)
    }

    fn called(&self, note: [usize; 2]) {
        begin(note, By::Userfaultfd);
    }
}

/// Watches insertions of interval notifiers.
struct Mirroring;

impl Watcher for Mirroring {
    unsafe fn note(&self, [_notifier, mm]: [usize; 2]) -> Option<[usize; 2]> {
        // SAFETY: The second argument of `mmu_interval_notifier_insert()` is an address space that its
        // caller keeps.
        note(unsafe { Mm::from_raw(mm as *mut bindings::mm_struct) })
    }

    fn called(&self, note: [usize; 2]) {
        begin(note, By::Device);
    }
}

/// Notes an address space: its address and its owner's process id. Neither keeps anything.
fn note(mm: &Mm) -> Option<[usize; 2]> {
    let rcu = rcu::read_lock();
    let owner = Owner::of(mm, &rcu)?;
    Some([mm.as_raw() as usize, owner.tgid() as usize])
}

/// The address space that was noted, if it is there still.
fn noted([addr, tgid]: [usize; 2]) -> Option<ARef<Mm>> {
    // Works for the initial namespace, whose ids these are.
    process::find(tgid as i32).filter(|mm| mm.as_raw() as usize == addr)
}

/// Leaves the mover alone that was noted, unless that has been done: the scanner may have met it first. At
/// once, for the moves are to come; steps that are under way may merge more, which is broken apart after the
/// pass. Comes back, a few times, to what is locked just now: nobody else may, with `run` 0.
fn begin(note: [usize; 2], by: By) {
    let Some(mm) = noted(note) else {
        return;
    };
    {
        let mut movers = MOVERS.lock();
        movers.add(&mm, by);
        let known = movers.get(&mm);
        if known.is_some_and(|mover| mover.apart > Apart::No) {
            return;
        }
    }
    let Some(user) = mm.mmget_not_zero() else {
        return;
    };
    let user = MmWithUser::into_mmput_async(user);
    zero::unmark(&user);
    let mut delays = Delays::default();
    for times in 0.. {
        if unmerge(&user, by.concerns()).is_ok() {
            MOVERS.lock().note(&mm, by, Apart::Once);
            return;
        }
        match delays.put_off(times) {
            Some(ms) => fsleep(Delta::from_millis(ms.into())),
            None => return,
        }
    }
}
