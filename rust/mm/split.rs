// SPDX-License-Identifier: GPL-2.0

//! Splits a page out of its large folio, without waiting for a device that maps the folio.
//!
//! `split_huge_page()` invalidates secondary MMUs, and waits for them: the driver of a GPU waits until the user's
//! jobs end. So each of them is first asked to drop the folio at once, as before a mapping is replaced. One that
//! can't keeps its folio whole. A device that maps the folio again in between is waited for, until the jobs end that
//! it started since.

use crate::mm::mmu_notifier::Invalidation;
use crate::mm::page::LockedPage;
use crate::mm::refusal::Refusal;
use crate::mm::rmap::each_mapping;
use core::ops::ControlFlow;
use engine::PAGE_SIZE;

/// Makes `page` a folio of its own, if it is part of a large folio.
///
/// # Errors
///
/// [`Refusal::Busy`]: a device would have to be waited for, or somebody else has a reference to the folio.
pub(super) fn split(page: &LockedPage<'_>) -> Result<(), Refusal> {
    if !page.is_large() {
        return Ok(());
    }
    if !devices_drop(page) {
        return Err(Refusal::Busy);
    }
    page.split().map_err(|_| Refusal::Busy)
}

/// Makes the secondary MMUs of all address spaces that map the folio of `page` drop it. Returns false if one of them
/// can't do that at once. Without secondary MMUs this is a walk of the reverse map, which costs little beside the
/// split.
fn devices_drop(page: &LockedPage<'_>) -> bool {
    let mut dropped = true;
    let bytes = (page.parts() as usize).saturating_mul(PAGE_SIZE);
    // The walk finds the address of the folio's first page in the VMA. A range that goes beyond the end of the VMA
    // does no harm: devices map what they dropped again when they need it.
    let walked = each_mapping(page, &mut |vma, addr| {
        let range = addr..addr.saturating_add(bytes);
        dropped = Invalidation::try_start(vma, range).is_some();
        if dropped {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    walked && dropped
}
