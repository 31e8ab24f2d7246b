// SPDX-License-Identifier: GPL-2.0

//! What happens on a machine while the scanner works: processes map, write, fork and exit.

use crate::letters::Letter;
use crate::memory::Plan;
use engine::Domain;
use engine::HashKind;

/// Virtual pages of the machine.
pub const SLOTS: usize = 10;

/// How a story begins, and how it goes on.
#[derive(Clone, Debug)]
pub struct Story {
    /// How it begins.
    pub setting: Setting,
    /// What happens, one after the other.
    pub ops: Vec<Op>,
}

/// How a story begins.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What the scanner hashes with.
    pub hash: HashKind,
    /// What its keys are seeded with.
    pub seed: u64,
    /// Which allocations succeed.
    pub plan: Plan,
    /// The knob.
    pub promote_after: u8,
}

/// What becomes of a merge that the engine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pages are merged where they are equal.
    Merge,
    /// The page is pinned, or a lock is held: nothing happens.
    Fail,
    /// As `Merge`, but onto a fresh frame even where there is a shared one.
    Fresh,
}

/// A step of a story. Slots are below [`SLOTS`].
#[derive(Clone, Debug)]
pub enum Op {
    /// Processes of `domain` have new pages of content `letter` in `count` slots from `first`.
    Map {
        /// The first slot.
        first: usize,
        /// How many slots; behind the last one comes the first.
        count: usize,
        /// Whose pages.
        domain: Domain,
        /// Their content.
        letter: Letter,
    },
    /// The process writes: the content becomes `letter`, in a private copy where need be.
    Write {
        /// Where.
        slot: usize,
        /// What.
        letter: Letter,
        /// Whether the engine hears of it where the mapping of a shared page is broken.
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
    /// All processes exit that map the page in `slot`.
    Free {
        /// One of their slots.
        slot: usize,
    },
    /// The scanner looks at a page.
    Scan {
        /// Where.
        slot: usize,
        /// What becomes of a merge.
        outcome: Outcome,
    },
    /// The scanner looks at all pages and ends its pass.
    Pass {
        /// What becomes of each merge.
        outcome: Outcome,
    },
    /// The scanner ends its pass early.
    EndPass,
    /// The counts are brought up to date.
    Recount,
    /// The scanner forgets all contents.
    ForgetContents,
    /// It forgets the shared frames, too.
    Init,
    /// The knob is set.
    PromoteAfter(u8),
    /// The knob is set.
    MaxPageSharing(u32),
    /// How often each page is looked at, at the least, and how often those from now on.
    Interval {
        /// The knob.
        longest: u8,
        /// For how many passes contents are remembered.
        remembered_for: u8,
    },
    /// The scanner looks at so many pages of contents that nobody else has.
    Flood(u16),
    /// Memory behaves like this from now on.
    Memory(Plan),
}
