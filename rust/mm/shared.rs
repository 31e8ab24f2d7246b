// SPDX-License-Identifier: GPL-2.0

//! The shared page: a KSM page without a stable node.
//!
//! Mainline itself uses that state for a moment in `try_to_merge_one_page()`, and everything that
//! handles KSM pages copes with it: a write always copies, a long-term pin unshares. Who maps it is known
//! by its [set](crate::mm::sharers), which the kernel is led to where it would ask the stable node. So it is
//! on an LRU list, as any anonymous page is, and moved and swapped as those are; unless the kernel allows no
//! such redirect, or the administrator wants pages to stay on the frame that was drawn for them.
//!
//! It is always on a frame drawn from the [pool](crate::mm::pool), never on a candidate's own: so nobody can
//! prepare the frame on which others' data will end up (Flip Feng Shui).

use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::page::StillPage;
use crate::mm::refusal::Refusal;
use crate::mm::rmap_ksm;
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
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;

/// Whether new shared pages are to be movable, where they can be.
static IS_WANTED: Atomic<bool> = Atomic::new(true);

/// Whether there may be shared pages that the kernel can't move.
static IS_ANY_FIXED: Atomic<bool> = Atomic::new(false);

/// Whether new shared pages are movable.
pub(crate) fn is_movable() -> bool {
    rmap_ksm::is_redirected() && IS_WANTED.load(Relaxed)
}

/// Has new shared pages be movable or not.
///
/// # Errors
///
/// `EOPNOTSUPP`: this kernel can't move them.
pub(crate) fn set_movable(is_wanted: bool) -> Result {
    if is_wanted && !rmap_ksm::is_redirected() {
        // The kernel crate of 7.2 has no name for it.
        return Err(Error::from_errno(-(bindings::EOPNOTSUPP as i32)));
    }
    IS_WANTED.store(is_wanted, Relaxed);
    Ok(())
}

/// Whether there may be shared pages that the kernel can't move.
pub(crate) fn is_any_fixed() -> bool {
    IS_ANY_FIXED.load(Relaxed)
}

/// Takes note that there is no shared page left.
pub(super) fn note_none() {
    IS_ANY_FIXED.store(false, Relaxed);
}

/// A reference to a shared page.
///
/// # Invariants
///
/// The page is a KSM page without a stable node, of the set `id`, and stays a KSM page until it is freed:
/// only ksmd sets stable nodes, and only of pages that it is just merging itself. As long as it is
/// referenced it stays on its frame, if it is there still.
pub(crate) struct SharedPage {
    page: PageRef,
    id: SetId,
}

impl SharedPage {
    /// Takes a reference to the shared page of this name, if there is one.
    fn get(name: Frame) -> Option<Self> {
        let id = SetId::of_name(name);
        // INVARIANT: Checked there, with the reference held.
        sharers::page(id).map(|page| SharedPage { page, id })
    }

    /// As [`Self::get`], to merge into it.
    ///
    /// # Errors
    ///
    /// [`Refusal::TargetGone`]: it has gone, or its memory has failed. [`Refusal::Busy`]: it is being moved.
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
        let name = page.token().filter(|token| token.is_known())?.name()?;
        // INVARIANT: Checked here, with the reference held.
        Some(SharedPage {
            page,
            id: SetId::of_name(name),
        })
    }

    /// The name under which the engine knows it, which stays wherever it is moved.
    pub(crate) fn name(&self) -> Frame {
        self.id.name()
    }

    /// Locks it, to have more sharers.
    ///
    /// # Errors
    ///
    /// [`Refusal::Busy`]: somebody has it locked, or has just moved it elsewhere.
    pub(super) fn try_lock(&self) -> Result<LockedShared<'_>, Refusal> {
        let page = self.page.try_lock().ok_or(Refusal::Busy)?;
        let set: *const Set = sharers::of(&page).ok_or(Refusal::Busy)?;
        // SAFETY: The set stays as long as the page is locked, which `page` says.
        let set = unsafe { &*set };
        // INVARIANT: As was just seen.
        Ok(LockedShared {
            shared: self,
            set,
            _page: page,
        })
    }

    /// The content, which nobody can change any more.
    pub(super) fn still_content(&self) -> StillPage<'_> {
        // SAFETY: Whoever writes to a KSM page copies it first; this module has filled it before,
        // being the only one who knew it.
        unsafe { StillPage::new(self.content()) }
    }

    /// Copies the content of `original` to this page, which must not be mapped anywhere.
    ///
    /// # Errors
    ///
    /// [`Refusal::Failed`]: the memory of `original` can't be read, and this page is not to be used.
    /// The kernel takes the frame out of use soon; it must not be read again before.
    pub(super) fn fill(&self, original: &PageRef) -> Result<(), Refusal> {
        // SAFETY: Both pages are referenced.
        match unsafe { shim::ksm_v_copy_mc_highpage(self.as_ptr(), original.as_ptr()) } {
            0 => Ok(()),
            _ => Err(Refusal::Failed),
        }
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

/// A shared page that is new: it goes with the last reference unless something comes to map it.
pub(crate) struct NewShared {
    shared: SharedPage,
    is_movable: bool,
    /// Whether something maps it.
    is_settled: Cell<bool>,
}

impl NewShared {
    /// Makes a new shared page of `page`, drawn from the [pool](crate::mm::pool) and mapped nowhere yet, whose
    /// content is to come.
    ///
    /// It is charged to the memory cgroup of `mm`, as any anonymous page of it. That may bring the group
    /// above its limit, for a moment: until the page that it replaces is freed, which is charged likewise.
    /// So nothing is reclaimed for it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV`: the module is being unloaded.
    pub(crate) fn new(mm: &MmWithUser, page: PageRef) -> Result<Self> {
        let folio = page.folio();
        let id = sharers::new(&page)?;
        // INVARIANT: So it is made below; nobody knows it before.
        let new = NewShared {
            shared: SharedPage { page, id },
            is_movable: is_movable(),
            is_settled: Cell::new(false),
        };
        // SAFETY: The folio is referenced and known to nobody else, the mm in use.
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
            // Its content is nowhere else: as `try_to_merge_one_page()` does.
            bindings::folio_mark_dirty(folio);
        }
        Ok(new)
    }

    /// Puts the page on an LRU list, now that it is mapped, as one that was just used. To be called once,
    /// by its maker.
    pub(super) fn settle(&self) {
        self.is_settled.set(true);
        if !self.is_movable {
            IS_ANY_FIXED.store(true, Relaxed);
            return;
        }
        // SAFETY: The folio is referenced, charged, and on no list yet: only this does that, once.
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

/// A shared page whose folio lock is held, and which is where it is for certain.
///
/// # Invariants
///
/// `set` is that of the page, and stays as long as the page is locked.
pub(super) struct LockedShared<'a> {
    shared: &'a SharedPage,
    set: &'a Set,
    _page: LockedPage<'a>,
}

impl LockedShared<'_> {
    /// Records that the area of `base` comes to map it at `addr`; so it does until this is dropped, and from
    /// [`Sharer::keep`] on.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoMemory`]; [`Refusal::LeftAlone`]: it can't be recorded.
    pub(super) fn add(&self, base: &Base<'_>, addr: usize) -> Result<Sharer<'_>, Refusal> {
        // SAFETY: By the type invariant. Nobody else has the page locked, and this borrows no records.
        let record = unsafe { sharers::add(self.set, base, addr) };
        let record = record.map_err(refusal)?;
        // Its last sharer may have freed it lazily (`MADV_FREE`), so that reclaim would drop it for all. A
        // page that is dirty is kept; and `madvise()` cleans none that is locked or mapped twice.
        // SAFETY: The folio is referenced.
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

/// Why a sharer can't be recorded.
pub(super) fn refusal(error: Error) -> Refusal {
    match error {
        ERANGE => Refusal::LeftAlone,
        _ => Refusal::NoMemory,
    }
}

/// A mapping that is about to be made of a shared page, and is recorded already.
pub(super) struct Sharer<'a> {
    shared: &'a LockedShared<'a>,
    /// The record, where it is a new one and not kept yet.
    record: Cell<Option<Record>>,
}

impl Sharer<'_> {
    /// The page.
    pub(super) fn shared(&self) -> &SharedPage {
        self.shared
    }

    /// Takes note that the mapping has been made.
    pub(super) fn keep(&self) {
        self.record.set(None);
    }
}

impl Drop for Sharer<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            // SAFETY: As in `add`, which made the record.
            unsafe { sharers::take_back(self.shared.set, record) };
        }
    }
}

/// How many page table entries map the shared page of this name; `None` where there is none.
pub(crate) fn mappings(name: Frame) -> Option<u32> {
    SharedPage::get(name).map(|page| page.mappings())
}

/// As [`mappings`], and gives up what is known of a page that has gone; see [`sharers::count`].
pub(crate) fn count(name: Frame) -> Option<u32> {
    sharers::count(SetId::of_name(name))
}

/// The frame of the shared page of this name; 0 where there is none.
pub(crate) fn frame_of(name: Frame) -> Frame {
    SharedPage::get(name).map_or(Frame(0), |page| page.frame())
}
