// SPDX-License-Identifier: GPL-2.0

//! What happens on a machine while the scanner works: processes map, write, fork and exit.

use crate::letters::Letter;
use crate::memory::Plan;
use engine::Domain;
use engine::HashKind;

/// Virtual pages of the machine.
pub const SLOTS: usize = 10;

/// A story: its setting and its operations.
#[derive(Clone, Debug)]
pub struct Story {
    /// The setting.
    pub setting: Setting,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// The setting of a story.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The hash of the scanner.
    pub hash: HashKind,
    /// The seed of its keys.
    pub seed: u64,
    /// Which allocations succeed.
    pub plan: Plan,
    /// The knob `promote_after`, before the story begins.
    pub promote_after: u8,
}

/// The outcome of a merge that the engine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pages are merged if they are equal.
    Merge,
    /// The page is pinned, or a lock is held: nothing happens.
    Fail,
    /// Like `Merge`, but onto a fresh frame even if there is a shared one.
    Fresh,
    /// Like `Merge`, but a twin is part of a large page that is not split.
    KeptHuge,
}

/// A step of a story. Slots are below [`SLOTS`].
#[derive(Clone, Debug)]
pub enum Op {
    /// Processes of `domain` have new pages of content `letter` in `count` slots from `first`.
    Map {
        /// The first slot.
        first: usize,
        /// Number of slots, with wraparound after the last slot.
        count: usize,
        /// The domain of the pages.
        domain: Domain,
        /// Their content.
        letter: Letter,
    },
    /// The process writes: the content becomes `letter`, in a private copy if necessary.
    Write {
        /// Where.
        slot: usize,
        /// What.
        letter: Letter,
        /// Whether the engine is told if this breaks the mapping of a shared page.
        report: bool,
    },
    /// The page in `from` is mapped in `to` too.
    Fork {
        /// The parent's slot.
        from: usize,
        /// The child's slot.
        to: usize,
        /// The domain to which the child has changed.
        domain: Option<Domain>,
    },
    /// The process exits.
    Unmap {
        /// Its slot.
        slot: usize,
    },
    /// All processes that map the page in `slot` exit.
    Free {
        /// One of their slots.
        slot: usize,
    },
    /// The scanner scans a page.
    Scan {
        /// Where.
        slot: usize,
        /// The outcome of a merge.
        outcome: Outcome,
    },
    /// The scanner scans all pages and ends its pass.
    Pass {
        /// The outcome of each merge.
        outcome: Outcome,
    },
    /// The scanner ends its pass early.
    EndPass,
    /// The counts are updated.
    Recount,
    /// The scanner forgets all contents.
    ForgetContents,
    /// It forgets the shared frames, too.
    Init,
    /// The knob is set.
    PromoteAfter(u8),
    /// The knob is set.
    MaxPageSharing(u32),
    /// The longest interval between visits is set, and for how long contents seen from now on are
    /// remembered.
    Interval {
        /// The knob `max_interval`.
        longest: u8,
        /// Number of passes for which contents are remembered.
        remembered_for: u8,
    },
    /// The scanner scans this many pages, each with a content of its own.
    Flood(u16),
    /// Allocations follow this plan from now on.
    Memory(Plan),
}
