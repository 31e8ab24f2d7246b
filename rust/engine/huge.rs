// SPDX-License-Identifier: GPL-2.0

//! Large pages: whether it pays to split one.
//!
//! A page that is part of a large page can only be merged after the large page was split. The split costs the
//! process its TLB reach, so it has to pay: enough parts of the large page must be mergeable.

use crate::content::PAGE_SIZE;
use core::mem::size_of;

/// Number of pages in a huge page: the entries of a page table.
pub const HUGE_PARTS: u32 = (PAGE_SIZE / size_of::<u64>()) as u32;

/// Which large pages are split, by the number of their parts that are mergeable.
///
/// ```
/// # use engine::huge::SplitRule;
/// let rule = SplitRule::at_least(64);
/// assert!(rule.allows(64, 512));
/// assert!(!rule.allows(63, 512));
/// assert!(rule.allows(2, 16), "in proportion");
/// assert!(!SplitRule::at_least(0).allows(512, 512), "never");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitRule {
    /// Mergeable parts of a huge page at which it is split; 0: it is never split.
    min_parts: u16,
}

impl SplitRule {
    /// Splits a large page as soon as one of its parts is mergeable, as mainline does.
    pub const FOR_ONE: Self = SplitRule { min_parts: 1 };

    /// Splits a huge page if `min_parts` of its parts are mergeable, and a smaller large page in proportion.
    /// 0: splits none.
    pub const fn at_least(min_parts: u16) -> Self {
        SplitRule { min_parts }
    }

    /// The value of the knob.
    pub const fn min_parts(self) -> u16 {
        self.min_parts
    }

    /// The rule while memory matters more than TLB reach: splits for one part, unless this rule never splits.
    pub fn relaxed(self) -> Self {
        SplitRule {
            min_parts: self.min_parts.min(1),
        }
    }

    /// Whether a large page with `of` parts is split, `parts` of which are mergeable.
    pub fn allows(self, parts: u32, of: u32) -> bool {
        let wanted = u64::from(self.min_parts).saturating_mul(of.into());
        self.min_parts > 0 && u64::from(parts).saturating_mul(HUGE_PARTS.into()) >= wanted
    }
}
