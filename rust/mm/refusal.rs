// SPDX-License-Identifier: GPL-2.0

//! The reasons why pages are not merged, and how often each occurred.
//!
//! The numbers and names of the reasons are those of the tracepoints, in `rust/shim/trace.h`.

use crate::shim;
use kernel::ffi::c_uint;
use kernel::prelude::*;

/// Why a page was not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Refusal {
    /// The page to merge is no longer an anonymous page that was not merged.
    Gone = shim::ksm_v_refusal_KSM_V_REFUSED_GONE,
    /// The page to merge it with is gone.
    TargetGone = shim::ksm_v_refusal_KSM_V_REFUSED_TARGET_GONE,
    /// One of the two pages is locked by somebody else, another thread waits for its page table, it can't
    /// be split now, or a secondary MMU can't drop it at once.
    Busy = shim::ksm_v_refusal_KSM_V_REFUSED_BUSY,
    /// Something other than page tables refers to the page.
    Pinned = shim::ksm_v_refusal_KSM_V_REFUSED_PINNED,
    /// The contents differ.
    Different = shim::ksm_v_refusal_KSM_V_REFUSED_DIFFERENT,
    /// The contents are equal, but not what was expected: both have changed.
    Changed = shim::ksm_v_refusal_KSM_V_REFUSED_CHANGED,
    /// No mapping of the page may be merged.
    LeftAlone = shim::ksm_v_refusal_KSM_V_REFUSED_LEFT_ALONE,
    /// The shared page would have more mappings than allowed.
    Full = shim::ksm_v_refusal_KSM_V_REFUSED_FULL,
    /// The page has several mappings.
    Involved = shim::ksm_v_refusal_KSM_V_REFUSED_INVOLVED,
    /// There is no memory for a shared page.
    NoMemory = shim::ksm_v_refusal_KSM_V_REFUSED_NO_MEMORY,
    /// The page has memory tags, which are not among its bytes.
    Tagged = shim::ksm_v_refusal_KSM_V_REFUSED_TAGGED,
    /// The page's memory can't be read: a hardware error was found when it was copied.
    Failed = shim::ksm_v_refusal_KSM_V_REFUSED_FAILED,
    /// The process is changing the VMA. Counted once for each VMA, not for each page.
    Locked = shim::ksm_v_refusal_KSM_V_REFUSED_LOCKED,
    /// The page or its twin is part of a large page which is not split (`huge_min_parts`).
    KeptHuge = shim::ksm_v_refusal_KSM_V_REFUSED_KEPT_HUGE,
}

/// The number of reasons.
const REASONS: usize = shim::ksm_v_refusal_KSM_V_REFUSAL_COUNT as usize;

impl Refusal {
    /// The refusal of the page to merge if its target was refused. A target that will always be refused
    /// counts as gone.
    pub(super) fn of_target(self) -> Self {
        match self {
            Refusal::Gone
            | Refusal::Pinned
            | Refusal::LeftAlone
            | Refusal::Tagged
            | Refusal::Failed => Refusal::TargetGone,
            other => other,
        }
    }
}

/// Counts of refusals, by reason.
#[derive(Clone, Copy, Default)]
pub(crate) struct Refusals([u64; REASONS]);

impl Refusals {
    /// Counts a refusal.
    pub(crate) fn count(&mut self, refusal: Refusal) {
        self.add(refusal, 1);
    }

    /// Counts a refusal of `pages` pages.
    pub(crate) fn add(&mut self, refusal: Refusal, pages: u64) {
        if let Some(count) = self.0.get_mut(refusal as usize) {
            *count = count.wrapping_add(pages);
        }
    }

    /// The number of refusals that may have been caused by references to the page or to its target which
    /// the kernel drops on request (LRU batches).
    pub(crate) fn for_references(&self) -> u64 {
        let count = |refusal| self.0.get(refusal as usize).copied().unwrap_or(0);
        count(Refusal::Pinned).wrapping_add(count(Refusal::TargetGone))
    }

    /// The names of all reasons, each with its count.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        (0..)
            .zip(&self.0)
            .map(|(reason, &count)| (name(reason), count))
    }
}

/// The name of the reason with this number.
fn name(reason: c_uint) -> &'static str {
    // SAFETY: The function returns null, or a string that lives as long as the module.
    let name = unsafe {
        let name = shim::ksm_v_refusal_name(reason);
        (!name.is_null()).then(|| CStr::from_char_ptr(name))
    };
    name.and_then(|name| name.to_str().ok()).unwrap_or("?")
}
