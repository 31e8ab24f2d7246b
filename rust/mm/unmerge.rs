// SPDX-License-Identifier: GPL-2.0

//! Breaks merged pages apart: each process gets its own [`copy`] of each page. In `mm/ksm.c`,
//! `unmerge_and_remove_all_rmap_items()` does so by `break_ksm()`.
//!
//! Runs in the context of the caller, under the VMA lock of one VMA at a time. Never waits for a lock of an
//! address space or for a file system, and never has a process killed: see [`crate::mm::vma`],
//! [`crate::mm::copy`] and [`crate::mm::room`].

use crate::mm::copy::copy;
use crate::mm::copy::Copied;
use crate::mm::copy::MergedPage;
use crate::mm::page::Kind;
use crate::mm::room::Lack;
use crate::mm::room::Room;
use crate::mm::vma::NextArea;
use crate::mm::vma::VmaReadGuard;
use crate::mm::walk::walk;
use crate::mm::walk::Mapped;
use crate::mm::walk::MergedZero;
use crate::mm::walk::Visitor;
use crate::shim;
use crate::sys::kthread::cond_resched;
use crate::trace;
use core::ops::ControlFlow;
use core::ops::Range;
use engine::Frame;
use engine::PAGE_SIZE;
use kernel::mm::MmWithUser;
use kernel::prelude::*;

/// Most frames with failed memory that a run can handle.
const MOST_FAILED: usize = 1024;

/// Selects the merged pages to break apart.
#[derive(Clone)]
pub(crate) enum Which {
    /// All, including those that were merged with the zero page.
    All,
    /// Those whose shared page is on one of these frames.
    On(Range<u64>),
    /// Those in VMAs that were not registered for merging.
    NotRegistered,
}

impl Which {
    /// Whether a merged page on `frame` is to be broken apart.
    fn includes(&self, frame: Frame) -> bool {
        match self {
            Which::All | Which::NotRegistered => true,
            Which::On(frames) => frames.contains(&frame.0),
        }
    }

    /// Whether a VMA may contain such pages.
    fn concerns(&self, vma: &VmaReadGuard<'_>) -> bool {
        let is_registered = vma.flags() & shim::KSM_V_VM_MERGEABLE != 0;
        vma.has_anon_vma() && !(matches!(self, Which::NotRegistered) && is_registered)
    }
}

/// The result of a visit to one or more address spaces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UnmergeOutcome {
    /// Pages that were broken apart.
    pub(crate) broken: u64,
    /// Mappings that stay because the page can't be copied, mostly because its memory has failed.
    pub(crate) uncopied: u64,
    /// VMAs that were skipped because their processes are changing them, and pages that a secondary MMU
    /// could not drop at once.
    pub(crate) busy: u64,
    /// Address spaces that were left because their cgroups have no room for copies.
    pub(crate) crowded: u64,
}

impl UnmergeOutcome {
    /// Whether something was left.
    pub(crate) fn is_partial(&self) -> bool {
        self.uncopied > 0 || self.busy > 0 || self.crowded > 0
    }

    /// Adds the result of another visit.
    pub(crate) fn add(&mut self, other: &UnmergeOutcome) {
        let UnmergeOutcome {
            broken,
            uncopied,
            busy,
            crowded,
        } = *other;
        self.broken = self.broken.saturating_add(broken);
        self.uncopied = self.uncopied.saturating_add(uncopied);
        self.busy = self.busy.saturating_add(busy);
        self.crowded = self.crowded.saturating_add(crowded);
    }
}

/// Breaks apart the merged pages of one address space after the other.
pub(crate) struct Unmerger {
    which: Which,
    room: Room,
    /// Number of copies in this address space for which there is still room.
    allowance: usize,
    /// Frames whose memory has failed; they must not be read again.
    failed: KVVec<Frame>,
}

/// Breaks apart the merged pages of one address space.
///
/// # Errors
///
/// The errors of [`Unmerger::unmerge`]. `EAGAIN`: some merged pages are left.
pub(crate) fn unmerge(mm: &MmWithUser, which: Which) -> Result {
    if Unmerger::new(which)?.unmerge(mm)?.is_partial() {
        return Err(EAGAIN);
    }
    Ok(())
}

/// How to continue in an address space.
enum Next {
    /// At this address.
    At(usize),
    /// At this address, after asking for room for copies.
    Ask(usize),
    End,
}

impl Unmerger {
    /// Makes an `Unmerger` for the pages that `which` selects.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(which: Which) -> Result<Self> {
        Ok(Unmerger {
            which,
            room: Room::new()?,
            allowance: 0,
            failed: KVVec::with_capacity(MOST_FAILED, GFP_KERNEL)?,
        })
    }

    /// Frames whose memory has failed: a copy failed, or none was tried because the page is marked as poisoned.
    pub(crate) fn failed(&self) -> &[Frame] {
        &self.failed
    }

    /// Breaks apart the merged pages that `mm` maps, and returns what was done.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the host has no memory for the copies. `ERESTARTSYS`: the caller has a signal pending.
    /// `EIO`: the memory of too many frames has failed.
    pub(crate) fn unmerge(&mut self, mm: &MmWithUser) -> Result<UnmergeOutcome> {
        let mut outcome = UnmergeOutcome::default();
        self.allowance = 0;
        let result = self.unmerge_all(mm, &mut outcome);
        if outcome.broken > 0 || result.is_err() {
            trace::unmerge(mm, outcome.broken, result);
        }
        result.map(|()| outcome)
    }

    /// Breaks apart the merged pages of all VMAs.
    fn unmerge_all(&mut self, mm: &MmWithUser, outcome: &mut UnmergeOutcome) -> Result {
        let mut addr = 0;
        loop {
            addr = match self.unmerge_some(mm, addr, outcome)? {
                Next::At(next) => next,
                Next::Ask(next) => match self.room.ask(mm) {
                    Ok(()) => {
                        self.allowance = Room::PAGES;
                        next
                    }
                    Err(Lack::Host) => return Err(ENOMEM),
                    Err(Lack::Cgroup) => {
                        outcome.crowded = 1;
                        return Ok(());
                    }
                },
                Next::End => return Ok(()),
            };
            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            cond_resched();
        }
    }

    /// Breaks apart some merged pages in the first VMA that ends above `addr`.
    fn unmerge_some(
        &mut self,
        mm: &MmWithUser,
        addr: usize,
        outcome: &mut UnmergeOutcome,
    ) -> Result<Next> {
        match VmaReadGuard::next(mm, addr) {
            NextArea::Locked(vma) if self.which.concerns(&vma) => {
                self.unmerge_area(&vma, addr, outcome)
            }
            NextArea::Locked(vma) => Ok(Next::At(vma.end())),
            NextArea::Busy { end } => {
                outcome.busy = outcome.busy.saturating_add(1);
                Ok(Next::At(end))
            }
            NextArea::None => Ok(Next::End),
        }
    }

    /// Breaks apart the merged pages in a VMA, from `addr` on, while there is room.
    fn unmerge_area(
        &mut self,
        vma: &VmaReadGuard<'_>,
        addr: usize,
        outcome: &mut UnmergeOutcome,
    ) -> Result<Next> {
        let mut range = addr.max(vma.start())..vma.end();
        while let Some((at, merged)) = self.find(vma, range.clone(), outcome) {
            if current!().signal_pending() {
                return Ok(Next::At(at));
            }
            if self.allowance == 0 {
                return Ok(Next::Ask(at));
            }
            self.allowance = self.allowance.saturating_sub(1);
            match copy(vma, at, merged)? {
                Copied::Done => outcome.broken = outcome.broken.saturating_add(1),
                Copied::Gone => (),
                Copied::Busy => outcome.busy = outcome.busy.saturating_add(1),
                Copied::MemoryFailed => {
                    if let MergedPage::On(frame) = merged {
                        self.failed.push_within_capacity(frame).map_err(|_| EIO)?;
                    }
                    outcome.uncopied = outcome.uncopied.saturating_add(1);
                }
            }
            range.start = at.saturating_add(PAGE_SIZE);
        }
        Ok(Next::At(range.end))
    }

    /// The first address in `range` at which a page to break apart is mapped, and the page. Counts pages
    /// that can't be copied.
    fn find(
        &mut self,
        vma: &VmaReadGuard<'_>,
        range: Range<usize>,
        outcome: &mut UnmergeOutcome,
    ) -> Option<(usize, MergedPage)> {
        let mut finder = Finder {
            which: &self.which,
            failed: &mut self.failed,
            found: None,
            uncopied: 0,
        };
        walk(vma, range, &mut finder);
        outcome.uncopied = outcome.uncopied.saturating_add(finder.uncopied);
        finder.found
    }
}

/// Stops the walk at the first page to break apart.
struct Finder<'a> {
    which: &'a Which,
    failed: &'a mut KVVec<Frame>,
    found: Option<(usize, MergedPage)>,
    /// Mappings that were skipped because their pages can't be copied.
    uncopied: u64,
}

impl Visitor for Finder<'_> {
    fn page(&mut self, addr: usize, mapped: Mapped<'_>) -> ControlFlow<()> {
        let frame = mapped.frame();
        if mapped.kind != Kind::Merged || !self.which.includes(frame) {
            return ControlFlow::Continue(());
        }
        let is_known = self.failed.contains(&frame);
        if mapped.is_poisoned() && !is_known {
            // If the list is full, the page is skipped all the same.
            let _ = self.failed.push_within_capacity(frame);
        }
        if mapped.is_poisoned() || is_known {
            self.uncopied = self.uncopied.saturating_add(1);
            return ControlFlow::Continue(());
        }
        self.found = Some((addr, MergedPage::On(frame)));
        ControlFlow::Break(())
    }

    fn merged_zero(&mut self, zero: MergedZero<'_>) -> ControlFlow<()> {
        match self.which {
            Which::All => {
                self.found = Some((zero.addr(), MergedPage::Zero));
                ControlFlow::Break(())
            }
            Which::On(_) | Which::NotRegistered => ControlFlow::Continue(()),
        }
    }
}
