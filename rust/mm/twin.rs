// SPDX-License-Identifier: GPL-2.0

//! Finds the twin of a page: the equal page with which it gets a new shared page.

use crate::mm::page::Kind;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::refusal::Refusal;
use crate::mm::rmap::each_mapping;
use crate::mm::rmap::Mapping;
use crate::mm::split::split;
use crate::mm::terms::Terms;
use crate::mm::verify::expect_same;
use core::ops::ControlFlow;
use core::ops::Range;
use engine::Frame;
use kernel::mm::Mm;
use kernel::sync::aref::ARef;

/// A page that equals another one, for which a new shared page is made, and where it was found.
pub(crate) struct Twin {
    /// The page.
    pub(crate) frame: Frame,
    /// An address space that maps it, and may have exited.
    pub(crate) mm: ARef<Mm>,
    /// The address at which it is mapped.
    pub(crate) addr: usize,
    /// The first address of its region: of the part of the VMA that the same page table maps.
    region: usize,
    /// The addresses of the large page that it was split out of.
    pub(crate) opened: Option<Range<usize>>,
}

impl Terms<'_> {
    /// Finds a mapping of the page on `frame`, if these terms allow to merge it and if it equals `page`,
    /// which is a folio of its own. Splits the twin out of a large page. An error tells nothing about a
    /// page that the terms do not allow to merge.
    ///
    /// `unstable_tree_search_insert()` in `mm/ksm.c` finds the page that it remembers by address instead.
    pub(super) fn find_twin(&self, frame: Frame, page: &PageRef) -> Result<Twin, Refusal> {
        let twin = PageRef::candidate(frame).ok_or(Refusal::TargetGone)?;
        let twin = twin.try_lock().ok_or(Refusal::Busy)?;
        let mut found = self.check_twin(&twin, page)?;
        if twin.is_large() {
            let opened = twin.large_at(found.addr);
            split(&twin)?;
            // The split may have unmapped the page where it was found.
            found = self.find_mapping(&twin)?;
            found.opened = opened;
        }
        if twin.is_pinned() {
            return Err(Refusal::TargetGone);
        }
        Ok(found)
    }

    /// Whether [`Self::find_twin`] is likely to succeed: checked before `page` is split out of a large
    /// page. It may still fail, for example on an old page that nothing maps any more, whose content has
    /// just moved to `page`.
    pub(super) fn expect_twin(&self, frame: Frame, page: &PageRef) -> Result<(), Refusal> {
        let twin = PageRef::candidate(frame).ok_or(Refusal::TargetGone)?;
        let twin = twin.try_lock().ok_or(Refusal::Busy)?;
        self.check_twin(&twin, page).map(drop)
    }

    /// Checks first who maps `twin`, and reads its bytes only if these terms allow to merge it.
    fn check_twin(&self, twin: &LockedPage<'_>, page: &PageRef) -> Result<Twin, Refusal> {
        if twin.kind() != Kind::Anonymous {
            return Err(Refusal::TargetGone);
        }
        self.check_few(twin).map_err(Refusal::of_target)?;
        let found = self.find_mapping(twin)?;
        self.check_split(twin, page, &found)?;
        expect_same(&page.content(), &twin.content())?;
        Ok(found)
    }

    /// Refuses a twin that is part of a large page which is not split.
    ///
    /// # Errors
    ///
    /// [`Refusal::KeptHuge`].
    fn check_split(
        &self,
        twin: &LockedPage<'_>,
        page: &PageRef,
        found: &Twin,
    ) -> Result<(), Refusal> {
        let parts = twin.parts();
        let is_split = !twin.is_large()
            || self.split.allows(1, parts)
            || self.split.relaxed().allows(1, parts)
                && (is_split_anyway(twin, page)
                    || (self.is_worth_splitting)(&found.mm, found.region));
        is_split.then_some(()).ok_or(Refusal::KeptHuge)
    }

    /// Finds a mapping of the folio of `twin` that these terms allow to replace.
    pub(super) fn find_mapping(&self, twin: &LockedPage<'_>) -> Result<Twin, Refusal> {
        let mut found = None;
        let walked = each_mapping(twin, &mut |vma, addr| {
            if !self.allows(vma) || Mapping::find(twin, vma, addr).is_none() {
                return ControlFlow::Continue(());
            }
            let (frame, mm) = (twin.frame(), ARef::from(vma.mm()));
            let region = vma.start_of_part(addr);
            found = Some(Twin {
                frame,
                mm,
                addr,
                region,
                opened: None,
            });
            ControlFlow::Break(())
        });
        if walked {
            found.ok_or(Refusal::TargetGone)
        } else {
            Err(Refusal::Busy)
        }
    }
}

/// Whether the large page of `twin` is split if that of `page` is.
///
/// It is if both are the same. And it is taken for a copy if the two have the same place in their large pages: then it
/// has as many mergeable parts.
fn is_split_anyway(twin: &LockedPage<'_>, page: &PageRef) -> bool {
    let apart = twin.frame().0 ^ page.frame().0;
    twin.folio() == page.folio()
        || twin.is_partially_mapped()
        || apart.checked_rem(twin.parts().into()) == Some(0)
}
