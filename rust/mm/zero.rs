// SPDX-License-Identifier: GPL-2.0

//! The kernel's count of zero pages that stand for merged ones, kept right.
//!
//! A mapping of the zero page that stands for a merged page is marked by its dirty bit
//! (`is_ksm_zero_pte()` in `include/linux/ksm.h`). The kernel counts such mappings for each
//! address space and in all, and takes them off both counts when one is unmapped. But `fork()`
//! adds the child's to the sum only if the process is registered with mainline KSM
//! (`ksm_fork()`); ours mostly are not. So the sum is taken over the address spaces here, the
//! kernel's own is corrected to it, and when the module goes, marks that the kernel could not
//! account for go too: what remains are ordinary mappings of the zero page.

use crate::mm::process::is_registered;
use crate::mm::process::Cursor;
use crate::mm::vma::NextArea;
use crate::mm::vma::StableVma;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::walk;
use crate::mm::walk::Held;
use crate::mm::walk::Mapped;
use crate::mm::walk::MergedZero;
use crate::mm::walk::Visitor;
use crate::shim;
use crate::sys::kthread::cond_resched;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;

/// Mappings of the zero page in place of a merged page, in all processes; ksmd's included. Asks all
/// of them.
pub(crate) fn count() -> u64 {
    u64::try_from(sum()).unwrap_or(0)
}

/// As [`count`], as the kernel has it since it was corrected last: in constant time.
pub(crate) fn recent_count() -> u64 {
    // SAFETY: The module is loaded, so the symbol was found.
    let count = unsafe { shim::ksm_v_ksm_zero_pages_read() };
    u64::try_from(count).unwrap_or(0)
}

/// Corrects the kernel's own sum. What changes meanwhile is corrected the next time.
pub(crate) fn correct_sum() {
    // SAFETY: The module is loaded, so the symbol was found.
    unsafe {
        let error = sum().wrapping_sub(shim::ksm_v_ksm_zero_pages_read());
        shim::ksm_v_ksm_zero_pages_add(error);
    }
}

/// The marks that only this module keeps account of; they end with it.
pub(crate) struct Marks;

impl Drop for Marks {
    fn drop(&mut self) {
        unmark_all();
    }
}

/// Takes the marks off all mappings whose process mainline KSM does not know.
fn unmark_all() {
    correct_sum();
    let mut cursor = Cursor::default();
    while let Some(mm) = cursor.next() {
        // Of what is registered `ksm_fork()` keeps account.
        if marks_of(&mm) == 0 || is_registered(&mm) {
            continue;
        }
        if let Some(mm) = mm.mmget_not_zero() {
            unmark(&MmWithUser::into_mmput_async(mm));
        }
    }
}

/// Takes the marks off the mappings of an address space.
pub(super) fn unmark(mm: &MmWithUser) {
    let mut addr = 0;
    loop {
        match VmaReadGuard::next(mm, addr) {
            NextArea::Locked(vma) => {
                addr = vma.end();
                if vma.has_anon_vma() {
                    walk(&vma, Held::VmaLock, vma.start()..vma.end(), &mut Unmarker);
                }
            }
            // Its marks stay, which is harmless.
            NextArea::Busy { end } => addr = end,
            NextArea::None => return,
        }
    }
}

/// Takes all marks off an address space into which no further ones come, and off its count those that
/// the kernel has lost. Returns false where the address space is being changed just now.
///
/// The mmap lock keeps mappings from being moved to where the walk has been: none is missed, so what is
/// left of the count then is of no mapping. Others take off that count only what they take off an entry,
/// under its page table lock. Not so where ksmd may be merging.
pub(super) fn settle(mm: &MmWithUser) -> bool {
    if marks_of(mm) == 0 {
        return true;
    }
    let Some(_lock) = mm.mmap_read_trylock() else {
        return false;
    };
    let mut addr = 0;
    // SAFETY: The mmap lock is held.
    while let Some(vma) = NonNull::new(unsafe { bindings::find_vma(mm.as_raw(), addr) }) {
        // SAFETY: As above: the area stays until the lock is dropped.
        let (area, range) = unsafe {
            let area = kernel::mm::virt::VmaRef::from_raw(vma.as_ptr());
            (StableVma::from_raw(vma), area.start()..area.end())
        };
        addr = range.end;
        if area.has_anon_vma() {
            walk(&area, Held::MmapLock, range, &mut Unmarker);
        }
        cond_resched();
    }
    let lost = marks_of(mm);
    if lost > 0 && !is_registered(mm) {
        // SAFETY: The mm is in use.
        unsafe { shim::ksm_v_mm_ksm_zero_pages_sub(mm.as_raw(), lost) };
    }
    true
}

fn sum() -> isize {
    let mut cursor = Cursor::default();
    let mut sum = 0isize;
    while let Some(mm) = cursor.next() {
        sum = sum.wrapping_add(marks_of(&mm));
    }
    sum
}

fn marks_of(mm: &Mm) -> isize {
    // SAFETY: The mm is referenced.
    unsafe { shim::ksm_v_mm_ksm_zero_pages(mm.as_raw()) }
}

struct Unmarker;

impl Visitor for Unmarker {
    fn page(&mut self, _addr: usize, _mapped: Mapped<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn merged_zero(&mut self, zero: MergedZero) -> ControlFlow<()> {
        zero.unmark();
        ControlFlow::Continue(())
    }
}
