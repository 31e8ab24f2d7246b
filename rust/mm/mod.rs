// SPDX-License-Identifier: GPL-2.0

//! Safe access to what merging needs of the kernel's memory management.
//!
//! One type for each right held. Data flows one way: [`process`] finds address spaces, [`vma`]
//! their areas, [`walk`] the pages that are mapped there; [`page`] is a page by its frame number;
//! [`merge`] replaces all mappings of one by another, found through the kernel's [`rmap`], and
//! [`neighbours`] many pages at once that have one mapping each; [`unmerge`] breaks them apart
//! again, where there is [`room`] for the copies, and [`breaks`] tells where the kernel does. Shared pages come out of a [`pool`]. [`policy`]
//! says what may be merged with what, [`refusal`] why something was not; [`movers`] are address spaces
//! that move pages themselves.
//!
//! # Lock order
//!
//! ```text
//! VMA lock, for reading                   (never waited for; walk, unmerge, neighbours; not in merge)
//!   folio locks of pages to replace       (trylock)
//!     anon_vma lock, for reading          (trylock; merge, neighbours), or by the kernel for
//!                                         writing (where a large page is split)
//!       mmu notifiers                     (non-blocking; by the kernel blocking, where it splits)
//!         page table lock
//!   mutexes of state, sets and pool       (crate::commons; that of the sets under that of the state)
//!   lock of the known movers              (a spinlock, within RCU; nothing is locked under it)
//! ```
//!
//! What may happen to a mapping meanwhile, and which lock forbids it, is said in [`merge`] and in
//! [`neighbours`].

mod anon_vmas;
mod breaks;
mod compare;
mod copy;
mod credentials;
pub(crate) mod merge;
pub(crate) mod movers;
pub(crate) mod neighbours;
pub(crate) mod page;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod process;
pub(crate) mod pte;
pub(crate) mod refusal;
pub(crate) mod rmap;
pub(crate) mod rmap_ksm;
pub(crate) mod room;
mod set_table;
pub(crate) mod shared;
pub(crate) mod sharers;
pub(crate) mod storage;
pub(crate) mod unmerge;
pub(crate) mod vma;
pub(crate) mod walk;
pub(crate) mod zero;

use kernel::ffi::c_ulong;

/// Less than one of so many pages is available: memory is short.
const SHORT: u64 = 8;

/// Percent of the last ten seconds in which some task waited for memory: it is short.
const WAITED: c_ulong = 10;

/// Whether tasks wait for memory, or little of it can be had without swapping.
pub(crate) fn is_memory_short() -> bool {
    is_waited_for() || is_little_available()
}

/// As `/proc/pressure/memory` has it, where the kernel counts that.
fn is_waited_for() -> bool {
    // SAFETY: May be called at any time.
    unsafe { crate::shim::ksm_v_memory_pressure() >= WAITED }
}

/// As `MemAvailable` of `/proc/meminfo` has it.
fn is_little_available() -> bool {
    // SAFETY: May be called at any time.
    let (available, total) = unsafe {
        (
            crate::shim::si_mem_available(),
            crate::shim::ksm_v_totalram_pages(),
        )
    };
    u64::try_from(available).unwrap_or(0) < total as u64 / SHORT
}

/// Empties the per-CPU batches of the LRU: their pages carry a reference that looks like a pin.
/// May sleep, and waits for workers on all CPUs.
pub(crate) fn drain_lru() {
    // SAFETY: Called by a thread that may sleep, with no lock held.
    unsafe { crate::shim::lru_add_drain_all() };
}

/// Empties those of this CPU: a page that waits there is not freed with its last mapping, nor moved.
pub(crate) fn drain_own_lru() {
    if rmap_ksm::is_redirected() {
        // SAFETY: May be called by any thread; the function was found then.
        unsafe { crate::shim::ksm_v_lru_add_drain() };
    }
}

/// A number that nobody can guess.
pub(crate) fn random() -> u64 {
    // SAFETY: May be called at any time; waits for nothing.
    unsafe { kernel::bindings::get_random_u64() }
}
