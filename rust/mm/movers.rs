// SPDX-License-Identifier: GPL-2.0

//! *Movers*: address spaces whose pages are moved by somebody who can't move merged pages. The module leaves their
//! memory alone, and breaks apart what was merged before, as soon as it knows a mover.
//!
//! C headers: [`include/linux/userfaultfd_k.h`](srctree/include/linux/userfaultfd_k.h),
//! [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h);
//! `move_pages()` in `mm/userfaultfd.c`, `migrate_vma_collect_pmd()` in `mm/migrate_device.c`
//!
//! # Userfaultfd (`UFFDIO_MOVE`)
//!
//! The kernel moves exclusive pages only. For a merged page it returns `EBUSY`, to a program that shares nothing as
//! far as it knows. So the module leaves the memory of movers alone, except for VMAs that they registered for
//! merging themselves. The source of a move can be any memory of the process. Its target must be registered first,
//! with a userfaultfd that has `UFFD_FEATURE_MOVE`: that is how a mover is recognised. A probe reports the
//! registration. If it happened before the module was loaded, the scanner recognises the mover by the VMA.
//!
//! A move may still fail with `EBUSY` before the pages are broken apart. The kernel does move a mapping of the zero
//! page that replaces a merged page, but loses its mark. So movers get no such marks, and the marks that the kernel
//! has lost are subtracted from the count ([`zero::settle`]).
//!
//! # Drivers of devices
//!
//! `migrate_vma_setup()` replaces entries of any page by migration entries, and restores them through the rmap if it
//! can't isolate the page. If the kernel finds the sharers of merged pages ([`crate::mm::rmap_ksm`]), entries are
//! restored, and a merged page moves to the memory of the device and back for all its sharers (suite `movable`,
//! `device.rs`). Otherwise the rmap finds no entry: a thread that touches the page next waits for ever.
//!
//! The module still leaves memory alone that a driver may migrate, with any value of `movable`, and even if the
//! memory was registered:
//!
//! - A fault of *any* sharer on a page in the memory of a device is handled by the driver that has the page. amdgpu
//!   looks the address up among the ranges of the process that uses the device (`svm_migrate_to_ram()`). A sharer
//!   may have the page at another address: it gets SIGBUS, or faults again and again. It also gets SIGBUS if the
//!   process that uses the device has exited.
//! - A reset or removal of the device loses the page for sharers that never used the device.
//! - For each merge the device must drop the page. For that, amdgpu may stop the queues of the process.
//!
//! Drivers that migrate (amdgpu, xe, nouveau) have interval notifiers in the address space. So do drivers that only
//! mirror page tables (`hmm_range_fault()`) and never migrate (RDMA). The module can't tell them apart. Probes report
//! the first notifier. A driver that migrates at once, before the pages are broken apart, still gets merged pages.

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

/// The table of movers grows by at least this number.
const FEW: usize = 16;

/// What moves the pages of a mover.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Userfaultfd,
    Device,
}

impl By {
    /// The merged pages to break apart.
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
    /// Once. Steps that were in progress may have merged more.
    Once,
    /// All, and no step merges more.
    All,
}

/// A mover. No other address space has its address while it is referenced.
struct Mover {
    mm: ARef<Mm>,
    by: By,
    apart: Apart,
}

impl Mover {
    /// The address of its `mm_struct`.
    fn addr(&self) -> usize {
        self.mm.as_raw() as usize
    }

    /// Whether no task uses the address space any more.
    fn has_exited(&self) -> bool {
        // SAFETY: `self.mm` owns a reference to the mm, so its counts may be read.
        unsafe { !shim::ksm_v_mm_is_in_use(self.mm.as_raw()) }
    }
}

/// All known movers, sorted by address.
#[derive(Default)]
struct Movers(KVec<Mover>);

impl Movers {
    const fn new() -> Self {
        Movers(KVec::new())
    }

    /// The index of the mover with this address, or the index at which to insert it.
    fn place(&self, addr: usize) -> core::result::Result<usize, usize> {
        self.0.binary_search_by_key(&addr, Mover::addr)
    }

    /// Adds a mover. Without memory for it nothing happens: the scanner adds it when it meets it again.
    fn add(&mut self, mm: &Mm, by: By) {
        if let Some(known) = self.get_mut(mm) {
            if by == By::Device && known.by != by {
                (known.by, known.apart) = (by, Apart::No);
            }
            return;
        }
        if self.0.len() == self.0.capacity() {
            self.0.retain(|mover| !mover.has_exited());
            // Doubles the table, so that this is rarely done.
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

    /// The next mover above `addr` whose pages are not all broken apart.
    fn next(&self, addr: usize) -> Option<(ARef<Mm>, By)> {
        let next = |mover: &&Mover| mover.addr() > addr && mover.apart < Apart::All;
        let next = self.0.iter().find(next);
        next.map(|mover| (mover.mm.clone(), mover.by))
    }

    /// Records how far the pages of a mover are broken apart, unless it is now a mover for another reason.
    fn note(&mut self, mm: &Mm, by: By, apart: Apart) {
        if let Some(mover) = self.get_mut(mm).filter(|mover| mover.by == by) {
            mover.apart = mover.apart.max(apart);
        }
    }

    /// The mover whose address space is `mm`.
    fn get(&self, mm: &Mm) -> Option<&Mover> {
        let place = self.place(mm.as_raw() as usize).ok()?;
        self.0.get(place)
    }

    /// As [`Self::get`], to be changed.
    fn get_mut(&mut self, mm: &Mm) -> Option<&mut Mover> {
        let place = self.place(mm.as_raw() as usize).ok()?;
        self.0.get_mut(place)
    }
}

kernel::sync::global_lock! {
    // SAFETY: `Watch::begin` initialises it, and runs before anything else in the module uses movers.
    unsafe(uninit) static MOVERS: SpinLock<Movers> = Movers::new();
}

/// The number of known movers, to skip the lock: most systems have none.
static COUNT: Atomic<usize> = Atomic::new(0);

/// Whether `mm` is a known mover.
#[inline]
pub(crate) fn includes(mm: &Mm) -> bool {
    COUNT.load(Relaxed) > 0 && MOVERS.lock().get(mm).is_some()
}

/// Whether the driver of a device may move pages of `mm`, or was known to.
#[inline]
pub(crate) fn is_device_in(mm: &Mm) -> bool {
    has_interval_notifiers(mm) || is_device_known_in(mm)
}

/// Whether `mm` is a known mover because of a device.
fn is_device_known_in(mm: &Mm) -> bool {
    COUNT.load(Relaxed) > 0 && (MOVERS.lock().get(mm)).is_some_and(|mover| mover.by == By::Device)
}

#[inline]
fn has_interval_notifiers(mm: &Mm) -> bool {
    // SAFETY: A reference to an `Mm` shows that the mm is referenced, so the table of its notifiers is in place.
    unsafe { shim::ksm_v_mm_has_interval_notifiers(mm.as_raw()) }
}

/// Adds `mm` if a device may move its pages. The scanner calls this for each address space that it visits.
#[inline]
pub(crate) fn meet(mm: &Mm) {
    if has_interval_notifiers(mm) {
        MOVERS.lock().add(mm, By::Device);
    }
}

/// Adds `mm` if userfaultfd may move pages to `vma`. The scanner calls this for each VMA that it visits.
#[inline]
pub(crate) fn meet_area(mm: &Mm, vma: &VmaReadGuard<'_>) {
    if vma.is_moved_to() {
        MOVERS.lock().add(mm, By::Userfaultfd);
    }
}

/// Breaks apart the merged pages of movers that still have some.
///
/// Must be called when no step is in progress that began before a mover was known: then no step merges pages of it
/// any more.
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

/// The probes that report movers. Dropping this ends them, and forgets all movers.
pub(crate) struct Watch {
    _registering: Option<EntryProbe<Registering>>,
    _mirroring: [Option<EntryProbe<Mirroring>>; 2],
}

impl Watch {
    /// Begins to watch. Must be called once, before anything else uses movers.
    pub(crate) fn begin() -> Self {
        // SAFETY: The `init` of the module calls this function once, before anything else uses movers.
        unsafe { MOVERS.init() };
        Watch {
            // Can be probed: it is called through the table of the file's operations, so it is not inlined.
            _registering: cfg!(CONFIG_USERFAULTFD)
                .then(|| EntryProbe::new(c"userfaultfd_ioctl", Registering).ok())
                .flatten(),
            // Can be probed: they are exported, so they are not inlined.
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
        // Drops the references without the lock.
        let movers = core::mem::take(&mut *MOVERS.lock());
        COUNT.store(0, Relaxed);
        drop(movers);
    }
}

/// Watches registrations with userfaultfds.
struct Registering;

impl Watcher for Registering {
    /// The address space of a userfaultfd that may move pages, as [`note`] has it.
    unsafe fn note(&self, [file, request]: [usize; 2]) -> Option<[usize; 2]> {
        if request as u32 != shim::KSM_V_UFFDIO_REGISTER {
            return None;
        }
        // SAFETY: The first argument of `userfaultfd_ioctl()` is the file of a userfaultfd. Its caller holds a
        // reference to the file, which holds one to the mm.
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
        // SAFETY: The second argument of `mmu_interval_notifier_insert()` is an address space to which its
        // caller holds a reference.
        note(unsafe { Mm::from_raw(mm as *mut bindings::mm_struct) })
    }

    fn called(&self, note: [usize; 2]) {
        begin(note, By::Device);
    }
}

/// What identifies an address space until the work item runs, without a reference to it: its address, and its
/// owner's process id.
fn note(mm: &Mm) -> Option<[usize; 2]> {
    let rcu = rcu::read_lock();
    let owner = Owner::of(mm, &rcu)?;
    Some([mm.as_raw() as usize, owner.tgid() as usize])
}

/// The address space that was noted, if it still exists.
fn noted([addr, tgid]: [usize; 2]) -> Option<ARef<Mm>> {
    // The work item runs in the initial namespace, as the note requires.
    process::find(tgid as i32).filter(|mm| mm.as_raw() as usize == addr)
}

/// Adds the mover that was noted, and breaks its merged pages apart, unless that was done already. Does so at once,
/// because the mover is about to move pages.
///
/// Steps that are in progress may merge more pages; [`leave_alone`] breaks those apart after the pass. Tries again,
/// a few times, if something is locked: with `run` 0, no pass would come to do that.
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
