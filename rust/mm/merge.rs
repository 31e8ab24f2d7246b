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
//!   that we miss keeps mapping the old page, which stays as long as it is mapped. One that we find
//!   before fork has ended is left alone: see below.
//! - `mremap()` moves the entry? As above: found at the old or the new place, or missed.
//! - the page is swapped out or migrated? Both want the folio lock, which we hold.
//! - a thread writes to the page? The entry is cleared and flushed before its bytes are compared,
//!   and the page table lock held until it is set again: the write faults and waits, then copies
//!   the shared page, or finds its own page as it was.
//! - the kernel or a device writes to it (O_DIRECT, RDMA, ptrace)? Such a write has taken a
//!   reference to the page. One taken under the page table lock, or before the entry was cleared,
//!   is counted by [`LockedPage::is_pinned`] after the flush; one by `get_user_pages_fast()`
//!   after that sees the entry cleared and is given back.
//! - a thread sets memory tags (arm64)? It can only through an entry that the kernel has set for
//!   an area with `PROT_MTE`, and there, under the page table lock, `set_ptes()` marks the page.
//!   So a page without that mark, asked for after the flush, has no tags, and gets none until the
//!   entry is set again. The entry that is set then may be one with tags, if `mprotect()` has just
//!   come by: that marks the shared page, all of whose tags are 0, as those would be that the
//!   process expects of a page new to `PROT_MTE`; whoever changes one copies the page first.
//!
//! # A child in the middle of fork
//!
//! `anon_vma_fork()` links a child's area before its page tables are filled, so the rmap leads here
//! while `dup_mmap()` still copies. Two things are not yet true of that child then:
//!
//! - Its cgroup is known. `cgroup_fork()` puts it into the root's, until `cgroup_post_fork()`. (Process
//!   id and start time, by which `domain=process` tells address spaces apart, are its parent's.)
//! - Nobody can write to the page through another entry. `copy_page_range()` protects the parent's
//!   entries, but the parent's TLBs are flushed at the end of `dup_mmap()` only: until then a thread of the
//!   parent may write to the page, whatever is done to the child's entry. If the parent's entry was not
//!   cleared and flushed here, as that of an area that is left alone, the child would get a content that
//!   the page may never have had.
//!
//! So the memory of a task in the state `TASK_NEW` is nobody's ([`Owner::of`]). `sched_fork()` sets that
//! state before `copy_mm()` makes the address space, whose owner is the child from `mm_init()` on, before
//! any area is linked. `wake_up_new_task()` ends it, after both of the above, in the program order of the
//! task that forks; its lock of `pi_lock` comes after the unlock of `css_set_lock`, so that whoever sees
//! the new state (by an acquire) sees the cgroup. A fork that fails ends it too, by `TASK_DEAD`, but
//! gives up the address space before. `vfork()` and threads copy nothing: such a child becomes the owner
//! only when the others have left (`mm_update_next_owner()`), and its memory is nobody's until it runs.
//!
//! Nothing else reaches such a child. A gatherer finds an address space by a process id, which comes
//! after `dup_mmap()`; then it asks for the owner, and passes by. So does `merge_now`. The VMA lock for
//! [`super::neighbours`] can't be had of an area that is being copied, of neither process. Breaking pages
//! apart needs no owner, and must not miss the child: [`crate::mm::process::Cursor`] shows it too.

use crate::mm::compare;
use crate::mm::page::Kind;
use crate::mm::page::LockedPage;
use crate::mm::page::MappedPage;
use crate::mm::page::PageRef;
use crate::mm::page::StillPage;
use crate::mm::policy::Policy;
use crate::mm::process::Owner;
use crate::mm::pte::Cleared;
use crate::mm::pte::Entry;
use crate::mm::pte::Invalidation;
use crate::mm::pte::Mapping;
use crate::mm::refusal::Refusal;
use crate::mm::rmap::each_mapping;
use crate::mm::shared;
use crate::mm::shared::LockedShared;
use crate::mm::shared::NewShared;
use crate::mm::shared::SharedPage;
use crate::mm::shared::Sharer;
use crate::mm::sharers::Base;
use crate::mm::vma::StableVma;
use core::ops::ControlFlow;
use engine::Domain;
use engine::Frame;
use engine::Space;
use engine::PAGE_SIZE;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::rcu;

/// For whom pages are merged.
pub(crate) struct Terms<'a> {
    /// The rules in force.
    pub(crate) policy: Policy,
    /// The domain to which every mapping must belong.
    pub(crate) domain: Domain,
    /// The address space whose pages are merged; a new shared page is charged to it.
    pub(crate) mm: &'a MmWithUser,
    /// What it is known by where it takes seats; `None` while its last owner exits.
    pub(crate) space: Option<Space>,
    /// How many page table entries may be made to map a shared page.
    pub(crate) max_page_sharing: u32,
    /// Makes a new shared page for this address space, on this node (`None`: on any).
    pub(crate) make: &'a dyn Fn(&MmWithUser, Option<i32>) -> Result<NewShared>,
}

impl Terms<'_> {
    /// The same terms for the pages of another address space.
    pub(crate) fn in_space<'b>(&'b self, mm: &'b MmWithUser) -> Terms<'b> {
        Terms {
            mm,
            space: space_of(mm),
            ..*self
        }
    }

    /// Merges `frame` and `twin`, if their content is as expected, into a new shared page; returns
    /// that.
    pub(crate) fn share(
        &self,
        frame: Frame,
        twin: Frame,
        is_expected: impl FnOnce(&MappedPage<'_>) -> bool,
    ) -> Result<NewShared, Refusal> {
        // Before there is a reference to the twin, which may be a part of the same large page.
        let page = self.single(frame, |page| self.expect_twin(twin, page))?;
        let twin = PageRef::candidate(twin).ok_or(Refusal::TargetGone)?;
        self.check_few(&page)?;
        self.check_few(&twin).map_err(Refusal::of_target)?;
        expect_same(&page.content(), &twin.content())?;
        let shared = self.new_shared(frame)?;
        shared.fill(&page)?;
        // Of the copy, which nobody can change any more.
        if !is_expected(&shared.content()) {
            return Err(Refusal::Changed);
        }
        // The twin first: its frame may have come to someone who is left alone, of whose pages
        // nothing must tell, not even that another's became a shared one.
        let locked = shared.try_lock()?;
        self.replace_by(&twin, &locked)
            .map_err(Refusal::of_target)?;
        // If the page refuses, the twin is the only sharer until the next equal page comes.
        let _ = self.replace_by(&page, &locked);
        drop(locked);
        shared.settle();
        Ok(shared)
    }

    /// Makes a new shared page for that on `frame`.
    pub(super) fn new_shared(&self, frame: Frame) -> Result<NewShared, Refusal> {
        let node = self.policy.node_of_page(frame);
        (self.make)(self.mm, node).map_err(|_| Refusal::NoMemory)
    }

    /// The domain of the page on `frame`: what its key is for.
    pub(crate) fn domain_of_page(&self, frame: Frame) -> Domain {
        self.policy.domain_of_page(self.domain, frame)
    }

    /// Merges `frame` into `shared`, a page of the domain of `frame`; returns that.
    pub(crate) fn join(&self, frame: Frame, shared: SharedPage) -> Result<SharedPage, Refusal> {
        let page = PageRef::candidate(frame).ok_or(Refusal::Gone)?;
        self.check_few(&page)?;
        // All of its mappings, or none: who has them is not to be told apart by that.
        if page.mappings().saturating_add(shared.mappings()) > self.max_page_sharing {
            return Err(Refusal::Full);
        }
        self.replace_by(&page, &shared.try_lock()?)?;
        Ok(shared)
    }

    /// Merges `frame`, if it is full of zeroes, into the kernel's zero page.
    pub(crate) fn join_zero(&self, frame: Frame) -> Result<(), Refusal> {
        let page = PageRef::candidate(frame).ok_or(Refusal::Gone)?;
        expect_zero(&page.content())?;
        let page = page.try_lock().ok_or(Refusal::Busy)?;
        self.replace(&page, None)
    }

    /// Finds where the page on `frame` is mapped, if these terms allow to merge it and it equals
    /// `page`, a folio of its own; the twin is made one. An error tells nothing about a page that
    /// they do not allow.
    pub(super) fn find_twin(&self, frame: Frame, page: &PageRef) -> Result<Twin, Refusal> {
        let twin = PageRef::candidate(frame).ok_or(Refusal::TargetGone)?;
        let twin = twin.try_lock().ok_or(Refusal::Busy)?;
        let mut found = self.check_twin(&twin, page)?;
        if twin.is_large() {
            twin.split().map_err(|_| Refusal::Busy)?;
            // The split may have unmapped what was found.
            found = self.find_mapping(&twin)?;
        }
        if twin.is_pinned() {
            return Err(Refusal::TargetGone);
        }
        Ok(found)
    }

    /// Whether [`Self::find_twin`] will find one, as far as can be told before `page` is taken out
    /// of a large page. A page may still be there that nothing maps any more, whose content has
    /// just moved to `page`.
    pub(super) fn expect_twin(&self, frame: Frame, page: &PageRef) -> Result<(), Refusal> {
        let twin = PageRef::candidate(frame).ok_or(Refusal::TargetGone)?;
        let twin = twin.try_lock().ok_or(Refusal::Busy)?;
        self.check_twin(&twin, page).map(drop)
    }

    /// Looks at who maps `twin`, and only then at its bytes.
    fn check_twin(&self, twin: &LockedPage<'_>, page: &PageRef) -> Result<Twin, Refusal> {
        if twin.kind() != Kind::Anonymous {
            return Err(Refusal::TargetGone);
        }
        self.check_few(twin).map_err(Refusal::of_target)?;
        let found = self.find_mapping(twin)?;
        expect_same(&page.content(), &twin.content())?;
        Ok(found)
    }

    /// Finds a mapping of the folio of `twin` that these terms allow to replace.
    fn find_mapping(&self, twin: &LockedPage<'_>) -> Result<Twin, Refusal> {
        let mut found = None;
        let walked = each_mapping(twin, &mut |vma, addr| {
            if !self.allows(vma) || Mapping::find(twin, vma, addr).is_none() {
                return ControlFlow::Continue(());
            }
            let (frame, mm) = (twin.frame(), ARef::from(vma.mm()));
            found = Some(Twin { frame, mm, addr });
            ControlFlow::Break(())
        });
        if walked {
            found.ok_or(Refusal::TargetGone)
        } else {
            Err(Refusal::Busy)
        }
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

    /// Whether `shared` may have one mapping more.
    fn check_room(&self, shared: &SharedPage) -> Result<(), Refusal> {
        if shared.mappings() < self.max_page_sharing {
            Ok(())
        } else {
            Err(Refusal::Full)
        }
    }

    /// Whether the rules let pages of `vma` be merged, on these terms.
    pub(crate) fn allows(&self, vma: &StableVma<'_>) -> bool {
        let rcu = rcu::read_lock();
        Owner::of(vma.mm(), &rcu).is_some_and(|owner| {
            self.policy.domain(&owner) == self.domain && self.policy.admits(vma, &owner)
        })
    }

    /// The page on `frame`, a folio of its own: taken out of a large one if `check` finds nothing that
    /// speaks against replacing it.
    pub(super) fn single(
        &self,
        frame: Frame,
        check: impl FnOnce(&PageRef) -> Result<(), Refusal>,
    ) -> Result<PageRef, Refusal> {
        let page = PageRef::candidate(frame).ok_or(Refusal::Gone)?;
        if page.is_large() {
            check(&page)?;
            let locked = page.try_lock().ok_or(Refusal::Busy)?;
            if locked.kind() != Kind::Anonymous {
                return Err(Refusal::Gone);
            }
            self.split(&locked)?;
        }
        Ok(page)
    }

    /// Makes `page` a folio of its own, if it is part of a large one of which these terms allow to
    /// replace a mapping: the page of somebody else, who has got the frame meanwhile, stays whole.
    fn split(&self, page: &LockedPage<'_>) -> Result<(), Refusal> {
        if !page.is_large() {
            return Ok(());
        }
        self.find_mapping(page).map_err(|refusal| match refusal {
            Refusal::TargetGone => Refusal::LeftAlone,
            other => other,
        })?;
        page.split().map_err(|_| Refusal::Busy)
    }

    /// Replaces what mappings of `page` it may by mappings of `shared`.
    fn replace_by(&self, page: &PageRef, shared: &LockedShared<'_>) -> Result<(), Refusal> {
        // A huge page is not split for what is different anyway.
        if page.is_large() {
            expect_same(&page.content(), &shared.content())?;
        }
        let page = page.try_lock().ok_or(Refusal::Busy)?;
        self.replace(&page, Some(shared))
    }

    /// Replaces what mappings of `page` it may, by the zero page where there is no `shared`; an error where
    /// that is none: why the last was not.
    fn replace(
        &self,
        page: &LockedPage<'_>,
        shared: Option<&LockedShared<'_>>,
    ) -> Result<(), Refusal> {
        // Its kind may have changed before it was locked.
        if page.kind() != Kind::Anonymous {
            return Err(Refusal::Gone);
        }
        self.split(page)?;
        let (mut replaced, mut refusal) = (false, Refusal::Gone);
        let walked = each_mapping(page, &mut |vma, addr| {
            match self.replace_in(page, shared, vma, addr) {
                Ok(()) => replaced = true,
                Err(why) => refusal = why,
            }
            ControlFlow::Continue(())
        });
        page.free_swap_if_unmapped();
        match (replaced, walked) {
            (true, _) => Ok(()),
            (false, true) => Err(refusal),
            (false, false) => Err(Refusal::Busy),
        }
    }

    /// Replaces the mapping of `page` at `addr` in `vma`, if it is there.
    fn replace_in(
        &self,
        page: &LockedPage<'_>,
        shared: Option<&LockedShared<'_>>,
        vma: &StableVma<'_>,
        addr: usize,
    ) -> Result<(), Refusal> {
        if !self.allows(vma) {
            return Err(Refusal::LeftAlone);
        }
        // Before the page table lock, under which nothing can be allocated for it.
        let base = Base::new(vma, u32::from(shared.is_some())).map_err(shared::refusal)?;
        let sharer = shared.map(|shared| shared.add(&base, addr)).transpose()?;
        let equal = sharer.as_ref().map_or(Equal::Zero, Equal::Shared);
        if equal.is_forbidden_in(vma) {
            return Err(Refusal::LeftAlone);
        }
        let range = addr..addr.saturating_add(PAGE_SIZE);
        let invalidation = Invalidation::try_start(vma, range).ok_or(Refusal::Busy)?;
        let mut mapping = Mapping::find(page, vma, addr).ok_or(Refusal::Gone)?;
        let mut entry = mapping.entry(&invalidation).ok_or(Refusal::Gone)?;
        let old = entry.clear();
        replace_entry(self, &mut entry, old, &equal)
    }
}

/// What an address space is known by where it takes seats of shared frames.
pub(crate) fn space_of(mm: &Mm) -> Option<Space> {
    let rcu = rcu::read_lock();
    Owner::of(mm, &rcu).map(|owner| owner.space())
}

/// # Errors
///
/// [`Refusal::Different`].
pub(super) fn expect_same(one: &MappedPage<'_>, other: &MappedPage<'_>) -> Result<(), Refusal> {
    if compare::same(one, other) {
        Ok(())
    } else {
        Err(Refusal::Different)
    }
}

/// As `memcmp_pages()` of arm64, for whom no two pages are equal if one has memory tags.
///
/// # Errors
///
/// [`Refusal::Tagged`].
fn expect_untagged(page: &PageRef) -> Result<(), Refusal> {
    if page.is_tagged() {
        Err(Refusal::Tagged)
    } else {
        Ok(())
    }
}

/// # Errors
///
/// [`Refusal::Different`].
pub(super) fn expect_zero(content: &MappedPage<'_>) -> Result<(), Refusal> {
    if compare::is_zero(content) {
        Ok(())
    } else {
        Err(Refusal::Different)
    }
}

/// A page for which a shared one is made because another equals it, and where it was found.
pub(crate) struct Twin {
    /// The page.
    pub(crate) frame: Frame,
    /// An address space that maps it, which may have exited.
    pub(crate) mm: ARef<Mm>,
    /// Where it does.
    pub(crate) addr: usize,
}

/// What a page is replaced by.
pub(super) enum Equal<'a> {
    /// A shared page, of equal content.
    Shared(&'a Sharer<'a>),
    /// A shared page that is new, and gets its content from the page: if that is as expected.
    New(&'a Sharer<'a>, &'a dyn Fn(&MappedPage<'_>) -> bool),
    /// The zero page.
    Zero,
}

impl Equal<'_> {
    /// Whether it must not be mapped in `vma`.
    pub(super) fn is_forbidden_in(&self, vma: &StableVma<'_>) -> bool {
        matches!(self, Equal::Zero) && vma.forbids_zero_page()
    }

    /// Whether `content`, that of `page`, is as it has to be.
    fn check(&self, page: &PageRef, content: &StillPage<'_>) -> Result<(), Refusal> {
        match self {
            Equal::Shared(sharer) => expect_same(content, &sharer.shared().still_content()),
            Equal::New(sharer, is_expected) => {
                let shared = sharer.shared();
                shared.fill(page)?;
                if is_expected(&shared.content()) {
                    Ok(())
                } else {
                    Err(Refusal::Changed)
                }
            }
            Equal::Zero => expect_zero(content),
        }
    }
}

/// Replaces a mapping whose entry was cleared, or puts it back.
pub(super) fn replace_entry(
    terms: &Terms<'_>,
    entry: &mut Entry<'_>,
    old: Cleared,
    equal: &Equal<'_>,
) -> Result<(), Refusal> {
    if let Err(refusal) = check(terms, entry, &old, equal) {
        entry.restore(old);
        return Err(refusal);
    }
    match equal {
        Equal::Shared(sharer) | Equal::New(sharer, _) => entry.map(old, sharer),
        Equal::Zero => entry.map_zero(old),
    }
    Ok(())
}

/// What decides, once nobody can write to the page through this entry: the page is referred to by
/// page tables only, has no memory tags, equals its replacement in every byte, and can be made shared.
fn check(
    terms: &Terms<'_>,
    entry: &Entry<'_>,
    cleared: &Cleared,
    equal: &Equal<'_>,
) -> Result<(), Refusal> {
    let page = entry.page();
    if page.is_pinned() {
        return Err(Refusal::Pinned);
    }
    expect_untagged(page)?;
    if equal.is_forbidden_in(entry.vma()) {
        return Err(Refusal::LeftAlone);
    }
    if let Equal::Shared(sharer) = equal {
        let shared = sharer.shared();
        terms.check_room(shared)?;
        expect_untagged(shared).map_err(Refusal::of_target)?;
    }
    // SAFETY: Not pinned, as was just seen.
    let content = unsafe { entry.still_content(cleared) };
    equal.check(page, &content)?;
    // Last, for it can't be undone.
    if !entry.try_share(cleared) {
        return Err(Refusal::Pinned);
    }
    Ok(())
}
