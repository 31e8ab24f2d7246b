// SPDX-License-Identifier: GPL-2.0

//! Why pages are not merged, and how often.
//!
//! The numbers and names of the reasons are those of the tracepoints, in `rust/shim/trace.h`.

use crate::shim;
use kernel::ffi::c_uint;
use kernel::prelude::*;

/// Why a page was not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Refusal {
    /// The page to merge is no unmerged anonymous page any more.
    Gone = shim::ksm_v_refusal_KSM_V_REFUSED_GONE,
    /// What it was to be merged with is not there any more.
    TargetGone = shim::ksm_v_refusal_KSM_V_REFUSED_TARGET_GONE,
    /// Someone else has locked one of the two, or waits for its page table, or it can't be split just
    /// now, or a secondary MMU can't forget it at once.
    Busy = shim::ksm_v_refusal_KSM_V_REFUSED_BUSY,
    /// Something other than page tables refers to it.
    Pinned = shim::ksm_v_refusal_KSM_V_REFUSED_PINNED,
    /// The contents differ.
    Different = shim::ksm_v_refusal_KSM_V_REFUSED_DIFFERENT,
    /// They are equal, and not what was expected: both have changed.
    Changed = shim::ksm_v_refusal_KSM_V_REFUSED_CHANGED,
    /// No mapping of it may be merged.
    LeftAlone = shim::ksm_v_refusal_KSM_V_REFUSED_LEFT_ALONE,
    /// The shared page would have more mappings than it may have.
    Full = shim::ksm_v_refusal_KSM_V_REFUSED_FULL,
    /// It has several mappings.
    Involved = shim::ksm_v_refusal_KSM_V_REFUSED_INVOLVED,
    /// There is no memory for a shared page.
    NoMemory = shim::ksm_v_refusal_KSM_V_REFUSED_NO_MEMORY,
    /// It has memory tags, which are not among its bytes.
    Tagged = shim::ksm_v_refusal_KSM_V_REFUSED_TAGGED,
    /// Its memory can't be read: a hardware error that showed when it was copied.
    Failed = shim::ksm_v_refusal_KSM_V_REFUSED_FAILED,
    /// Its process is changing the area: counted once for each area, not for each page.
    Locked = shim::ksm_v_refusal_KSM_V_REFUSED_LOCKED,
}

/// How many reasons there are.
const REASONS: usize = shim::ksm_v_refusal_KSM_V_REFUSAL_COUNT as usize;

impl Refusal {
    /// What it means for the page to merge if its target refuses: one that will go on refusing is
    /// as good as gone.
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

/// How often pages were refused, by reason.
#[derive(Clone, Copy, Default)]
pub(crate) struct Refusals([u64; REASONS]);

impl Refusals {
    /// Counts one more.
    pub(crate) fn count(&mut self, refusal: Refusal) {
        self.add(refusal, 1);
    }

    /// Counts so many more.
    pub(crate) fn add(&mut self, refusal: Refusal, pages: u64) {
        if let Some(count) = self.0.get_mut(refusal as usize) {
            *count = count.wrapping_add(pages);
        }
    }

    /// How often it may have been for a reference that the kernel gives up when it is asked to: to the
    /// page, or to what it was to be merged with.
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
    // SAFETY: Returns null or a string that lives as long as the module.
    let name = unsafe {
        let name = shim::ksm_v_refusal_name(reason);
        (!name.is_null()).then(|| CStr::from_char_ptr(name))
    };
    name.and_then(|name| name.to_str().ok()).unwrap_or("?")
}
