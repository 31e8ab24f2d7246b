// SPDX-License-Identifier: GPL-2.0

//! Walks the page tables of a VMA and shows the anonymous pages that are mapped there.
//!
//! C header: [`include/linux/pagewalk.h`](srctree/include/linux/pagewalk.h)
//!
//! A [`WalkableVma`] proves that the VMA lock or the mmap lock is held, so that no page table of the VMA is
//! freed. Entries are read under the page table lock.

use crate::mm::content::MappedPage;
use crate::mm::page::is_tagged;
use crate::mm::page::kind_of_mapping;
use crate::mm::page::Kind;
use crate::mm::page_table::LockedHuge;
use crate::mm::page_table::LockedTable;
use crate::mm::page_table::Population;
use crate::mm::vma::MmapLockedVma;
use crate::mm::vma::StableVma;
use crate::mm::vma::VmaReadGuard;
use crate::shim;
use core::marker::PhantomData;
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
use kernel::ffi::c_uint;
use kernel::ffi::c_ulong;

/// A VMA whose page tables may be walked.
///
/// # Safety
///
/// As long as a value of the type exists, the lock that [`Self::WALK_LOCK`] names is held for reading.
pub(crate) unsafe trait WalkableVma {
    /// The lock, for `walk_page_range_vma()`, which asserts it.
    const WALK_LOCK: shim::page_walk_lock;

    /// The VMA.
    fn vma(&self) -> &StableVma<'_>;
}

// SAFETY: By the invariant of `VmaReadGuard` this thread holds the VMA lock for reading.
unsafe impl WalkableVma for VmaReadGuard<'_> {
    const WALK_LOCK: shim::page_walk_lock = shim::page_walk_lock_PGWALK_VMA_RDLOCK_VERIFY;

    fn vma(&self) -> &StableVma<'_> {
        self
    }
}

// SAFETY: By the invariant of `MmapLockedVma` this thread holds the mmap lock for reading.
unsafe impl WalkableVma for MmapLockedVma<'_> {
    const WALK_LOCK: shim::page_walk_lock = shim::page_walk_lock_PGWALK_RDLOCK;

    fn vma(&self) -> &StableVma<'_> {
        self
    }
}

/// A page table entry that maps an anonymous page, merged or not.
///
/// # Invariants
///
/// `what` describes an entry that maps a page, and its page table lock is held for `'a`.
pub(crate) struct Mapped<'a> {
    what: &'a shim::ksm_v_mapped,
    /// The kind of page that the entry maps.
    pub(crate) kind: Kind,
}

impl Mapped<'_> {
    /// The frame number of the page.
    pub(crate) fn frame(&self) -> Frame {
        Frame(self.what.pfn as u64)
    }

    /// Whether the page has memory tags, which are not among its bytes.
    pub(crate) fn is_tagged(&self) -> bool {
        // SAFETY: By the type invariant an entry maps the page, so `page` is not null, and the page table
        // lock is held, so the page and its folio stay.
        unsafe { is_tagged(NonNull::new_unchecked(self.what.page)) }
    }

    /// Whether the page's memory has failed.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.what.poisoned
    }

    /// Takes a sample of the page, with the salt of a domain; `None` if the page's memory has failed.
    ///
    /// No reference is needed: before anyone frees the page, its entry is removed under the page table
    /// lock.
    #[inline]
    pub(crate) fn glimpse(&self, keys: &Keys, salt: Salt) -> Option<Glimpse> {
        Some(keys.glimpse(salt, &self.content()?.sample()))
    }

    /// As [`Self::glimpse`], if only pages of zeroes matter.
    #[inline]
    pub(crate) fn glimpse_zero(&self, keys: &Keys) -> Option<Glimpse> {
        Some(keys.glimpse_zero(&self.content()?.sample()))
    }

    /// The content of the page; `None` if its memory has failed.
    #[inline]
    fn content(&self) -> Option<MappedPage<'_>> {
        if self.what.poisoned {
            return None;
        }
        // SAFETY: By the type invariant `what` describes an entry that maps a page, so `words` points to the page
        // in the linear mapping; and the page table lock is held, so the page stays.
        Some(unsafe { MappedPage::at(self.what.words.cast()) })
    }
}

/// A page table entry that maps the zero page instead of a page that was merged with it.
///
/// # Invariants
///
/// `entry` is the entry at `addr` of a VMA of `mm`, and has the value `pte`. Its page table lock is held for
/// `'a`.
pub(crate) struct MergedZero<'a> {
    entry: *mut bindings::pte_t,
    pte: bindings::pte_t,
    mm: *mut bindings::mm_struct,
    addr: usize,
    _lock: PhantomData<&'a ()>,
}

impl MergedZero<'_> {
    /// The address of the entry.
    pub(crate) fn addr(&self) -> usize {
        self.addr
    }

    /// Makes the entry an ordinary mapping of the zero page, which the kernel does not count.
    pub(crate) fn unmark(self) {
        // SAFETY: By the type invariant the page table lock is held, so the entry is still `pte`. It is
        // read-only before and after, so that no TLB has to be flushed.
        unsafe {
            shim::ksm_v_ksm_might_unmap_zero_page(self.mm, self.pte);
            let plain = shim::ksm_v_pte_mkclean(self.pte);
            shim::ksm_v_set_pte_at(self.mm, self.addr, self.entry, plain);
        }
    }
}

/// A page table entry that maps the zero page, without the mark of a merged page.
///
/// # Invariants
///
/// As those of [`MergedZero`].
pub(crate) struct PlainZero<'a>(MergedZero<'a>);

impl PlainZero<'_> {
    /// Makes the entry one of a merged page, which the kernel counts.
    pub(crate) fn mark(self) {
        let MergedZero {
            entry,
            pte,
            mm,
            addr,
            ..
        } = self.0;
        // SAFETY: By the type invariant the page table lock is held, so the entry is still `pte`, and its VMA keeps
        // the mm in place. The entry is read-only before and after, so that no TLB has to be flushed.
        unsafe {
            shim::ksm_v_ksm_map_zero_page(mm);
            shim::ksm_v_set_pte_at(mm, addr, entry, shim::ksm_v_pte_mark_zero(pte));
        }
    }
}

/// Counts of page table entries that were not shown.
#[derive(Clone, Copy, Default)]
pub(crate) struct Others {
    /// Entries with nothing present.
    pub(crate) absent: u64,
    /// Entries that map something else: a page of a file, the zero page.
    pub(crate) present: u64,
}

/// Most places in a page that are fetched ahead.
const PLACES: usize = 4;

/// Places in a page whose cache lines are fetched into the caches before they are read.
pub(crate) struct Places(shim::ksm_v_places);

impl Places {
    /// The first `count` of these offsets in a page, in bytes.
    pub(crate) fn first(count: usize, offsets: [u16; PLACES]) -> Self {
        Places(shim::ksm_v_places {
            count: count.min(PLACES) as c_uint,
            offsets,
        })
    }
}

/// Handles the entries of a VMA.
///
/// Unless a method says otherwise, it is called with a page table lock held, and must not sleep.
pub(crate) trait Visitor {
    /// Whether mappings of the zero page without a mark are shown.
    const SHOWS_PLAIN_ZEROS: bool = false;

    /// The places that [`Self::page`] reads in a page that is not merged. They are fetched ahead. Asked once for a
    /// walk, with no page table lock held.
    fn places(&self) -> Places {
        Places::first(0, [0; PLACES])
    }

    /// Begins a part of a page table, `range`; returns false to skip it. Called again if a walk resumes
    /// within the part. Called with no page table lock held.
    fn part(&mut self, _range: &Range<usize>, _population: impl Fn() -> Population) -> bool {
        true
    }

    /// An anonymous page is mapped at `addr`. `Break` ends the walk before the next entry.
    fn page(&mut self, addr: usize, mapped: Mapped<'_>) -> ControlFlow<()>;

    /// An entry maps the zero page instead of a page that was merged with it. `Break` ends the walk before
    /// the next entry.
    fn merged_zero(&mut self, _zero: MergedZero<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// An entry maps the zero page, without the mark of a merged page.
    fn plain_zero(&mut self, _zero: PlainZero<'_>) {}

    /// Counts entries that were read but not shown. Called after some entries of a page table were shown.
    /// `Break` ends the walk.
    fn others(&mut self, _entries: Others) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A page table was read to its end. `Break` ends the walk before the next one.
    fn table_done(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Shows the entries of `range`, which must lie within `vma`, to `visitor`.
///
/// Returns the address at which to resume: the end of the range, unless the visitor ended the walk.
pub(crate) fn walk<A: WalkableVma, V: Visitor>(
    vma: &A,
    range: Range<usize>,
    visitor: &mut V,
) -> usize {
    let mut walk = Walk {
        places: visitor.places(),
        visitor,
        resume: range.end,
        others: Others::default(),
    };
    // SAFETY: `vma` exists until this function returns, so the lock that `WALK_LOCK` names is held, which
    // keeps the VMA and its page tables. The callback casts its private data back to `Walk<V>`, which `walk`
    // is.
    let result = unsafe {
        shim::walk_page_range_vma(
            vma.vma().as_ptr(),
            range.start,
            range.end,
            const { &Walk::<V>::ops(A::WALK_LOCK) },
            core::ptr::from_mut(&mut walk).cast(),
        )
    };
    if result == STOP {
        walk.resume
    } else {
        range.end
    }
}

/// Calls `visit` with the page table that maps `range`, locked. The range must lie within one page table.
/// Does not call it if there is no page table.
pub(super) fn with_table<F>(vma: &VmaReadGuard<'_>, range: Range<usize>, visit: F)
where
    F: FnOnce(&LockedTable<'_>),
{
    let mut visit = Some(visit);
    let ops = shim::mm_walk_ops {
        pmd_entry: Some(table_entry::<F>),
        walk_lock: VmaReadGuard::WALK_LOCK,
        // SAFETY: All other fields are optional callbacks, for which zero means none.
        ..unsafe { core::mem::zeroed() }
    };
    // SAFETY: The `VmaReadGuard` holds the VMA lock. The callback casts its private data back to
    // `Option<F>`, which `visit` is.
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
/// Must be called by `walk_page_range_vma()`, which [`with_table`] called.
unsafe extern "C" fn table_entry<F>(
    pmd: *mut bindings::pmd_t,
    addr: c_ulong,
    next: c_ulong,
    walk: *mut shim::mm_walk,
) -> c_int
where
    F: FnOnce(&LockedTable<'_>),
{
    // SAFETY: `private` is the pointer that `with_table` passed, and nobody else uses it during the walk.
    // The walk is valid during this call.
    let (visit, vma) = unsafe { (&mut *(*walk).private.cast::<Option<F>>(), (*walk).vma) };
    let (Some(visit), Some(vma)) = (visit.take(), NonNull::new(vma)) else {
        return GO_ON;
    };
    // SAFETY: The VMA is the one of `with_table`, whose VMA lock is held until the walk returns.
    let vma = unsafe { StableVma::from_raw(vma) };
    // SAFETY: `pmd` is the entry for `addr..next`, which is within one page table, and the VMA lock keeps
    // page tables from being freed.
    if let Some(table) = unsafe { LockedTable::lock(&vma, pmd, addr..next) } {
        visit(&table);
    }
    GO_ON
}

/// Most entries that are shown under one page table lock.
const CHUNK: usize = 32;
/// Number of entries after which the walk checks whether a fault waits for the lock; if so, it drops the
/// lock.
const PATIENCE: usize = 8;

/// Makes `walk_page_range_vma()` stop and return this value.
const STOP: c_int = 1;
/// Makes `walk_page_range_vma()` continue with the next page table.
const GO_ON: c_int = 0;

/// Room for what the entries of a chunk map.
type Room = MaybeUninit<[shim::ksm_v_mapped; CHUNK]>;

/// Has `read` describe `count` entries, at most a chunk, in `room`. It gets a pointer to as many elements, and
/// their number.
///
/// # Safety
///
/// `read` must initialise these elements.
#[inline]
unsafe fn describe(
    room: &mut Room,
    count: usize,
    read: impl FnOnce(*mut shim::ksm_v_mapped, c_uint),
) -> &[shim::ksm_v_mapped] {
    let count = count.min(CHUNK);
    let first = room.as_mut_ptr().cast::<shim::ksm_v_mapped>();
    read(first, count as c_uint);
    // SAFETY: The room has as many elements, and the caller promises that `read` has initialised them.
    unsafe { core::slice::from_raw_parts(first, count) }
}

/// The address up to which entries were shown: `Break` if the visitor ended the walk.
type Shown = ControlFlow<usize, usize>;

/// A walk in progress: the private data of `walk_page_range_vma()`.
struct Walk<'a, V: Visitor> {
    visitor: &'a mut V,
    /// The places of a page that the visitor reads.
    places: Places,
    /// The address at which to resume, if the visitor ended the walk.
    resume: usize,
    /// Entries that were read and not counted by the visitor yet.
    others: Others,
}

impl<V: Visitor> Walk<'_, V> {
    /// The callbacks of a walk under this lock.
    const fn ops(lock: shim::page_walk_lock) -> shim::mm_walk_ops {
        shim::mm_walk_ops {
            pmd_entry: Some(Self::pmd_entry),
            walk_lock: lock,
            // SAFETY: All other fields are optional callbacks, for which zero means none.
            ..unsafe { core::mem::zeroed() }
        }
    }

    /// # Safety
    ///
    /// Must be called by `walk_page_range_vma()`, which [`walk`] called.
    unsafe extern "C" fn pmd_entry(
        pmd: *mut bindings::pmd_t,
        addr: c_ulong,
        next: c_ulong,
        walk: *mut shim::mm_walk,
    ) -> c_int {
        // SAFETY: `private` is the pointer that `walk` passed, and nobody else uses it during the walk. The
        // walk is valid during this call.
        let (this, vma) = unsafe { (&mut *(*walk).private.cast::<Self>(), (*walk).vma) };
        // SAFETY: `pmd` is the entry for `addr..next` in `vma`, which is within one page table. The caller of
        // `walk` holds the VMA lock or the mmap lock.
        let population = || unsafe { Population::of(pmd, addr..next, vma) };
        let mut start = addr;
        if !this.visitor.part(&(addr..next), population) {
            start = next;
        }
        while start < next {
            let chunk = start..next.min(start.saturating_add(CHUNK * PAGE_SIZE));
            // SAFETY: `pmd` is the entry for `addr..next`, which contains the chunk, in `vma`. The caller
            // of `walk` holds its lock.
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

    /// Shows the pages of a transparent huge page; `None` if there is none.
    ///
    /// # Safety
    ///
    /// `pmd` must be the entry for `range` in `vma`, and the lock that [`walk`] requires must be held.
    unsafe fn huge(
        &mut self,
        pmd: *mut bindings::pmd_t,
        range: Range<usize>,
        vma: *mut bindings::vm_area_struct,
    ) -> Option<Shown> {
        // SAFETY: The caller promises that `pmd` is an entry of `vma`, and holds a lock that keeps its page
        // tables.
        let huge = unsafe { LockedHuge::lock(vma, pmd) }?;
        let Some(head) = huge.head() else {
            return Some(ControlFlow::Continue(range.end));
        };
        // SAFETY: `head` is the first page of the huge page that `pmd` maps, and `huge` holds the lock of
        // the entry.
        Some(unsafe { self.huge_parts(head, range) })
    }

    /// Shows the pages of a huge page in `range`.
    ///
    /// # Safety
    ///
    /// The huge page whose first page is `head` must be mapped at the block that contains `range`, and the
    /// lock of its entry must be held.
    unsafe fn huge_parts(&mut self, head: NonNull<bindings::page>, range: Range<usize>) -> Shown {
        let part = range.start / PAGE_SIZE % shim::KSM_V_HPAGE_PMD_NR;
        let mut room = Room::uninit();
        // SAFETY: The range lies within the huge page whose first page is `head`, and so do as many pages from
        // its `part` on. The caller promises that the huge page is mapped and locked.
        let chunk = unsafe {
            describe(&mut room, range.len() / PAGE_SIZE, |mapped, count| {
                shim::ksm_v_pages_mapped(head.as_ptr().add(part), &self.places.0, mapped, count);
            })
        };
        for (addr, what) in range.clone().step_by(PAGE_SIZE).zip(chunk) {
            if self.show(addr, what).is_break() {
                return ControlFlow::Break(addr.wrapping_add(PAGE_SIZE));
            }
        }
        ControlFlow::Continue(range.end)
    }

    /// Shows the entries of a page table, until another thread waits for its lock.
    ///
    /// # Safety
    ///
    /// As for [`Self::huge`].
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
        // SAFETY: The caller holds the VMA lock or the mmap lock, which keeps the VMA in place.
        let area = unsafe { StableVma::from_raw(area) };
        // SAFETY: The caller promises that `pmd` is the entry for `range`, which is within one page table,
        // and holds a lock that keeps page tables from being freed.
        let Some(table) = (unsafe { LockedTable::lock(&area, pmd, range) }) else {
            return ControlFlow::Continue(end);
        };
        // SAFETY: `table` is locked, and is a page table of `vma`, whose lock the caller holds.
        let read = unsafe { self.entries(&table, vma) };
        let others = core::mem::take(&mut self.others);
        if self.visitor.others(others).is_break() {
            let (ControlFlow::Continue(at) | ControlFlow::Break(at)) = read;
            return ControlFlow::Break(at);
        }
        read
    }

    /// Shows the entries of a locked page table.
    ///
    /// # Safety
    ///
    /// As for [`Self::huge`]. `table` must be a page table of `vma`.
    unsafe fn entries(
        &mut self,
        table: &LockedTable<'_>,
        vma: *mut bindings::vm_area_struct,
    ) -> Shown {
        let mut end = table.start();
        let mut room = Room::uninit();
        // SAFETY: `table` is locked, is a page table of `vma`, and has as many entries from the first one on,
        // which is the one for `end`.
        let chunk = unsafe {
            describe(&mut room, table.len(), |mapped, count| {
                shim::ksm_v_ptes_mapped(table.first(), vma, end, &self.places.0, mapped, count);
            })
        };
        for (no, ((addr, entry), what)) in table.entries().zip(chunk).enumerate() {
            if no % PATIENCE == PATIENCE - 1 && table.is_contended() {
                return ControlFlow::Continue(addr);
            }
            end = addr.wrapping_add(PAGE_SIZE);
            // SAFETY: `table` is locked, `entry` is its entry for `addr`, and `what` was read from it under
            // the lock.
            if unsafe { self.entry(addr, entry, what, vma) }.is_break() {
                return ControlFlow::Break(end);
            }
        }
        ControlFlow::Continue(end)
    }

    /// Shows an entry.
    ///
    /// # Safety
    ///
    /// `entry` must be the entry for `addr` in `vma`, and its page table lock must be held. `what` must
    /// describe it.
    #[inline]
    unsafe fn entry(
        &mut self,
        addr: usize,
        entry: *mut bindings::pte_t,
        what: &shim::ksm_v_mapped,
        vma: *mut bindings::vm_area_struct,
    ) -> ControlFlow<()> {
        if !what.present {
            self.others.absent = self.others.absent.wrapping_add(1);
            return ControlFlow::Continue(());
        }
        if what.page.is_null() {
            self.others.present = self.others.present.wrapping_add(1);
            // SAFETY: The caller's promises still hold, and something is present.
            return unsafe { self.special(addr, entry, vma) };
        }
        self.show(addr, what)
    }

    /// Shows an entry that maps something else than a normal page.
    ///
    /// # Safety
    ///
    /// As for [`Self::entry`]; and something must be present.
    unsafe fn special(
        &mut self,
        addr: usize,
        entry: *mut bindings::pte_t,
        vma: *mut bindings::vm_area_struct,
    ) -> ControlFlow<()> {
        // SAFETY: The caller promises that `entry` is an entry of `vma`, whose page table is locked. So
        // `vma` is in place.
        let (pte, mm) = unsafe { (shim::ksm_v_ptep_get(entry), (*vma).vm_mm) };
        // INVARIANT: The caller promises that `entry` is the entry for `addr`, and holds its page table lock
        // while the visitor is called. `pte` was just read from it. Which of the two types it is, is checked before
        // it is shown.
        let zero = MergedZero {
            entry,
            pte,
            mm,
            addr,
            _lock: PhantomData,
        };
        // SAFETY: The function only looks at the value, and accesses no memory.
        if unsafe { shim::ksm_v_is_ksm_zero_pte(pte) } {
            return self.visitor.merged_zero(zero);
        }
        // SAFETY: This function only looks at the value, too.
        if V::SHOWS_PLAIN_ZEROS && unsafe { shim::ksm_v_is_plain_zero_pte(pte) } {
            self.visitor.plain_zero(PlainZero(zero));
        }
        ControlFlow::Continue(())
    }

    /// Shows the page that an entry or a huge page maps at `addr`, if it is anonymous.
    #[inline]
    fn show(&mut self, addr: usize, what: &shim::ksm_v_mapped) -> ControlFlow<()> {
        let kind = kind_of_mapping(what.mapping);
        if kind == Kind::Other {
            self.others.present = self.others.present.wrapping_add(1);
            return ControlFlow::Continue(());
        }
        self.visitor.page(addr, Mapped { what, kind })
    }
}
