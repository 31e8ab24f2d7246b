// SPDX-License-Identifier: GPL-2.0

//! Breaks merged pages apart again, as `break_ksm()` in `mm/ksm.c` does: by unsharing faults.
//!
//! Each fault gives one process a private copy of one page, and the kernel's own accounting. Runs
//! in the context of whoever wants it, under the mmap lock of one process at a time.

use crate::mm::page::Kind;
use crate::mm::vma::StableVma;
use crate::mm::walk::walk;
use crate::mm::walk::Held;
use crate::mm::walk::Mapped;
use crate::mm::walk::MergedZero;
use crate::mm::walk::Visitor;
use crate::shim;
use crate::sys::kthread::cond_resched;
use crate::trace;
use core::ops::ControlFlow;
use core::ops::Range;
use core::ptr::NonNull;
use engine::Frame;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::ffi::c_uint;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

/// Faults after which the mmap lock is dropped, for those who wait to change the address space.
const FAULTS_PER_LOCK: usize = 64;

/// Which merged pages to break.
#[derive(Clone)]
pub(crate) enum Which {
    /// All, those that were merged with the zero page too.
    All,
    /// Those whose shared page is on one of these frames.
    On(Range<u64>),
    /// Those in areas whose owner did not ask for merging.
    NotRegistered,
}

impl Which {
    fn includes(&self, frame: Frame) -> bool {
        match self {
            Which::All | Which::NotRegistered => true,
            Which::On(frames) => frames.contains(&frame.0),
        }
    }

    /// Whether such may be in an area.
    fn concerns(&self, vma: &StableVma<'_>) -> bool {
        let is_registered = vma.flags() & shim::KSM_V_VM_MERGEABLE != 0;
        vma.has_anon_vma() && !(matches!(self, Which::NotRegistered) && is_registered)
    }
}

/// Breaks merged pages that `mm` maps. Returns how many there were.
///
/// # Errors
///
/// `ENOMEM`: no memory for the copies. `EINTR`: the caller has a signal pending.
pub(crate) fn unmerge(mm: &MmWithUser, which: &Which) -> Result<u64> {
    let mut broken = 0u64;
    let result = unmerge_all(mm, which, &mut broken);
    if broken > 0 || result.is_err() {
        trace::unmerge(mm, broken, result);
    }
    result.map(|()| broken)
}

/// As [`unmerge`]; counts in `broken`.
fn unmerge_all(mm: &MmWithUser, which: &Which, broken: &mut u64) -> Result {
    let mut next = Some(0);
    while let Some(addr) = next {
        let before = *broken;
        next = unmerge_some(mm, which, addr, broken)?;
        if *broken == before && current!().signal_pending() {
            return Err(EINTR);
        }
        cond_resched();
    }
    Ok(())
}

/// Breaks some merged pages at and above `addr`, under the mmap lock; returns where to go on.
fn unmerge_some(
    mm: &MmWithUser,
    which: &Which,
    addr: usize,
    broken: &mut u64,
) -> Result<Option<usize>> {
    let _lock = mm.mmap_read_lock();
    // SAFETY: The mmap lock is held.
    let Some(vma) = NonNull::new(unsafe { bindings::find_vma(mm.as_raw(), addr) }) else {
        return Ok(None);
    };
    // SAFETY: As above: the area stays until the lock is dropped.
    let (vma, area) = unsafe {
        (
            StableVma::from_raw(vma),
            kernel::mm::virt::VmaRef::from_raw(vma.as_ptr()),
        )
    };
    let mut range = addr.max(area.start())..area.end();
    if !which.concerns(&vma) {
        return Ok(Some(range.end));
    }
    for _ in 0..FAULTS_PER_LOCK {
        let Some(at) = find_merged(&vma, which, range.clone()) else {
            return Ok(Some(range.end));
        };
        range.start = match unshare(&vma, at)? {
            // The fault may have been in vain (the entry changed meanwhile): look there again.
            Unshared::Done => at,
            Unshared::Impossible => at.saturating_add(PAGE_SIZE),
        };
        *broken = broken.saturating_add(1);
        if current!().signal_pending() {
            return Err(EINTR);
        }
    }
    Ok(Some(range.start))
}

/// The first address in `range` at which a page to break is mapped.
fn find_merged(vma: &StableVma<'_>, which: &Which, range: Range<usize>) -> Option<usize> {
    let mut finder = Finder { which, found: None };
    walk(vma, Held::MmapLock, range, &mut finder);
    finder.found
}

/// What became of an unsharing fault.
enum Unshared {
    /// It was handled.
    Done,
    /// There is no page any more: a file was truncated under a private mapping (which unmaps the
    /// page for us), or memory has failed.
    Impossible,
}

/// Gives the process of `vma` its own copy of the page at `addr`.
fn unshare(vma: &StableVma<'_>, addr: usize) -> Result<Unshared> {
    const IMPOSSIBLE: c_uint = bindings::vm_fault_reason_VM_FAULT_SIGBUS
        | bindings::vm_fault_reason_VM_FAULT_SIGSEGV
        | bindings::vm_fault_reason_VM_FAULT_HWPOISON;
    let flags = bindings::fault_flag_FAULT_FLAG_UNSHARE | bindings::fault_flag_FAULT_FLAG_REMOTE;
    // SAFETY: The caller holds the mmap lock, which these flags keep; the address is in the area.
    let fault =
        unsafe { bindings::handle_mm_fault(vma.as_ptr(), addr, flags, core::ptr::null_mut()) };
    if fault & bindings::vm_fault_reason_VM_FAULT_OOM != 0 {
        return Err(ENOMEM);
    }
    Ok(if fault & IMPOSSIBLE != 0 {
        Unshared::Impossible
    } else {
        Unshared::Done
    })
}

/// Stops at the first page to break.
struct Finder<'a> {
    which: &'a Which,
    found: Option<usize>,
}

impl Finder<'_> {
    fn stop(&mut self, addr: usize) -> ControlFlow<()> {
        self.found = Some(addr);
        ControlFlow::Break(())
    }
}

impl Visitor for Finder<'_> {
    fn page(&mut self, addr: usize, mapped: Mapped<'_>) -> ControlFlow<()> {
        if mapped.kind == Kind::Merged && self.which.includes(mapped.frame()) {
            self.stop(addr)
        } else {
            ControlFlow::Continue(())
        }
    }

    fn merged_zero(&mut self, zero: MergedZero) -> ControlFlow<()> {
        match self.which {
            Which::All => self.stop(zero.addr()),
            Which::On(_) | Which::NotRegistered => ControlFlow::Continue(()),
        }
    }
}
