// SPDX-License-Identifier: GPL-2.0

//! Replaces the mappings of a page by mappings of an equal shared page.
//!
//! All mappings of a page are found through the kernel's own rmap, under the folio lock and the
//! anon_vma lock. No lock of any address space is held, so for every mapping, what if right now …
//!
//! - the process exits, unmaps or discards the page? Each takes the page table lock to remove the
//!   entry: before us, and we do not find it; or after us, and it removes our new mapping. The
//!   area and the mm stay until the anon_vma lock is dropped (`unlink_anon_vmas()` wants it). The
//!   anon_vma itself is freed with the last of its areas: `folio_lock_anon_vma_read()` looks,
//!   under RCU, whether the page is still mapped, which nothing else here tells.
//! - the process forks? Copying an entry takes the lock of its page table too. A child's entry
//!   that we miss keeps mapping the old page, which stays as long as it is mapped.
//! - `mremap()` moves the entry? As above: found at the old or the new place, or missed.
//! - the page is swapped out or migrated? Both want the folio lock, which we hold.
//! - a thread writes to the page? The entry is cleared and flushed before its bytes are compared,
//!   and the page table lock held until it is set again: the write faults and waits, then copies
//!   the shared page, or finds its own page as it was.
//! - the kernel or a device writes to it (O_DIRECT, RDMA, ptrace)? Such a write has taken a
//!   reference to the page. One taken under the page table lock, or before the entry was cleared,
//!   is counted by [`Replacement::is_pinned`] after the flush; one by `get_user_pages_fast()`
//!   after that sees the entry cleared and is given back.

use crate::mm::page::Kind;
use crate::mm::page::LockedPage;
use crate::mm::page::MappedPage;
use crate::mm::page::PageRef;
use crate::mm::policy::Policy;
use crate::mm::pool::Pool;
use crate::mm::process::Owner;
use crate::mm::pte::Cleared;
use crate::mm::pte::Invalidation;
use crate::mm::pte::MappedEntry;
use crate::mm::shared::SharedPage;
use crate::mm::vma::StableVma;
use crate::shim;
use core::ptr::NonNull;
use engine::content::same;
use engine::Content;
use engine::Domain;
use engine::Frame;
use kernel::bindings;
use kernel::ffi::c_ulong;
use kernel::ffi::c_void;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::rcu;

/// Why a page was not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The page to merge is no unmerged anonymous page any more.
    Gone,
    /// What it was to be merged with is not there any more.
    TargetGone,
    /// Someone else has locked one of the two, or it can't be split just now.
    Busy,
    /// Something other than page tables refers to it.
    Pinned,
    /// The contents differ.
    Different,
    /// They are equal, and not what was expected: both have changed.
    Changed,
    /// No mapping of it may be merged.
    LeftAlone,
    /// The shared page would have more mappings than it may have.
    Full,
    /// There is no memory for a shared page.
    NoMemory,
}

impl Refusal {
    /// What it means for the page to merge if its target refuses: one that will go on refusing is
    /// as good as gone.
    fn of_target(self) -> Self {
        match self {
            Refusal::Gone | Refusal::Pinned | Refusal::LeftAlone => Refusal::TargetGone,
            other => other,
        }
    }
}

/// For whom pages are merged.
pub(crate) struct Terms<'a> {
    /// The rules in force.
    pub(crate) policy: Policy,
    /// The domain to which every mapping must belong.
    pub(crate) domain: Domain,
    /// The address space that a new shared page is charged to.
    pub(crate) mm: &'a MmWithUser,
    /// How many page table entries may be made to map a shared page.
    pub(crate) max_page_sharing: u32,
}

impl Terms<'_> {
    /// Merges `frame` and `twin`, if their content is as expected, into a new shared page out of
    /// `pool`; returns that.
    pub(crate) fn share(
        &self,
        pool: &mut Pool,
        frame: Frame,
        twin: Frame,
        is_expected: impl FnOnce(&MappedPage<'_>) -> bool,
    ) -> Result<SharedPage, Refusal> {
        let page = PageRef::candidate(frame).ok_or(Refusal::Gone)?;
        let twin = PageRef::candidate(twin).ok_or(Refusal::TargetGone)?;
        self.check_few(&page)?;
        self.check_few(&twin).map_err(Refusal::of_target)?;
        if !same(&page.content(), &twin.content()) {
            return Err(Refusal::Different);
        }
        let shared = SharedPage::copy_of(&page, self.mm, pool).map_err(|_| Refusal::NoMemory)?;
        // Of the copy, which nobody can change any more.
        if !is_expected(&shared.content()) {
            return Err(Refusal::Changed);
        }
        // The twin first: its frame may have come to someone who is left alone, of whose pages
        // nothing must tell, not even that another's became a shared one.
        self.replace_by(&twin, &shared)
            .map_err(Refusal::of_target)?;
        // If the page refuses, the twin is the only sharer until the next equal page comes.
        let _ = self.replace_by(&page, &shared);
        Ok(shared)
    }

    /// Merges `frame` into the shared page on `shared`; returns that.
    pub(crate) fn join(&self, frame: Frame, shared: Frame) -> Result<SharedPage, Refusal> {
        let page = PageRef::candidate(frame).ok_or(Refusal::Gone)?;
        let shared = SharedPage::readable(shared).ok_or(Refusal::TargetGone)?;
        self.check_few(&page)?;
        if page.mappings().saturating_add(shared.mappings()) > self.max_page_sharing {
            return Err(Refusal::Full);
        }
        self.replace_by(&page, &shared)?;
        Ok(shared)
    }

    /// Leaves pages alone that many processes share since a fork: two of them would be too many
    /// mappings for one shared page. (A fork may add to them meanwhile, as to any shared page.)
    fn check_few(&self, page: &PageRef) -> Result<(), Refusal> {
        if page.mappings() <= self.max_page_sharing / 2 {
            Ok(())
        } else {
            Err(Refusal::LeftAlone)
        }
    }

    /// Merges `frame`, if it is full of zeroes, into the kernel's zero page.
    pub(crate) fn join_zero(&self, frame: Frame) -> Result<(), Refusal> {
        let page = PageRef::candidate(frame).ok_or(Refusal::Gone)?;
        if !page.content().is_zero() {
            return Err(Refusal::Different);
        }
        let page = page.try_lock().ok_or(Refusal::Busy)?;
        self.replace(&page, &Equal::Zero)
    }

    /// Replaces what mappings of `page` it may by mappings of `shared`.
    fn replace_by(&self, page: &PageRef, shared: &SharedPage) -> Result<(), Refusal> {
        // A huge page is not split for what is different anyway.
        if page.is_large() && !same(&page.content(), &shared.content()) {
            return Err(Refusal::Different);
        }
        let page = page.try_lock().ok_or(Refusal::Busy)?;
        let shared = shared.try_lock().ok_or(Refusal::Busy)?;
        self.replace(&page, &Equal::Shared(&shared))
    }

    /// Replaces what mappings of `page` it may; an error where that is none.
    fn replace(&self, page: &LockedPage<'_>, equal: &Equal<'_>) -> Result<(), Refusal> {
        // Its kind may have changed before it was locked.
        if page.kind() != Kind::Anonymous {
            return Err(Refusal::Gone);
        }
        page.split().map_err(|_| Refusal::Busy)?;
        let mut replacement = Replacement {
            terms: self,
            page,
            equal,
            replaced: false,
            refusal: Refusal::Gone,
        };
        replacement.walk();
        page.free_swap_if_unmapped();
        if replacement.replaced {
            Ok(())
        } else {
            Err(replacement.refusal)
        }
    }
}

/// What a page is replaced by.
enum Equal<'a> {
    /// A shared page.
    Shared(&'a LockedPage<'a>),
    /// The zero page.
    Zero,
}

/// The replacement of one page, in all its mappings.
struct Replacement<'a> {
    terms: &'a Terms<'a>,
    page: &'a LockedPage<'a>,
    equal: &'a Equal<'a>,
    replaced: bool,
    /// Why the last mapping that was not replaced was not.
    refusal: Refusal,
}

impl Replacement<'_> {
    /// Visits all mappings of the page.
    fn walk(&mut self) {
        let folio = self.page.folio();
        let mut control = shim::rmap_walk_control {
            arg: core::ptr::from_mut(self).cast(),
            try_lock: true,
            contended: false,
            rmap_one: Some(Self::rmap_one),
            done: None,
            // The folio lock and a reference do not keep the anon_vma: the last process that maps
            // the page may exit at any moment. This one takes it only where the page is mapped.
            anon_lock: Some(shim::folio_lock_anon_vma_read),
            invalid_vma: None,
        };
        // SAFETY: The folio is referenced and locked; `rmap_one` takes `arg` as what it is.
        unsafe { shim::rmap_walk(folio, &mut control) };
        if control.contended {
            self.refusal = Refusal::Busy;
        }
    }

    /// Visits the mapping of the page at `addr` in `vma`, if there is one. Returns whether to
    /// visit others.
    ///
    /// # Safety
    ///
    /// Called by `rmap_walk()` as called by [`Self::walk`]: with the folio locked and the lock of
    /// an anon_vma held in which `vma` is linked.
    unsafe extern "C" fn rmap_one(
        _folio: *mut bindings::folio,
        vma: *mut bindings::vm_area_struct,
        addr: c_ulong,
        arg: *mut c_void,
    ) -> bool {
        // SAFETY: `arg` is what `walk` passed, and nobody else uses it meanwhile.
        let this = unsafe { &mut *arg.cast::<Self>() };
        if let Some(vma) = NonNull::new(vma) {
            // SAFETY: The anon_vma lock is held.
            let vma = unsafe { StableVma::from_raw(vma) };
            match this.replace_in(&vma, addr) {
                Ok(()) => this.replaced = true,
                Err(refusal) => this.refusal = refusal,
            }
        }
        true
    }

    /// Replaces the mapping at `addr` in `vma`.
    fn replace_in(&self, vma: &StableVma<'_>, addr: usize) -> Result<(), Refusal> {
        if !self.is_allowed(vma) {
            return Err(Refusal::LeftAlone);
        }
        let invalidation = Invalidation::start(vma, addr);
        let mut entry =
            MappedEntry::find(self.page, vma, addr, &invalidation).ok_or(Refusal::Gone)?;
        let old = entry.clear();
        if let Err(refusal) = self.check(&entry, &old) {
            entry.restore(old);
            return Err(refusal);
        }
        match self.equal {
            Equal::Shared(shared) => entry.map(old, shared),
            Equal::Zero => entry.map_zero(old),
        }
        Ok(())
    }

    /// Whether the rules let pages of `vma` be merged, on these terms.
    fn is_allowed(&self, vma: &StableVma<'_>) -> bool {
        let rcu = rcu::read_lock();
        let Some(owner) = Owner::of(vma.mm(), &rcu) else {
            return false;
        };
        let policy = self.terms.policy;
        policy.domain(&owner) == self.terms.domain
            && policy.admits(vma, &owner)
            && !(matches!(self.equal, Equal::Zero) && vma.forbids_zero_page())
    }

    /// What decides, once nobody can write to the page through this entry: the page is referred
    /// to by page tables only, equals its replacement in every byte, and can be made shared.
    fn check(&self, entry: &MappedEntry<'_>, cleared: &Cleared) -> Result<(), Refusal> {
        if self.is_pinned() {
            return Err(Refusal::Pinned);
        }
        if !self.is_equal() {
            return Err(Refusal::Different);
        }
        // Last, for it can't be undone.
        if !entry.try_share(cleared) {
            return Err(Refusal::Pinned);
        }
        Ok(())
    }

    /// Whether anything but its mappings, the swap cache and this thread refers to the page.
    ///
    /// As `write_protect_page()` in `mm/ksm.c`: the entry was cleared, but its mapping still
    /// counts.
    fn is_pinned(&self) -> bool {
        let folio = self.page.folio();
        // SAFETY: The folio is referenced, and its lock keeps it in or out of the swap cache.
        unsafe {
            let swapcache = i32::from(shim::ksm_v_folio_test_swapcache(folio));
            let expected = shim::ksm_v_folio_mapcount(folio)
                .wrapping_add(1)
                .wrapping_add(swapcache);
            expected != shim::ksm_v_folio_ref_count(folio)
        }
    }

    fn is_equal(&self) -> bool {
        let content: MappedPage<'_> = self.page.content();
        match self.equal {
            Equal::Shared(shared) => same(&content, &shared.content()),
            Equal::Zero => content.is_zero(),
        }
    }
}
