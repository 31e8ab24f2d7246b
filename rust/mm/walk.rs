// SPDX-License-Identifier: GPL-2.0

//! Walks the page tables of an area and shows the anonymous pages that are mapped there.
//!
//! C header: [`include/linux/pagewalk.h`](srctree/include/linux/pagewalk.h)
//!
//! The caller holds the VMA lock (or the mmap lock), so that no page table of the area is freed;
//! entries are read under the page table lock.

use crate::mm::page::is_tagged;
use crate::mm::page::kind_of_mapping;
use crate::mm::page::Kind;
use crate::mm::page::MappedPage;
use crate::mm::pte::LockedHuge;
use crate::mm::pte::LockedTable;
use crate::mm::pte::Population;
use crate::mm::vma::StableVma;
use crate::mm::vma::VmaReadGuard;
use crate::shim;
use core::mem::MaybeUninit;
use core::ops::ControlFlow;
use core::ops::Range;
use core::ptr::NonNull;
use engine::Frame;
use engine::Glimpse;
use engine::Keys;
use engine::Salt;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::ffi::c_ulong;

/// Which lock of the address space the caller holds.
#[derive(Clone, Copy)]
pub(crate) enum Held {
    /// The VMA lock.
    VmaLock,
    /// The mmap lock.
    MmapLock,
}

/// A page table entry that maps a page which the walker knows about.
///
/// Valid while it is shown: the page table lock is held.
pub(crate) struct Mapped<'a> {
    what: &'a shim::ksm_v_mapped,
    /// What kind of page it maps.
    pub(crate) kind: Kind,
}

impl Mapped<'_> {
    /// Frame number of the page.
    pub(crate) fn frame(&self) -> Frame {
        Frame(self.what.pfn as u64)
    }

    /// Whether it has memory tags, which are not among its bytes.
    pub(crate) fn is_tagged(&self) -> bool {
        // SAFETY: The page is mapped, and the page table lock held, so that its folio stays.
        unsafe { is_tagged(NonNull::new_unchecked(self.what.page)) }
    }

    /// Whether its memory has failed.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.what.poisoned
    }

    /// Takes a sample of the page, in the domain of this salt; `None` where its memory has failed.
    ///
    /// No reference is needed: who frees the page takes the page table lock to unmap it first.
    #[inline]
    pub(crate) fn glimpse(&self, keys: &Keys, salt: Salt) -> Option<Glimpse> {
        if self.what.poisoned {
            return None;
        }
        // SAFETY: As above.
        let content = unsafe { MappedPage::at(self.what.words.cast()) };
        Some(keys.glimpse(salt, &content.sample()))
    }
}

/// A page table entry that maps the zero page in place of a page that was merged with it.
///
/// Valid while it is shown: the page table lock is held.
pub(crate) struct MergedZero {
    entry: *mut bindings::pte_t,
    pte: bindings::pte_t,
    mm: *mut bindings::mm_struct,
    addr: usize,
}

impl MergedZero {
    /// The address that is mapped.
    pub(crate) fn addr(&self) -> usize {
        self.addr
    }

    /// Makes it an ordinary mapping of the zero page, of which the kernel keeps no count.
    pub(crate) fn unmark(self) {
        // SAFETY: The page table lock is held. The entry is read-only before and after, so that no
        // TLB needs to hear of it.
        unsafe {
            shim::ksm_v_ksm_might_unmap_zero_page(self.mm, self.pte);
            let plain = shim::ksm_v_pte_mkclean(self.pte);
            shim::ksm_v_set_pte_at(self.mm, self.addr, self.entry, plain);
        }
    }
}

/// Entries of a page table whose pages are not shown.
#[derive(Clone, Copy, Default)]
pub(crate) struct Others {
    /// Nothing is present.
    pub(crate) absent: u64,
    /// Something is present: a page of a file, the zero page.
    pub(crate) present: u64,
}

/// What is done with the entries of an area.
///
/// Called with a page table lock held, unless it says otherwise: must not sleep.
pub(crate) trait Visitor {
    /// Comes to a part of a page table, `range`; false: it is passed over. Called again where a walk
    /// goes on within the part; with no page table lock held.
    fn part(&mut self, _range: &Range<usize>, _population: impl Fn() -> Population) -> bool {
        true
    }

    /// An anonymous page is mapped at `addr`. `Break` ends the walk before the next entry.
    fn page(&mut self, addr: usize, mapped: Mapped<'_>) -> ControlFlow<()>;

    /// A page that was merged with the zero page is mapped. `Break` as above.
    fn merged_zero(&mut self, _zero: MergedZero) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// So many entries were read, besides those whose pages were shown: told for a part of a page table,
    /// after them. `Break` as above.
    fn others(&mut self, _entries: Others) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A page table has been read to its end. `Break` ends the walk before the next one.
    fn table_done(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Shows the entries of `range`, which lies within `vma`, to `visitor`.
///
/// Returns the address at which to go on: the end of the range unless the visitor broke off.
pub(crate) fn walk<V: Visitor>(
    vma: &StableVma<'_>,
    held: Held,
    range: Range<usize>,
    visitor: &mut V,
) -> usize {
    let mut walk = Walk {
        visitor,
        resume: range.end,
        others: Others::default(),
    };
    let ops = match held {
        Held::VmaLock => &Walk::<V>::UNDER_VMA_LOCK,
        Held::MmapLock => &Walk::<V>::UNDER_MMAP_LOCK,
    };
    // SAFETY: The area is in place and the lock that `ops` names is held, by the caller's
    // `StableVma`; the callback takes `walk` as what it is.
    let result = unsafe {
        shim::walk_page_range_vma(
            vma.as_ptr(),
            range.start,
            range.end,
            ops,
            core::ptr::from_mut(&mut walk).cast(),
        )
    };
    if result == STOP {
        walk.resume
    } else {
        range.end
    }
}

/// Shows the page table that maps `range`, which must lie within one, to `visit`, locked; not if
/// there is none.
pub(super) fn with_table<F>(vma: &VmaReadGuard<'_>, range: Range<usize>, visit: F)
where
    F: FnOnce(&LockedTable<'_>),
{
    let mut visit = Some(visit);
    let ops = shim::mm_walk_ops {
        pmd_entry: Some(table_entry::<F>),
        walk_lock: shim::page_walk_lock_PGWALK_VMA_RDLOCK_VERIFY,
        // SAFETY: All further fields are optional callbacks: none.
        ..unsafe { core::mem::zeroed() }
    };
    // SAFETY: The VMA lock is held; the callback takes `visit` as what it is.
    unsafe {
        shim::walk_page_range_vma(
            vma.as_ptr(),
            range.start,
            range.end,
            &ops,
            core::ptr::from_mut(&mut visit).cast(),
        );
    }
}

/// # Safety
///
/// Called by `walk_page_range_vma()` as called by [`with_table`].
unsafe extern "C" fn table_entry<F>(
    pmd: *mut bindings::pmd_t,
    addr: c_ulong,
    next: c_ulong,
    walk: *mut shim::mm_walk,
) -> c_int
where
    F: FnOnce(&LockedTable<'_>),
{
    // SAFETY: `private` is what `with_table` passed, and nobody else uses it meanwhile.
    let (visit, vma) = unsafe { (&mut *(*walk).private.cast::<Option<F>>(), (*walk).vma) };
    let (Some(visit), Some(vma)) = (visit.take(), NonNull::new(vma)) else {
        return GO_ON;
    };
    // SAFETY: The area is the one of `with_table`, whose lock is held.
    let vma = unsafe { StableVma::from_raw(vma) };
    // SAFETY: As above; the range is of one page table.
    if let Some(table) = unsafe { LockedTable::lock(&vma, pmd, addr..next) } {
        visit(&table);
    }
    GO_ON
}

/// Entries that are shown under one page table lock, at the most.
const CHUNK: usize = 32;
/// After so many of them it is seen whether a fault waits for the lock, which gets it then.
const PATIENCE: usize = 8;

/// Makes `walk_page_range_vma()` return.
const STOP: c_int = 1;
/// Makes it go on with the next page table.
const GO_ON: c_int = 0;

/// Which pages are mapped in `range`, as of some moment; none where all is being changed.
///
/// # Safety
///
/// `pmd` is the entry for `range` in `vma`, and the lock of [`walk`] is held.
unsafe fn population(
    pmd: *mut bindings::pmd_t,
    range: Range<usize>,
    vma: *mut bindings::vm_area_struct,
) -> Population {
    // SAFETY: Promised by the caller.
    if let Some(huge) = unsafe { LockedHuge::lock(vma, pmd) } {
        return huge.population(&range);
    }
    let Some(vma) = NonNull::new(vma) else {
        return Population::default();
    };
    // SAFETY: Promised by the caller.
    let area = unsafe { StableVma::from_raw(vma) };
    // SAFETY: As above; the range is of one page table.
    let table = unsafe { LockedTable::lock(&area, pmd, range) };
    table.map_or_else(Population::default, |table| table.population())
}

/// Up to where entries were shown: `Break` where the visitor broke off.
type Shown = ControlFlow<usize, usize>;

struct Walk<'a, V: Visitor> {
    visitor: &'a mut V,
    resume: usize,
    /// Entries that were read and not told of yet.
    others: Others,
}

impl<V: Visitor> Walk<'_, V> {
    const UNDER_VMA_LOCK: shim::mm_walk_ops =
        Self::ops(shim::page_walk_lock_PGWALK_VMA_RDLOCK_VERIFY);
    const UNDER_MMAP_LOCK: shim::mm_walk_ops = Self::ops(shim::page_walk_lock_PGWALK_RDLOCK);

    const fn ops(lock: shim::page_walk_lock) -> shim::mm_walk_ops {
        shim::mm_walk_ops {
            pmd_entry: Some(Self::pmd_entry),
            walk_lock: lock,
            // SAFETY: All further fields are optional callbacks: none.
            ..unsafe { core::mem::zeroed() }
        }
    }

    /// # Safety
    ///
    /// Called by `walk_page_range_vma()` as called by [`walk`].
    unsafe extern "C" fn pmd_entry(
        pmd: *mut bindings::pmd_t,
        addr: c_ulong,
        next: c_ulong,
        walk: *mut shim::mm_walk,
    ) -> c_int {
        // SAFETY: `private` is what `walk` above passed, and nobody else uses it meanwhile.
        let (this, vma) = unsafe { (&mut *(*walk).private.cast::<Self>(), (*walk).vma) };
        // SAFETY: The area is the one of `walk` above.
        let population = || unsafe { population(pmd, addr..next, vma) };
        let mut start = addr;
        if !this.visitor.part(&(addr..next), population) {
            start = next;
        }
        while start < next {
            let chunk = start..next.min(start.saturating_add(CHUNK * PAGE_SIZE));
            // SAFETY: As above.
            let shown = unsafe {
                match this.huge(pmd, chunk.clone(), vma) {
                    Some(shown) => shown,
                    None => this.table(pmd, chunk, vma),
                }
            };
            match shown {
                ControlFlow::Continue(end) => start = end,
                ControlFlow::Break(at) => {
                    this.resume = at;
                    return STOP;
                }
            }
        }
        if this.visitor.table_done().is_break() {
            this.resume = next;
            return STOP;
        }
        GO_ON
    }

    /// Shows the parts of a transparent huge page; `None` where there is none.
    ///
    /// # Safety
    ///
    /// `pmd` is the entry for `range` in `vma`, and the lock of [`walk`] is held.
    unsafe fn huge(
        &mut self,
        pmd: *mut bindings::pmd_t,
        range: Range<usize>,
        vma: *mut bindings::vm_area_struct,
    ) -> Option<Shown> {
        // SAFETY: Promised by the caller.
        let huge = unsafe { LockedHuge::lock(vma, pmd) }?;
        let Some(head) = huge.head() else {
            return Some(ControlFlow::Continue(range.end));
        };
        // SAFETY: It is mapped there, and locked.
        Some(unsafe { self.huge_parts(head, range) })
    }

    /// # Safety
    ///
    /// The huge page with the first page `head` is mapped at the block around `range`, and locked.
    unsafe fn huge_parts(&mut self, head: NonNull<bindings::page>, range: Range<usize>) -> Shown {
        for addr in range.clone().step_by(PAGE_SIZE) {
            let part = addr / PAGE_SIZE % shim::KSM_V_HPAGE_PMD_NR;
            let mut mapped = MaybeUninit::uninit();
            // SAFETY: The huge page has that many parts; it is mapped, and the lock is held.
            let flow = unsafe {
                shim::ksm_v_nth_page_mapped(head.as_ptr(), part, mapped.as_mut_ptr());
                self.show(addr, mapped.assume_init_ref())
            };
            if flow.is_break() {
                return ControlFlow::Break(addr.wrapping_add(PAGE_SIZE));
            }
        }
        ControlFlow::Continue(range.end)
    }

    /// Shows the entries of a page table, up to where someone else wants its lock.
    ///
    /// # Safety
    ///
    /// As [`Self::huge`].
    unsafe fn table(
        &mut self,
        pmd: *mut bindings::pmd_t,
        range: Range<usize>,
        vma: *mut bindings::vm_area_struct,
    ) -> Shown {
        let end = range.end;
        let Some(area) = NonNull::new(vma) else {
            return ControlFlow::Continue(end);
        };
        // SAFETY: Promised by the caller.
        let area = unsafe { StableVma::from_raw(area) };
        // SAFETY: As above; the range is of one page table.
        let Some(table) = (unsafe { LockedTable::lock(&area, pmd, range) }) else {
            return ControlFlow::Continue(end);
        };
        // SAFETY: As above; the page table is locked.
        let read = unsafe { self.entries(&table, vma) };
        let others = core::mem::take(&mut self.others);
        if self.visitor.others(others).is_break() {
            let (ControlFlow::Continue(at) | ControlFlow::Break(at)) = read;
            return ControlFlow::Break(at);
        }
        read
    }

    /// # Safety
    ///
    /// As [`Self::huge`]; the page table is one of `vma`.
    unsafe fn entries(
        &mut self,
        table: &LockedTable<'_>,
        vma: *mut bindings::vm_area_struct,
    ) -> Shown {
        let mut end = table.start();
        for (no, (addr, entry)) in table.entries().enumerate() {
            if no % PATIENCE == PATIENCE - 1 && table.is_contended() {
                return ControlFlow::Continue(addr);
            }
            end = addr.wrapping_add(PAGE_SIZE);
            // SAFETY: The page table is locked.
            if unsafe { self.entry(addr, entry, vma) }.is_break() {
                return ControlFlow::Break(end);
            }
        }
        ControlFlow::Continue(end)
    }

    /// # Safety
    ///
    /// `entry` is the entry for `addr` in `vma`, and the page table lock is held.
    unsafe fn entry(
        &mut self,
        addr: usize,
        entry: *mut bindings::pte_t,
        vma: *mut bindings::vm_area_struct,
    ) -> ControlFlow<()> {
        let mut mapped = MaybeUninit::<shim::ksm_v_mapped>::uninit();
        // SAFETY: Promised by the caller.
        if !unsafe { shim::ksm_v_ptep_mapped(entry, vma, addr, mapped.as_mut_ptr()) } {
            self.others.absent = self.others.absent.wrapping_add(1);
            return ControlFlow::Continue(());
        }
        // SAFETY: The function has said what the entry maps, if only that it is no normal page.
        if unsafe { (*mapped.as_ptr()).page.is_null() } {
            self.others.present = self.others.present.wrapping_add(1);
            // SAFETY: Promised by the caller.
            return unsafe { self.special(addr, entry, vma) };
        }
        // SAFETY: As above: it is a normal page, and so the rest has been said, too.
        self.show(addr, unsafe { mapped.assume_init_ref() })
    }

    /// Shows what is mapped that is no normal page.
    ///
    /// # Safety
    ///
    /// As [`Self::entry`]; something is present.
    unsafe fn special(
        &mut self,
        addr: usize,
        entry: *mut bindings::pte_t,
        vma: *mut bindings::vm_area_struct,
    ) -> ControlFlow<()> {
        // SAFETY: Promised by the caller.
        let (pte, mm) = unsafe { (shim::ksm_v_ptep_get(entry), (*vma).vm_mm) };
        // SAFETY: Looks at the value only.
        if !unsafe { shim::ksm_v_is_ksm_zero_pte(pte) } {
            return ControlFlow::Continue(());
        }
        self.visitor.merged_zero(MergedZero {
            entry,
            pte,
            mm,
            addr,
        })
    }

    fn show(&mut self, addr: usize, what: &shim::ksm_v_mapped) -> ControlFlow<()> {
        let kind = kind_of_mapping(what.mapping);
        if kind == Kind::Other {
            self.others.present = self.others.present.wrapping_add(1);
            return ControlFlow::Continue(());
        }
        self.visitor.page(addr, Mapped { what, kind })
    }
}
