// SPDX-License-Identifier: GPL-2.0

//! Room for copies: asks for memory before it is taken, so that nobody is killed for want of it.
//!
//! C headers: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h),
//! [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)
//!
//! A copy that finds no memory ends in an OOM killer: the host's, or that of the process's cgroup.
//! So as many pages as some copies take, and a few more, are allocated and charged in a way that
//! reclaims but never kills (`__GFP_NORETRY`), and freed again. The copies are then taken in a [`NoKill`]
//! scope, in which neither killer can be called: what others took meanwhile is made up for by the
//! page allocator's reserves, and by a cgroup that exceeds its limit by at most [`Room::PAGES`].

use crate::mm::page::PageRef;
use crate::shim;
use core::ptr::NonNull;
use kernel::ffi::c_uint;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// Who has no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The host.
    Host,
    /// The memory cgroup of the process, or one above it.
    Cgroup,
}

/// Pages that are asked for.
pub(crate) struct Room {
    /// Empty between two calls of [`Room::ask`].
    pages: KVec<PageRef>,
}

impl Room {
    /// Pages that a successful [`Room::ask`] finds room for.
    pub(crate) const PAGES: usize = 64;
    /// Pages that it leaves to the others in a cgroup.
    const SLACK: usize = 64;

    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Room {
            pages: KVec::with_capacity(Self::PAGES + Self::SLACK, GFP_KERNEL)?,
        })
    }

    /// Asks for room for [`Self::PAGES`] further pages of `mm`. May sleep, and reclaims. Called with no
    /// lock held.
    ///
    /// # Errors
    ///
    /// Who has none. Nobody was killed.
    pub(crate) fn ask(&mut self, mm: &MmWithUser) -> Result<(), Lack> {
        let result = self.take(mm);
        self.pages.clear();
        result
    }

    fn take(&mut self, mm: &MmWithUser) -> Result<(), Lack> {
        if !has_host_margin() {
            return Err(Lack::Host);
        }
        let unthrottled = Unthrottled::begin();
        for _ in 0..Self::PAGES + Self::SLACK {
            // SAFETY: May be called by who may sleep.
            let folio = unsafe { shim::ksm_v_folio_alloc(shim::KSM_V_GFP_ASK, 0) };
            let folio = NonNull::new(folio).ok_or(Lack::Host)?;
            // SAFETY: The folio was just allocated, and is nobody else's.
            let page = unsafe { PageRef::from_new(folio) };
            unthrottled.renew();
            // SAFETY: As above; the mm is in use.
            let charged = unsafe {
                shim::ksm_v_mem_cgroup_charge(folio.as_ptr(), mm.as_raw(), shim::KSM_V_GFP_ASK)
            };
            if charged != 0 {
                return Err(Lack::Cgroup);
            }
            // There is room.
            let _ = self.pages.push_within_capacity(page);
        }
        Ok(())
    }
}

/// Whether the host has memory left for others than those who get copies now: without a margin, the
/// next one who allocates would be killed in our place. Swap space counts as memory.
fn has_host_margin() -> bool {
    /// One of so many pages of all memory.
    const PART: u64 = 64;
    /// 16 MiB.
    const LEAST: u64 = 4096;
    // SAFETY: May be called at any time.
    let (available, swap, total) = unsafe {
        (
            shim::si_mem_available(),
            shim::ksm_v_get_nr_swap_pages(),
            shim::ksm_v_totalram_pages(),
        )
    };
    let left = available.max(0).saturating_add(swap.max(0)) as u64;
    left >= (total as u64 / PART)
        .max(LEAST)
        .saturating_add(Room::PAGES as u64)
}

/// A scope in which this thread's charges don't have it wait: by `memory.high` a group throttles its
/// own tasks, of which the thread is none.
struct Unthrottled {
    before: c_uint,
    _nts: NotThreadSafe,
}

impl Unthrottled {
    fn begin() -> Self {
        // SAFETY: Of the calling task.
        let before = unsafe { shim::ksm_v_memcg_nr_pages_over_high() };
        Unthrottled {
            before,
            _nts: NotThreadSafe,
        }
    }

    /// To be called before each charge: a charge waits only after several others.
    fn renew(&self) {
        // SAFETY: Of the calling task.
        unsafe { shim::ksm_v_memcg_set_nr_pages_over_high(0) };
    }
}

impl Drop for Unthrottled {
    fn drop(&mut self) {
        // SAFETY: Of the calling task.
        unsafe { shim::ksm_v_memcg_set_nr_pages_over_high(self.before) };
    }
}

/// A scope in which an allocation by this thread neither reclaims nor calls an OOM killer: the page
/// allocator takes from its reserves or fails, a memory cgroup lets itself be charged.
pub(crate) struct NoKill {
    flags: c_uint,
    _unthrottled: Unthrottled,
    _nts: NotThreadSafe,
}

impl NoKill {
    /// Begins the scope. It is to be short, and to take no more than [`Room`] was asked for.
    pub(crate) fn begin() -> Self {
        NoKill {
            // SAFETY: Of the calling task; undone in `drop`, by the same task.
            flags: unsafe { shim::ksm_v_memalloc_noreclaim_save() },
            _unthrottled: Unthrottled::begin(),
            _nts: NotThreadSafe,
        }
    }
}

impl Drop for NoKill {
    fn drop(&mut self) {
        // SAFETY: The flags are those of `begin`, of the same task.
        unsafe { shim::ksm_v_memalloc_noreclaim_restore(self.flags) };
    }
}
