// SPDX-License-Identifier: GPL-2.0

//! Keeps the kernel's count of zero pages that replace merged pages correct.
//!
//! A mapping of the zero page that replaces a merged page is marked by its dirty bit (`is_ksm_zero_pte()`
//! in `include/linux/ksm.h`). The kernel counts such mappings for each address space and in total, and
//! decrements both counts when one is unmapped. But `fork()` adds the child's mappings to the total only if
//! the process is registered with mainline KSM (`ksm_fork()`), and most of the processes here are not. So
//! this module computes the total from the address spaces, and corrects the kernel's total. When the module
//! is unloaded, it removes the marks that the kernel could not account for; ordinary mappings of the zero
//! page remain.

use crate::mm::process::is_registered;
use crate::mm::process::Cursor;
use crate::mm::vma::MmapLock;
use crate::mm::vma::NextArea;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::walk;
use crate::mm::walk::Mapped;
use crate::mm::walk::MergedZero;
use crate::mm::walk::PlainZero;
use crate::mm::walk::Visitor;
use crate::shim;
use crate::sys::kthread::cond_resched;
use core::ops::ControlFlow;
use core::ops::Range;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;

/// The number of mappings of the zero page that replace merged pages, in all processes, including those
/// made by ksmd. Visits all address spaces.
pub(crate) fn count() -> u64 {
    u64::try_from(sum()).unwrap_or(0)
}

/// The kernel's total, which was right when it was last corrected. Takes constant time.
pub(crate) fn recent_count() -> u64 {
    // SAFETY: The module is loaded, so its imports were resolved, and the symbol was found.
    let count = unsafe { shim::ksm_v_ksm_zero_pages_read() };
    u64::try_from(count).unwrap_or(0)
}

/// Corrects the kernel's total. Changes during this function are corrected the next time.
pub(crate) fn correct_sum() {
    // SAFETY: The module is loaded, so its imports were resolved, and the symbol was found.
    unsafe {
        let error = sum().wrapping_sub(shim::ksm_v_ksm_zero_pages_read());
        shim::ksm_v_ksm_zero_pages_add(error);
    }
}

/// The marks that only this module accounts for. Dropping this removes them.
pub(crate) struct Marks;

impl Drop for Marks {
    fn drop(&mut self) {
        unmark_all();
    }
}

/// Removes the marks from all mappings of processes that mainline KSM does not know.
fn unmark_all() {
    correct_sum();
    let mut cursor = Cursor::default();
    while let Some(mm) = cursor.next() {
        // `ksm_fork()` accounts for processes that are registered.
        if marks_of(&mm) == 0 || is_registered(&mm) {
            continue;
        }
        if let Some(mm) = mm.mmget_not_zero() {
            unmark(&MmWithUser::into_mmput_async(mm));
        }
    }
}

/// Removes the marks from the mappings of an address space.
pub(super) fn unmark(mm: &MmWithUser) {
    let mut addr = 0;
    loop {
        match VmaReadGuard::next(mm, addr) {
            NextArea::Locked(vma) => {
                addr = vma.end();
                if vma.has_anon_vma() {
                    walk(&vma, vma.start()..vma.end(), &mut Unmarker);
                }
            }
            // The marks of this VMA stay, which is harmless.
            NextArea::Busy { end } => addr = end,
            NextArea::None => return,
        }
    }
}

/// Removes all marks from an address space that gets no further marks, and subtracts from its count those
/// that the kernel has lost. Returns false if the mmap lock is not available at once.
///
/// The mmap lock keeps mappings from being moved to where the walk has already been, so the walk misses
/// none, and what remains of the count belongs to no mapping. Others subtract from that count only when
/// they remove a mark from an entry, under its page table lock. This does not hold if ksmd may be merging
/// in the address space.
pub(super) fn settle(mm: &MmWithUser) -> bool {
    if marks_of(mm) == 0 {
        return true;
    }
    let Some(lock) = MmapLock::try_read(mm) else {
        return false;
    };
    let mut addr = 0;
    while let Some(vma) = lock.next(addr) {
        addr = vma.end();
        if vma.has_anon_vma() {
            walk(&vma, vma.start()..vma.end(), &mut Unmarker);
        }
        cond_resched();
    }
    let lost = marks_of(mm);
    if lost > 0 && !is_registered(mm) {
        // SAFETY: An `MmWithUser` is in use, so its counter exists.
        unsafe { shim::ksm_v_mm_ksm_zero_pages_sub(mm.as_raw(), lost) };
    }
    true
}

/// Marks the mappings of the zero page in `range` of `vma`, so that the kernel counts them. The range was a large
/// page before it was split, and `vma` allows such marks.
///
/// The kernel maps the zero page in place of those parts that are full of zeroes
/// (`try_to_map_unused_to_zeropage()` in `mm/migrate.c`), and counts none of them.
pub(crate) fn mark(vma: &VmaReadGuard<'_>, range: Range<usize>) {
    let range = range.start.max(vma.start())..range.end.min(vma.end());
    if !range.is_empty() {
        walk(vma, range, &mut Marker);
    }
}

/// The number of marks in all address spaces.
fn sum() -> isize {
    let mut cursor = Cursor::default();
    let mut sum = 0isize;
    while let Some(mm) = cursor.next() {
        sum = sum.wrapping_add(marks_of(&mm));
    }
    sum
}

/// The number of marks in an address space, as the kernel counts them.
fn marks_of(mm: &Mm) -> isize {
    // SAFETY: The reference to an `Mm` shows that the mm is referenced.
    unsafe { shim::ksm_v_mm_ksm_zero_pages(mm.as_raw()) }
}

/// Marks the mappings of the zero page that a walk meets.
struct Marker;

impl Visitor for Marker {
    const SHOWS_PLAIN_ZEROS: bool = true;

    fn page(&mut self, _addr: usize, _mapped: Mapped<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn plain_zero(&mut self, zero: PlainZero<'_>) {
        zero.mark();
    }
}

/// Removes the marks that a walk meets.
struct Unmarker;

impl Visitor for Unmarker {
    fn page(&mut self, _addr: usize, _mapped: Mapped<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn merged_zero(&mut self, zero: MergedZero<'_>) -> ControlFlow<()> {
        zero.unmark();
        ControlFlow::Continue(())
    }
}
