// SPDX-License-Identifier: GPL-2.0

//! Decides which large pages are split. A part of a large page can be merged only after that.
//!
//! The mergeable parts of a large page are counted while its region is visited. Once they are enough, the
//! large page is split, and the rest of its parts is merged as it is met. A step may end within a large page;
//! the next visit merges the parts that were met before they were enough.
//!
//! A part is mergeable if the index has another frame for its content. So the caller puts the parts that stay in
//! the index: otherwise each of two large pages would be counted only for the parts whose content the index has on
//! the other one, and both could stay whole for ever.

use crate::mm::page::is_in_large_page;
use crate::mm::page::PageRef;
use crate::scan::gather::Candidate;
use crate::scan::regions::Visits;
use core::ops::Range;
use engine::huge::SplitRule;
use engine::huge::HUGE_PARTS;
use engine::Frame;
use kernel::prelude::*;

/// A large page that a step wants to split, mapped as a whole.
pub(super) struct Opened {
    /// The frame of one of its parts.
    pub(super) frame: Frame,
    /// The address of that part.
    pub(super) addr: usize,
    /// The addresses of all its parts.
    pub(super) range: Range<usize>,
}

impl Opened {
    /// Whether it was split.
    pub(super) fn is_split(&self) -> bool {
        !PageRef::get(self.frame).is_some_and(|page| page.is_large())
    }
}

/// A large page.
struct Large {
    /// The frames of its parts.
    frames: Range<u64>,
    /// The addresses of its parts; `None` if some of them are mapped no more. The kernel splits such a page under
    /// reclaim, and splitting it frees these parts.
    addresses: Option<Range<usize>>,
}

impl Large {
    /// The large page that `candidate` is part of, if any, as of this moment.
    fn of(candidate: &Candidate) -> Option<Self> {
        if !is_in_large_page(candidate.frame) {
            return None;
        }
        let page = PageRef::candidate(candidate.frame)?;
        let first = candidate.frame.0.saturating_sub(page.part());
        Some(Large {
            frames: first..first.saturating_add(page.parts().into()),
            addresses: page.large_at(candidate.addr),
        })
    }

    fn parts(&self) -> u32 {
        (self.frames.end - self.frames.start) as u32
    }

    fn contains(&self, candidate: &Candidate) -> bool {
        self.frames.contains(&candidate.frame.0)
    }
}

/// Moves the parts of large pages that `rule` does not split now to the end of `candidates`, which are sorted by
/// address. Returns the number of the others, which stay sorted. Adds their large pages to `opened`, as long as it
/// has room.
pub(super) fn keep_whole(
    candidates: &mut [Candidate],
    opened: &mut KVVec<Opened>,
    visits: &mut Visits,
    rule: SplitRule,
) -> usize {
    let (mut next, mut left) = (0, 0);
    while let Some(&first) = candidates.get(next) {
        let rest = candidates.get(next..).unwrap_or(&[]);
        let large = Large::of(&first);
        let is_beside = |other: &&Candidate| large.as_ref().is_some_and(|it| it.contains(other));
        let count = rest.iter().take_while(is_beside).count().max(1);
        let is_split = |large: &Large| is_split(large, &first, count, visits, rule);
        let end = next + count;
        if large.as_ref().is_none_or(is_split) {
            if let Some(range) = large.and_then(|large| large.addresses) {
                let Candidate { frame, addr, .. } = first;
                let _ = opened.push_within_capacity(Opened { frame, addr, range });
            }
            // No panic: `left` is at most `next`, and there are at least `end` candidates.
            (next..end).for_each(|no| candidates.swap(left + no - next, no));
            left += count;
        }
        next = end;
    }
    left
}

/// Whether `large` is split now. `first` is one of `count` mergeable parts that this step has found.
fn is_split(
    large: &Large,
    first: &Candidate,
    count: usize,
    visits: &mut Visits,
    rule: SplitRule,
) -> bool {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let in_region = visits.count_mergeable_in_large(first.visit, count);
    rule.allows(count, large.parts())
        || rule.allows(in_region, HUGE_PARTS)
        || large.addresses.is_none() && rule.relaxed().allows(count, large.parts())
        || visits.is_worth_splitting(first.visit)
}
