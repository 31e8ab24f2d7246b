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
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::walk;
use crate::mm::walk::Held;
use crate::mm::walk::Mapped;
use crate::mm::walk::MergedZero;
use crate::mm::walk::Visitor;
use crate::shim;
use core::ops::ControlFlow;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;

/// Mappings of the zero page in place of a merged page, in all processes; ksmd's included.
pub(crate) fn count() -> u64 {
    u64::try_from(sum()).unwrap_or(0)
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

fn unmark(mm: &MmWithUser) {
    let mut addr = 0;
    // An error means that the area is just being changed: its marks stay, which is harmless.
    while let Ok(Some(vma)) = VmaReadGuard::next(mm, addr) {
        addr = vma.end();
        if vma.has_anon_vma() {
            walk(&vma, Held::VmaLock, vma.start()..vma.end(), &mut Unmarker);
        }
    }
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
