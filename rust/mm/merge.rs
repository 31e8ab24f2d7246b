// SPDX-License-Identifier: GPL-2.0

//! Replaces the mappings of a page by mappings of an equal shared page.
//!
//! All mappings of a page are found through the kernel's own rmap, under the folio lock and the anon_vma
//! lock. No lock of any address space is held. So for every mapping: what if, at this moment, …
//!
//! - the process exits, unmaps or discards the page? Each of these takes the page table lock to remove the
//!   entry. If it comes first, we find no entry; if it comes after us, it removes our new mapping. The VMA
//!   and its mm stay until we drop the anon_vma lock, because `unlink_anon_vmas()` takes that lock for
//!   writing. The anon_vma itself is freed with the last of its VMAs. `folio_lock_anon_vma_read()`
//!   therefore checks, under RCU, that the page is still mapped; nothing else here guarantees that.
//! - the process forks? Copying an entry takes its page table lock, too. If we miss the child's entry, it
//!   keeps mapping the old page, which stays as long as it is mapped. If we find it before fork has ended,
//!   we leave it alone: see below.
//! - `mremap()` moves the entry? We find it at the old or at the new place, or we miss it, as with fork.
//! - the page is swapped out or migrated? Both need the folio lock, which we hold.
//! - a thread writes to the page? We clear and flush the entry before we compare the bytes, and hold the
//!   page table lock until we set it again. The write faults and waits; then it copies the shared page, or
//!   finds its own page unchanged.
//! - the kernel or a device writes to it (O_DIRECT, RDMA, ptrace)? Such a writer has taken a reference to
//!   the page. A reference taken under the page table lock, or before the entry was cleared, is counted by
//!   [`LockedPage::is_pinned`] after the flush. `get_user_pages_fast()` takes none after that: it sees that
//!   the entry was cleared, and drops the reference again.
//! - a thread sets memory tags (arm64)? It needs an entry that the kernel has set for a VMA with
//!   `PROT_MTE`. When the kernel sets such an entry, under the page table lock, `set_ptes()` marks the page
//!   as tagged. So a page that has no such mark after the flush has no tags, and gets none until the entry
//!   is set again. If `mprotect()` has just added `PROT_MTE`, the entry that we set allows tags, and
//!   `set_ptes()` marks the shared page. All of its tags are 0, which is what the process expects of a page
//!   that is new to `PROT_MTE`; a thread that changes a tag copies the page first.
//!
//! # A child in the middle of fork
//!
//! `anon_vma_fork()` links a child's VMA before its page tables are filled. So the rmap leads here while
//! `dup_mmap()` is still copying. At that time two things that merging relies on are not yet true of the
//! child:
//!
//! - Its cgroup is known. `cgroup_fork()` puts it into the root cgroup until `cgroup_post_fork()`. (The
//!   process id and the start time, by which `domain=process` tells address spaces apart, are still the
//!   parent's.)
//! - Nobody can write to the page through another entry. `copy_page_range()` write-protects the parent's
//!   entries, but the parent's TLBs are flushed only at the end of `dup_mmap()`. Until then a thread of the
//!   parent may write to the page, whatever happens to the child's entry. If we replaced the child's entry
//!   without clearing and flushing the parent's, because the parent's VMA is left alone, the child would
//!   get a content that the page may never have had.
//!
//! So the memory of a task in the state `TASK_NEW` has no owner here ([`crate::mm::process::Owner::of`]).
//! `sched_fork()` sets that state before `copy_mm()` makes the address space. `mm_init()` makes the child the
//! owner of the address space before any VMA is linked. `wake_up_new_task()` ends the state. The forking task
//! runs it after both of the above, in program order; it takes `pi_lock` after `css_set_lock` was released,
//! so that a reader who sees the new state (with an acquire) also sees the cgroup. A fork that fails ends the
//! state by `TASK_DEAD`, but gives up the address space before. `vfork()` and threads copy nothing: such a
//! child becomes the owner only when the others have left (`mm_update_next_owner()`), and until it runs its
//! memory has no owner here.
//!
//! No other path reaches such a child. A gatherer finds an address space by a process id, which is assigned
//! after `dup_mmap()`; then it asks for the owner, and skips an address space without one. So does
//! `merge_now`. [`super::neighbours`] needs the VMA lock, which is not available for a VMA that is being
//! copied, neither the parent's nor the child's. Unmerging needs no owner, and must not miss the child:
//! [`crate::mm::process::Cursor`] returns it, too.

use crate::mm::content::MappedPage;
use crate::mm::entry::LockedEntry;
use crate::mm::mmu_notifier::Invalidation;
use crate::mm::page::Kind;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::refusal::Refusal;
use crate::mm::rmap::each_mapping;
use crate::mm::rmap::Mapping;
use crate::mm::shared;
use crate::mm::shared::LockedShared;
use crate::mm::shared::NewShared;
use crate::mm::shared::SharedPage;
use crate::mm::sharers::Base;
use crate::mm::split::split;
use crate::mm::terms::Terms;
use crate::mm::verify::expect_same;
use crate::mm::verify::expect_zero;
use crate::mm::verify::verify_and_replace;
use crate::mm::verify::Replacement;
use crate::mm::vma::StableVma;
use core::ops::ControlFlow;
use engine::Frame;
use engine::PAGE_SIZE;

impl Terms<'_> {
    /// Merges `frame` and `twin` into a new shared page, and returns that page. Requires that the two are
    /// equal and that `is_expected` accepts their content. Like `try_to_merge_two_pages()` in `mm/ksm.c`.
    pub(crate) fn share(
        &self,
        frame: Frame,
        twin: Frame,
        is_expected: impl FnOnce(&MappedPage<'_>) -> bool,
    ) -> Result<NewShared, Refusal> {
        // Checked before we take a reference to the twin, because the twin may be part of the same large
        // page, which could not be split then.
        let page = self.single(frame, |page| self.expect_twin(twin, page))?;
        let twin = PageRef::candidate(twin).ok_or(Refusal::TargetGone)?;
        self.check_few(&page)?;
        self.check_few(&twin).map_err(Refusal::of_target)?;
        expect_same(&page.content(), &twin.content())?;
        let shared = self.new_shared(frame)?;
        shared.fill(&page)?;
        // Checks the copy, which nobody can change any more.
        if !is_expected(&shared.content()) {
            return Err(Refusal::Changed);
        }
        // The twin goes first. By now its frame may belong to a process whose memory is left alone. That process
        // must not be able to tell that a page of another process became a shared page.
        let locked = shared.try_lock()?;
        self.lock_and_replace(&twin, &locked)
            .map_err(Refusal::of_target)?;
        // If the page refuses, the twin is the only sharer until another equal page comes.
        let _ = self.lock_and_replace(&page, &locked);
        drop(locked);
        shared.settle();
        Ok(shared)
    }

    /// Merges `frame` into `shared`, a page of the same domain, and returns `shared`. Like
    /// `try_to_merge_with_ksm_page()` in `mm/ksm.c`.
    pub(crate) fn join(&self, frame: Frame, shared: SharedPage) -> Result<SharedPage, Refusal> {
        let page = PageRef::candidate(frame).ok_or(Refusal::Gone)?;
        self.check_few(&page)?;
        // Replaces all mappings of the page or none: a partial result would tell who maps it.
        if page.mappings().saturating_add(shared.mappings()) > self.max_page_sharing {
            return Err(Refusal::Full);
        }
        self.lock_and_replace(&page, &shared.try_lock()?)?;
        Ok(shared)
    }

    /// Merges `frame` into the kernel's zero page, if it is full of zeroes. Like
    /// `try_to_merge_with_zero_page()` in `mm/ksm.c`.
    pub(crate) fn join_zero(&self, frame: Frame) -> Result<(), Refusal> {
        let page = PageRef::candidate(frame).ok_or(Refusal::Gone)?;
        expect_zero(&page.content())?;
        let page = page.try_lock().ok_or(Refusal::Busy)?;
        self.replace_mappings(&page, None)
    }

    /// The page on `frame`, as a folio of its own. Splits it out of a large page if `check` accepts it.
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

    /// Splits `page` out of a large page, if these terms allow to replace one of the large page's mappings.
    /// So a page of somebody else, who owns the frame by now, is not split.
    fn split(&self, page: &LockedPage<'_>) -> Result<(), Refusal> {
        if !page.is_large() {
            return Ok(());
        }
        self.find_mapping(page).map_err(|refusal| match refusal {
            Refusal::TargetGone => Refusal::LeftAlone,
            other => other,
        })?;
        split(page)
    }

    /// Locks `page`, and replaces its mappings that may be replaced by mappings of `shared`.
    fn lock_and_replace(&self, page: &PageRef, shared: &LockedShared<'_>) -> Result<(), Refusal> {
        // Does not split a huge page whose content differs anyway.
        if page.is_large() {
            expect_same(&page.content(), &shared.content())?;
        }
        let page = page.try_lock().ok_or(Refusal::Busy)?;
        self.replace_mappings(&page, Some(shared))
    }

    /// Replaces the mappings of `page` that may be replaced: by mappings of `shared`, or of the zero page
    /// if there is no `shared`.
    ///
    /// Like `try_to_merge_one_page()` in `mm/ksm.c`, which replaces one mapping only.
    ///
    /// # Errors
    ///
    /// If no mapping was replaced: why the last one was not.
    fn replace_mappings(
        &self,
        page: &LockedPage<'_>,
        shared: Option<&LockedShared<'_>>,
    ) -> Result<(), Refusal> {
        // The kind may have changed before the page was locked.
        if page.kind() != Kind::Anonymous {
            return Err(Refusal::Gone);
        }
        self.split(page)?;
        let (mut replaced, mut refusal) = (false, Refusal::Gone);
        let walked = each_mapping(page, &mut |vma, addr| {
            match self.replace_mapping(page, shared, vma, addr) {
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

    /// Replaces the mapping of `page` at `addr` in `vma`, if there is one: clears and flushes the entry, as
    /// `write_protect_page()` in `mm/ksm.c` does, then calls [`verify_and_replace`].
    fn replace_mapping(
        &self,
        page: &LockedPage<'_>,
        shared: Option<&LockedShared<'_>>,
        vma: &StableVma<'_>,
        addr: usize,
    ) -> Result<(), Refusal> {
        if !self.allows(vma) {
            return Err(Refusal::LeftAlone);
        }
        // Allocates now: nothing can be allocated for this under the page table lock.
        let base = Base::new(vma, u32::from(shared.is_some())).map_err(shared::refusal)?;
        let sharer = shared.map(|shared| shared.add(&base, addr)).transpose()?;
        let replacement = sharer
            .as_ref()
            .map_or(Replacement::Zero, Replacement::Shared);
        if replacement.is_forbidden_in(vma) {
            return Err(Refusal::LeftAlone);
        }
        let range = addr..addr.saturating_add(PAGE_SIZE);
        let invalidation = Invalidation::try_start(vma, range).ok_or(Refusal::Busy)?;
        let mut mapping = Mapping::find(page, vma, addr).ok_or(Refusal::Gone)?;
        let entry = LockedEntry::of_mapping(&mut mapping, &invalidation);
        let mut entry = entry.ok_or(Refusal::Gone)?;
        let old = entry.clear();
        verify_and_replace(self, &mut entry, old, &replacement)
    }
}
