// SPDX-License-Identifier: GPL-2.0

//! Safe access to the kernel's memory management, as far as merging needs it.
//!
//! There is one type for each right held. Data flows one way:
//!
//! - Finding: [`process`] finds address spaces, [`vma`] their VMAs, and [`walk`] the pages that are mapped there.
//!   [`page`] is a page identified by its frame number, [`content`] its bytes. [`policy`] decides what may be merged
//!   with what, by [`credentials`] and [`family`].
//! - Merging, on some [`terms`]: [`merge`] replaces all mappings of a page, which it finds through the kernel's
//!   [`rmap`], by mappings of a [`shared`] page. [`neighbours`] replaces many pages at once that have one mapping
//!   each: those of one [`page_table`]. Both clear each [`entry`] after an invalidation of secondary MMUs
//!   ([`mmu_notifier`]), and then [`verify`] decides: it compares the bytes ([`compare`]), and replaces the mapping
//!   or restores it. A new shared page is made for a page and its [`twin`]. Both are [`split`] out of large pages.
//!   [`refusal`] says why a page was not merged.
//! - Shared pages are allocated from a [`pool`]. [`sharers`] records who maps them, and [`rmap_ksm`] walks these
//!   records for the kernel, whose functions are redirected to it ([`redirect`]). [`movable`] says whether the kernel
//!   may move them.
//! - Unmerging: [`unmerge`] breaks merged pages apart again, if there is [`room`] for the copies; [`breaks`] traces
//!   those that the kernel breaks apart. [`movers`] are address spaces that move pages themselves.
//!
//! # Lock order
//!
//! ```text
//! VMA lock, mmap lock, for reading        (trylock; walk, unmerge, neighbours; not in merge)
//!   folio locks                           (trylock; pages and shared pages, in any order)
//!     KNOWN                               (anon_vmas; allocates without reclaim)
//!     anon_vma lock, for reading          (trylock; merge, neighbours), or taken by the kernel for
//!                                         writing (when it splits a large page)
//!       task lock                         (family, process; a spinlock)
//!       VMA lock, mmap lock, for reading  (trylock; family)
//!       KNOWN
//!       mmu notifiers                     (non-blocking; split asks them so before the kernel splits)
//!         page table lock
//!           MOVERS                        (movers; a spinlock, under which nothing is locked)
//!   mutex of the state                    (crate::scan::turns)
//! mutex of the state                      (crate::scan::turns)
//!   mutex of the sets                     (crate::scan::sets)
//!     GIVING_UP                           (sharers::lifetime)
//!       folio lock of a shared page       (trylock)
//!         anon_vma lock, for reading      (trylock; drops stale records, without GIVING_UP)
//!         KNOWN
//!         IN_USE                          (sharers::lifetime)
//!           FREE                          (set_table)
//! mutex of the pool                       (crate::scan::turns; not under state or sets, nothing under it)
//! ```
//!
//! Any of these may be skipped. State, sets, pool, `FREE` and `IN_USE` are held over allocations that reclaim, so
//! they are not acquired under an anon_vma lock. `Documentation/design.md` has the whole order.
//!
//! [`merge`] and [`neighbours`] explain what may happen to a mapping at the same time, and which lock prevents
//! it.

mod anon_vmas;
mod breaks;
mod compare;
pub(crate) mod content;
mod copy;
mod credentials;
mod entry;
mod family;
mod lru;
mod merge;
mod mmu_notifier;
pub(crate) mod movable;
pub(crate) mod movers;
pub(crate) mod neighbours;
pub(crate) mod page;
pub(crate) mod page_table;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod process;
mod redirect;
pub(crate) mod refusal;
pub(crate) mod rmap;
mod rmap_ksm;
pub(crate) mod room;
mod set_table;
pub(crate) mod shared;
pub(crate) mod sharers;
pub(crate) mod shortage;
mod split;
pub(crate) mod storage;
mod task;
pub(crate) mod terms;
pub(crate) mod twin;
pub(crate) mod unmerge;
pub(crate) mod verify;
pub(crate) mod vma;
pub(crate) mod walk;
pub(crate) mod zero;

pub(crate) use lru::drain_lru;
pub(crate) use lru::drain_own_lru;

/// What this module puts into the kernel from load to unload, in the order of teardown.
pub(crate) struct Hooks {
    _movers: movers::Watch,
    _sharers: sharers::Tables,
    _marks: zero::Marks,
}

impl Hooks {
    /// Must be called once, before anything else in `rust/mm` is used.
    pub(crate) fn begin() -> Self {
        let sharers = sharers::Tables::begin();
        Hooks {
            _movers: movers::Watch::begin(),
            _sharers: sharers,
            _marks: zero::Marks,
        }
    }
}
