// SPDX-License-Identifier: GPL-2.0

//! Room for copies: asks for memory before it is taken, so that no process is killed because of the copies.
//!
//! C headers: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h),
//! [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)
//!
//! A copy that finds no memory would invoke an OOM killer: the host's, or the one of the process's cgroup.
//! So this first allocates and charges as many pages as some copies need, and a few more, in a way that
//! reclaims but never kills (`__GFP_NORETRY`), and frees them again. The copies are then allocated in a
//! [`NoKill`] scope, in which neither killer can be invoked. If others took the memory in between, the page
//! allocator uses its reserves, and the cgroup exceeds its limit by at most [`Room::PAGES`].

use crate::mm::page::PageRef;
use crate::mm::shortage::memory;
use crate::shim;
use core::ptr::NonNull;
use kernel::ffi::c_uint;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// Where memory is lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The host.
    Host,
    /// The memory cgroup of the process, or one of its ancestors.
    Cgroup,
}

/// Asks for room for copies.
pub(crate) struct Room {
    /// The pages allocated by a call of [`Room::ask`]; empty between calls.
    pages: KVec<PageRef>,
}

impl Room {
    /// Number of pages that there is room for after a successful [`Room::ask`].
    pub(crate) const PAGES: usize = 64;
    /// Number of further pages that must be available, for other processes in the cgroup.
    const SLACK: usize = 64;

    /// Makes a `Room`, with memory for its list of pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Room {
            pages: KVec::with_capacity(Self::PAGES + Self::SLACK, GFP_KERNEL)?,
        })
    }

    /// Asks for room for [`Self::PAGES`] further pages of `mm`. May sleep, and reclaims memory. The caller
    /// must hold no lock.
    ///
    /// # Errors
    ///
    /// Where memory is lacking. No process was killed.
    pub(crate) fn ask(&mut self, mm: &MmWithUser) -> Result<(), Lack> {
        let result = self.take(mm);
        self.pages.clear();
        result
    }

    /// Allocates and charges the pages; [`Self::ask`] frees them.
    fn take(&mut self, mm: &MmWithUser) -> Result<(), Lack> {
        if !has_host_margin() {
            return Err(Lack::Host);
        }
        let unthrottled = Unthrottled::begin();
        for _ in 0..Self::PAGES + Self::SLACK {
            // SAFETY: The caller of `ask` may sleep, as this allocation requires.
            let folio = unsafe { shim::ksm_v_folio_alloc(shim::KSM_V_GFP_ASK, 0) };
            let folio = NonNull::new(folio).ok_or(Lack::Host)?;
            // SAFETY: The folio was just allocated, and its reference is given to the `PageRef`.
            let page = unsafe { PageRef::from_new(folio) };
            unthrottled.renew();
            // SAFETY: The folio is new and referenced. An `MmWithUser` is in use.
            let charged = unsafe {
                shim::ksm_v_mem_cgroup_charge(folio.as_ptr(), mm.as_raw(), shim::KSM_V_GFP_ASK)
            };
            if charged != 0 {
                return Err(Lack::Cgroup);
            }
            // The push can't fail: `new` reserved room for all pages.
            let _ = self.pages.push_within_capacity(page);
        }
        Ok(())
    }
}

/// Whether the host has memory left for processes that get no copies. Without a margin, the next process
/// that allocates would be killed instead. Swap space counts as memory.
fn has_host_margin() -> bool {
    /// The margin is one page in this many pages of memory, but at least `LEAST`.
    const PART: u64 = 64;
    /// 16 MiB.
    const LEAST: u64 = 4096;
    let memory = memory();
    let left = memory.available.saturating_add(memory.free_swap);
    left >= (memory.total / PART)
        .max(LEAST)
        .saturating_add(Room::PAGES as u64)
}

/// A scope in which charges do not throttle this thread. With `memory.high` a cgroup throttles its own
/// tasks, but this thread is not one of them.
struct Unthrottled {
    before: c_uint,
    _nts: NotThreadSafe,
}

impl Unthrottled {
    /// Begins the scope.
    fn begin() -> Self {
        // SAFETY: The function reads a field of the calling task.
        let before = unsafe { shim::ksm_v_memcg_nr_pages_over_high() };
        Unthrottled {
            before,
            _nts: NotThreadSafe,
        }
    }

    /// Resets the counter that throttles. Must be called before each charge: a charge waits only after
    /// several others.
    fn renew(&self) {
        // SAFETY: The function writes a field of the calling task, which no other task uses.
        unsafe { shim::ksm_v_memcg_set_nr_pages_over_high(0) };
    }
}

impl Drop for Unthrottled {
    fn drop(&mut self) {
        // SAFETY: The scope is not sent to another thread, so this restores the field of the task that
        // `begin` read.
        unsafe { shim::ksm_v_memcg_set_nr_pages_over_high(self.before) };
    }
}

/// A scope in which allocations of this thread neither reclaim nor invoke an OOM killer. The page allocator
/// uses its reserves or fails; a memory cgroup accepts any charge.
pub(crate) struct NoKill {
    flags: c_uint,
    _unthrottled: Unthrottled,
    _nts: NotThreadSafe,
}

impl NoKill {
    /// Begins the scope. It must be short, and must not allocate more than [`Room`] was asked for.
    pub(crate) fn begin() -> Self {
        NoKill {
            // SAFETY: The function changes flags of the calling task. `drop` restores them, in the same
            // task.
            flags: unsafe { shim::ksm_v_memalloc_noreclaim_save() },
            _unthrottled: Unthrottled::begin(),
            _nts: NotThreadSafe,
        }
    }
}

impl Drop for NoKill {
    fn drop(&mut self) {
        // SAFETY: The flags are those that `begin` saved. The scope is not sent to another thread, so the
        // task is the same.
        unsafe { shim::ksm_v_memalloc_noreclaim_restore(self.flags) };
    }
}
