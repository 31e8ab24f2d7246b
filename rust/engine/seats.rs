// SPDX-License-Identifier: GPL-2.0

//! Limits how many pages are merged into one shared frame, so that no series of forks can overflow its
//! counters.
//!
//! Each page table entry that maps a frame counts in its `_mapcount` and in its `_refcount`, signed
//! 32-bit numbers. A fork copies all entries of the parent without asking the module. So the number of
//! entries that *one address space* has of one frame must be bounded. With at most [`PER_SPACE`] (2^8)
//! of them, and fewer than 2^22 address spaces (`PID_MAX_LIMIT`; each address space has a process or
//! thread of its own), a frame has fewer than 2^30 entries, whichever processes fork, and however
//! often.
//!
//! A frame has two kinds of seats. Each page that is merged into the frame takes one:
//!
//! - [`COMMON`] seats are open to all pages. An anonymous page is mapped at most once in an address
//!   space, so one more page adds at most one entry to each address space.
//! - Once these are taken, an address space gets up to [`OWN`] seats of its own, but only if it can't
//!   have inherited any entry of the frame: it was not forked since its last exec, or it was forked
//!   before the frame was made ([`Space`]). So thousands of processes can share one frame, and an
//!   address space either has seats of its own or entries inherited from a parent, never both.
//!
//! Hence the entries of an address space number at most the common seats taken, plus [`OWN`].
//!
//! Common seats become free when their pages have left. An address space has no more entries of a frame
//! than the frame has in total, so the end of each pass lowers the number of common seats taken to the
//! number of mappings ([`crate::shared::Shared::recount`]). No merge is in progress then: it would have
//! taken a seat without having added its entry.

use crate::hash::mix;
use crate::ids::Frame;
use crate::shared::SharedFrame;
use crate::table::Entry;
use crate::table::Storage;
use crate::table::Table;

/// Number of seats of a frame that are open to all pages.
pub const COMMON: u32 = 128;

/// Number of further seats for each address space.
pub const OWN: u32 = 128;

/// Largest number of entries of one frame in an address space.
pub const PER_SPACE: u32 = COMMON + OWN;

// Process ids are below `PID_MAX_LIMIT` (`include/linux/threads.h`).
const _: () = assert!(PER_SPACE as u64 * ((1 << 22) - 1) < 1 << 30);

/// An address space that takes seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// ID of the address space. While a frame is shared, no other address space with the same
    /// `forked_at` has the same ID; if one does, the worst result is that it gets no seat.
    pub id: u64,
    /// A time at or after its fork, in nanoseconds since boot; `None` if it began with an exec.
    pub forked_at: Option<u64>,
}

impl Space {
    /// Whether it may have inherited entries of a frame that was made at `made_at` or later.
    fn may_have_inherited(&self, made_at: u64) -> bool {
        self.forked_at.is_some_and(|forked_at| forked_at >= made_at)
    }
}

/// A seat that a page has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The frame, and the time when it was made.
    frame: Frame,
    made_at: Option<u64>,
    /// The address space that owns it; `None` for a common seat.
    owner: Option<u64>,
}

/// The own seats that one address space has taken of one frame.
#[derive(Clone, Copy, Default)]
pub struct OwnSeats {
    /// Inverted, so that a vacant slot has the greatest hash.
    not_hash: u64,
    frame: Frame,
    taken: u32,
}

impl OwnSeats {
    fn none(frame: Frame, hash: u64) -> Self {
        OwnSeats {
            not_hash: !hash,
            frame,
            taken: 0,
        }
    }
}

impl Entry for OwnSeats {
    fn is_vacant(&self) -> bool {
        self.not_hash == 0
    }

    fn hash(&self) -> u64 {
        !self.not_hash
    }
}

/// The own seats of all address spaces.
pub(crate) struct Seats<S: Storage<OwnSeats>> {
    own: Table<OwnSeats, S>,
}

impl<S: Storage<OwnSeats>> Seats<S> {
    pub(crate) const fn new() -> Self {
        Seats { own: Table::new() }
    }

    /// Takes a seat of `frame` for a page of `space` (`None`: the page may be mapped in several).
    /// Returns `None` if no seat is left, or if there is no memory to record it.
    pub(crate) fn take(
        &mut self,
        storage: &S,
        frame: &mut SharedFrame,
        space: Option<Space>,
    ) -> Option<Seat> {
        let made_at = frame.made_at();
        let owner = if frame.common < COMMON {
            frame.common = frame.common.saturating_add(1);
            None
        } else {
            let space =
                space.filter(|space| made_at.is_some_and(|at| !space.may_have_inherited(at)))?;
            Some(self.take_own(storage, frame.frame(), space.id)?)
        };
        Some(Seat {
            frame: frame.frame(),
            made_at,
            owner,
        })
    }

    fn take_own(&mut self, storage: &S, frame: Frame, space: u64) -> Option<u64> {
        let hash = hash(frame, space);
        if self.own.get(hash).is_none() {
            self.own.insert(storage, OwnSeats::none(frame, hash)).ok()?;
        }
        let seats = self.own.get_mut(hash).filter(|seats| seats.taken < OWN)?;
        seats.taken = seats.taken.saturating_add(1);
        Some(space)
    }

    /// Returns a seat whose page was not merged. `frame` is the present entry of the seat's frame. By
    /// now that may describe another shared page on the same frame, of which no seat was taken. If the
    /// two can't be told apart, since the time when they were made is not known, the seat stays taken
    /// until the end of the pass.
    pub(crate) fn give_back(&mut self, frame: &mut SharedFrame, seat: Seat) {
        if seat.made_at.is_none() || frame.made_at() != seat.made_at {
            return;
        }
        match seat.owner {
            None => frame.common = frame.common.saturating_sub(1),
            Some(space) => {
                if let Some(seats) = self.own.get_mut(hash(seat.frame, space)) {
                    seats.taken = seats.taken.saturating_sub(1);
                }
            }
        }
    }

    /// Forgets the seats of frames that are no longer shared, and frees memory.
    pub(crate) fn sweep(&mut self, storage: &S, is_shared: impl Fn(Frame) -> bool) {
        self.own.retain(|seats| is_shared(seats.frame));
        self.own.shrink(storage);
    }

    /// Memory of the table, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.own.bytes()
    }
}

impl Seat {
    /// The frame of this seat.
    pub(crate) fn frame(&self) -> Frame {
        self.frame
    }
}

fn hash(frame: Frame, space: u64) -> u64 {
    // One hash in 2^64 equals the hash of a vacant slot: it is never found, so there is no seat.
    mix(mix(space) ^ frame.0)
}
