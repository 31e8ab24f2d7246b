// SPDX-License-Identifier: GPL-2.0

//! The shared page: a KSM page without a stable node.
//!
//! Mainline uses that state for a moment, too, in `try_to_merge_one_page()`, so everything that handles KSM
//! pages copes with it: a write always copies, a long-term pin unshares. The page's
//! [set](crate::mm::sharers) records who maps it; the kernel is redirected to the set where it would use
//! the stable node. So a shared page is on an LRU list, as any anonymous page is, and is migrated and
//! swapped out like one. There are two exceptions: the kernel does not allow the redirect, or the
//! administrator wants shared pages to stay on their frames.
//!
//! A shared page is always on a frame drawn from the [pool](crate::mm::pool), never on the frame of one of
//! the merged pages. So nobody can choose the frame on which the data of others will end up (Flip Feng
//! Shui).

use crate::mm::content::StillPage;
use crate::mm::movable;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::refusal::Refusal;
use crate::mm::room::NoKill;
use crate::mm::sharers;
use crate::mm::sharers::Base;
use crate::mm::sharers::Record;
use crate::mm::sharers::Set;
use crate::mm::sharers::SetId;
use crate::shim;
use core::cell::Cell;
use core::ops::Deref;
use engine::Frame;
use kernel::bindings;
use kernel::error::to_result;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

/// A reference to a shared page.
///
/// # Invariants
///
/// The page is a KSM page without a stable node, and belongs to the set `id`. It stays a KSM page until it
/// is freed: only ksmd sets stable nodes, and only of pages that it is merging itself. If it is still on
/// its frame, it stays there while it is referenced.
pub(crate) struct SharedPage {
    page: PageRef,
    id: SetId,
}

impl SharedPage {
    /// Takes a reference to the shared page with this name, if there is one, as `ksm_get_folio()` in `mm/ksm.c` does
    /// by stable node.
    fn get(name: Frame) -> Option<Self> {
        let id = SetId::of_name(name);
        // INVARIANT: `sharers::page` returns a page whose token is the one of this set, checked with the
        // reference held.
        sharers::page(id).map(|page| SharedPage { page, id })
    }

    /// As [`Self::get`], for a page that others are to be merged into.
    ///
    /// # Errors
    ///
    /// [`Refusal::TargetGone`]: the page is gone, or its memory has failed. [`Refusal::Busy`]: it is being
    /// moved.
    pub(crate) fn target(name: Frame) -> Result<Self, Refusal> {
        match Self::get(name) {
            Some(page) if page.is_poisoned() => Err(Refusal::TargetGone),
            Some(page) => Ok(page),
            None if sharers::is_on_the_move(SetId::of_name(name)) => Err(Refusal::Busy),
            None => Err(Refusal::TargetGone),
        }
    }

    /// Takes a reference to the shared page on `frame`, if there is one.
    pub(crate) fn on(frame: Frame) -> Option<Self> {
        let page = PageRef::get(frame)?;
        let name = page
            .token()
            .filter(|&token| sharers::is_known(token))?
            .name()?;
        // INVARIANT: The page's token was checked above, with the reference held.
        Some(SharedPage {
            page,
            id: SetId::of_name(name),
        })
    }

    /// The name that identifies the page in the engine. It does not change when the page is moved.
    pub(crate) fn name(&self) -> Frame {
        self.id.name()
    }

    /// Locks the page so that sharers can be added.
    ///
    /// # Errors
    ///
    /// [`Refusal::Busy`]: the folio is locked by somebody else, or has just been migrated away.
    pub(super) fn try_lock(&self) -> Result<LockedShared<'_>, Refusal> {
        let page = self.page.try_lock().ok_or(Refusal::Busy)?;
        let set: *const Set = sharers::of(&page).ok_or(Refusal::Busy)?;
        // SAFETY: `sharers::of` returned the set of the locked `page`. A set stays in use while its page is
        // locked, and the lock lives as long as the result.
        let set = unsafe { &*set };
        // INVARIANT: `sharers::of` returned the set of this page, which is locked.
        Ok(LockedShared {
            shared: self,
            set,
            _page: page,
        })
    }

    /// The content, which nobody changes any more.
    pub(super) fn still_content(&self) -> StillPage<'_> {
        // SAFETY: By the type invariant this is a KSM page, and a write to a KSM page copies it first. This
        // module wrote its content before anything mapped it.
        unsafe { StillPage::new(self.content()) }
    }
}

impl Deref for SharedPage {
    type Target = PageRef;

    fn deref(&self) -> &PageRef {
        &self.page
    }
}

impl From<SharedPage> for PageRef {
    fn from(shared: SharedPage) -> PageRef {
        shared.page
    }
}

/// A shared page that is new. It is freed with the last reference unless something maps it.
pub(crate) struct NewShared {
    shared: SharedPage,
    is_movable: bool,
    /// Whether something maps it.
    is_settled: Cell<bool>,
}

impl NewShared {
    /// Makes a new shared page of `page`, which was drawn from the [pool](crate::mm::pool) and is mapped
    /// nowhere. The caller fills it later.
    ///
    /// The page is charged to the memory cgroup of `mm`, as any anonymous page of `mm` is. The charge may
    /// exceed the limit of the group until the replaced page is freed, which is charged there, too. So
    /// nothing is reclaimed for it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV`: the module is being unloaded.
    pub(crate) fn new(mm: &MmWithUser, page: PageRef) -> Result<Self> {
        let folio = page.folio();
        let id = sharers::new(&page)?;
        // INVARIANT: The folio becomes a KSM folio without a stable node below; nobody else knows it
        // before. `id` is its set.
        let new = NewShared {
            shared: SharedPage { page, id },
            is_movable: movable::is_movable(),
            is_settled: Cell::new(false),
        };
        // SAFETY: `new` owns a reference to the folio, which nobody else knows, so its flags and its
        // mapping may be written non-atomically. An `MmWithUser` is in use.
        unsafe {
            let _scope = NoKill::begin();
            to_result(shim::ksm_v_mem_cgroup_charge(
                folio,
                mm.as_raw(),
                shim::KSM_V_GFP_SHARED,
            ))?;
            shim::ksm_v_folio_mark_uptodate(folio);
            shim::ksm_v_folio_set_swapbacked(folio);
            shim::ksm_v_folio_set_raw_mapping(folio, shim::KSM_V_FOLIO_MAPPING_KSM);
            // The content exists nowhere else, so the page must be dirty: as in `try_to_merge_one_page()`.
            bindings::folio_mark_dirty(folio);
        }
        Ok(new)
    }

    /// Copies the content of `original` to this page. Called before the page is mapped: each page that
    /// it replaces is compared with it first.
    ///
    /// # Errors
    ///
    /// [`Refusal::Failed`]: the memory of `original` can't be read. This page must not be used then, and
    /// `original` must not be read again: the kernel takes its frame out of use soon.
    pub(super) fn fill(&self, original: &PageRef) -> Result<(), Refusal> {
        // SAFETY: Each of the two `PageRef`s owns a reference to its page, so both pages exist.
        match unsafe { shim::ksm_v_copy_mc_highpage(self.as_ptr(), original.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Refusal::Failed),
        }
    }

    /// Puts the page on an LRU list as an active page. Must be called once, by the maker of the page, when
    /// something maps it.
    pub(super) fn settle(&self) {
        self.is_settled.set(true);
        if !self.is_movable {
            movable::note_fixed();
            return;
        }
        // SAFETY: The folio is referenced, charged, and on no list: only this function adds it, and is
        // called once.
        unsafe {
            shim::ksm_v_folio_set_active(self.folio());
            shim::folio_add_lru(self.folio());
        }
    }
}

impl Deref for NewShared {
    type Target = SharedPage;

    fn deref(&self) -> &SharedPage {
        &self.shared
    }
}

impl Drop for NewShared {
    fn drop(&mut self) {
        if !self.is_settled.get() {
            sharers::give_up_new(self.shared.id);
        }
    }
}

/// A shared page whose folio lock is held, and which is certainly on its frame.
///
/// # Invariants
///
/// `set` is the set of the page, and stays in use while the page is locked.
pub(super) struct LockedShared<'a> {
    shared: &'a SharedPage,
    set: &'a Set,
    _page: LockedPage<'a>,
}

impl LockedShared<'_> {
    /// Records that the VMA of `base` maps the page at `addr`. The record is removed when the result is
    /// dropped, unless [`Sharer::keep`] was called.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoMemory`]; [`Refusal::LeftAlone`]: the sharer can't be recorded.
    pub(super) fn add(&self, base: &Base<'_>, addr: usize) -> Result<Sharer<'_>, Refusal> {
        // SAFETY: By the type invariant `set` is the set of this page, whose folio lock is held. Nothing
        // here borrows records.
        let record = unsafe { sharers::add(self.set, base, addr) };
        let record = record.map_err(refusal)?;
        // The last sharer may have freed the page lazily (`MADV_FREE`), and then reclaim would drop it for
        // all new sharers. Reclaim keeps a dirty page, and `madvise()` cleans no page that is locked or
        // mapped twice.
        // SAFETY: `self.shared` owns a reference to the folio, so the folio is valid.
        unsafe { bindings::folio_mark_dirty(self.folio()) };
        Ok(Sharer {
            shared: self,
            record: Cell::new(record),
        })
    }
}

impl Deref for LockedShared<'_> {
    type Target = SharedPage;

    fn deref(&self) -> &SharedPage {
        self.shared
    }
}

/// The refusal for an error of recording a sharer.
pub(super) fn refusal(error: Error) -> Refusal {
    match error {
        ERANGE => Refusal::LeftAlone,
        _ => Refusal::NoMemory,
    }
}

/// A mapping of a shared page that is about to be made, and is already recorded.
pub(super) struct Sharer<'a> {
    shared: &'a LockedShared<'a>,
    /// The record, if it is new and not kept yet.
    record: Cell<Option<Record>>,
}

impl Sharer<'_> {
    /// The page.
    pub(super) fn shared(&self) -> &SharedPage {
        self.shared
    }

    /// Keeps the record, because the mapping is made.
    pub(super) fn keep(&self) {
        self.record.set(None);
    }
}

impl Drop for Sharer<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            // SAFETY: By the invariant of `LockedShared` the set is the one of this page, whose folio lock
            // is still held. Nothing here borrows records.
            unsafe { sharers::take_back(self.shared.set, record) };
        }
    }
}

/// The number of page table entries that map the shared page of this name; `None` if there is no such page.
pub(crate) fn mappings(name: Frame) -> Option<u32> {
    SharedPage::get(name).map(|page| page.mappings())
}

/// As [`mappings`], but gives up the set of a page that is gone; see [`sharers::count`].
pub(crate) fn count(name: Frame) -> Option<u32> {
    sharers::count(SetId::of_name(name))
}

/// The frame of the shared page of this name; 0 if there is no such page.
pub(crate) fn frame_of(name: Frame) -> Frame {
    SharedPage::get(name).map_or(Frame(0), |page| page.frame())
}
