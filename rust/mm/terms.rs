// SPDX-License-Identifier: GPL-2.0

//! The terms of a merge: the rules, the domain, and the address space whose pages are merged.

use crate::mm::page::PageRef;
use crate::mm::policy::Policy;
use crate::mm::process::Owner;
use crate::mm::refusal::Refusal;
use crate::mm::shared::NewShared;
use crate::mm::shared::SharedPage;
use crate::mm::vma::StableVma;
use engine::huge::SplitRule;
use engine::Domain;
use engine::Frame;
use engine::Space;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::rcu;

/// The rules under which pages are merged, and the address space whose pages they are.
pub(crate) struct Terms<'a> {
    /// The rules in force.
    pub(crate) policy: Policy,
    /// The domain to which every mapping must belong.
    pub(crate) domain: Domain,
    /// The address space whose pages are merged; a new shared page is charged to it.
    pub(crate) mm: &'a MmWithUser,
    /// Identifies the address space in seats; `None` while its last owner exits.
    pub(crate) space: Option<Space>,
    /// Most page table entries that this module makes map a shared page.
    pub(crate) max_page_sharing: u32,
    /// Which large pages are split.
    pub(crate) split: SplitRule,
    /// Whether it pays to split the large pages in the region of an address space that begins at an address.
    /// Takes a mutex.
    pub(crate) is_worth_splitting: &'a dyn Fn(&Mm, usize) -> bool,
    /// Whether pages of zeroes are merged with the zero page.
    pub(crate) use_zero_page: bool,
    /// Makes a new shared page for this address space, on this node (`None`: on any).
    pub(crate) make: &'a dyn Fn(&MmWithUser, Option<i32>) -> Result<NewShared>,
}

impl Terms<'_> {
    /// The same terms for pages of another address space.
    pub(crate) fn in_space<'b>(&'b self, mm: &'b MmWithUser) -> Terms<'b> {
        Terms {
            mm,
            space: space_of(mm),
            ..*self
        }
    }

    /// Makes a new shared page that is to replace the page on `frame`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoMemory`].
    pub(super) fn new_shared(&self, frame: Frame) -> Result<NewShared, Refusal> {
        let node = self.policy.node_of_page(frame);
        (self.make)(self.mm, node).map_err(|_| Refusal::NoMemory)
    }

    /// The domain of the page on `frame`, for which its key is made.
    pub(crate) fn domain_of_page(&self, frame: Frame) -> Domain {
        self.policy.domain_of_page(self.domain, frame)
    }

    /// Whether the policy allows to merge pages of `vma`, and puts them into the domain of these terms.
    /// False while the process is a child in the middle of fork (see [`crate::mm::merge`]).
    pub(crate) fn allows(&self, vma: &StableVma<'_>) -> bool {
        let rcu = rcu::read_lock();
        Owner::of(vma.mm(), &rcu)
            .and_then(|owner| self.policy.grant(&owner))
            .is_some_and(|grant| grant.domain == self.domain && self.policy.admits(vma, grant))
    }

    /// Refuses pages that many processes share since a fork: two such pages would have too many mappings
    /// for one shared page. (A fork may add mappings at the same time, as it may for any shared page.)
    ///
    /// # Errors
    ///
    /// [`Refusal::LeftAlone`].
    pub(super) fn check_few(&self, page: &PageRef) -> Result<(), Refusal> {
        if page.mappings() <= self.max_page_sharing / 2 {
            Ok(())
        } else {
            Err(Refusal::LeftAlone)
        }
    }

    /// Refuses a shared page that has all the mappings it may have (`max_page_sharing`).
    ///
    /// # Errors
    ///
    /// [`Refusal::Full`].
    pub(super) fn check_room(&self, shared: &SharedPage) -> Result<(), Refusal> {
        if shared.mappings() < self.max_page_sharing {
            Ok(())
        } else {
            Err(Refusal::Full)
        }
    }
}

/// The identity of an address space in the seats of shared frames.
pub(crate) fn space_of(mm: &Mm) -> Option<Space> {
    let rcu = rcu::read_lock();
    Owner::of(mm, &rcu).map(|owner| owner.space())
}
