// SPDX-License-Identifier: GPL-2.0

//! How many pages may be merged into one shared frame: so few that no forks can overflow its counts.
//!
//! Each entry that maps a frame is one of its `_mapcount` and one of its `_refcount`, signed numbers
//! of 32 bits. A fork copies all entries of the parent, and asks nobody. So what has to be bounded is
//! how many entries *one address space* has of one frame. With at most [`PER_SPACE`] (2^8) of them, and
//! fewer than 2^22 address spaces (`PID_MAX_LIMIT`; each has a process or thread of its own), a frame
//! has less than 2^30 entries, whoever forks, and however often.
//!
//! A frame has two kinds of seats, and each page that is merged into the frame takes one:
//!
//! - [`COMMON`] seats are for everybody. An anonymous page is mapped once in an address space, so one
//!   more page means at most one more entry in each.
//! - Once these are taken, an address space gets up to [`OWN`] seats of its own, if it can't have
//!   inherited any entry of the frame: if it was not forked since its last exec, or was forked before
//!   the frame was made ([`Space`]). So thousands of processes can share one frame, and an address
//!   space has either own seats, or some that a parent passed on, and never both.
//!
//! Hence entries of an address space ≤ seats taken in common + [`OWN`]. In an address space there are
//! no more entries of a frame than in all, so with the end of each pass the seats taken in common are
//! no more than the frame's mappings ([`crate::shared::Shared::recount`]): seats whose pages have left
//! are free again. No merge is under way then, which would have a seat and no entry yet.

use crate::hash::mix;
use crate::ids::Frame;
use crate::shared::SharedFrame;
use crate::table::Entry;
use crate::table::Storage;
use crate::table::Table;

/// Seats of a frame that anybody's pages may take.
pub const COMMON: u32 = 128;

/// Seats that each address space may have besides.
pub const OWN: u32 = 128;

/// Entries of one frame that an address space has at the most.
pub const PER_SPACE: u32 = COMMON + OWN;

// Process ids are below `PID_MAX_LIMIT` (`include/linux/threads.h`).
const _: () = assert!(PER_SPACE as u64 * ((1 << 22) - 1) < 1 << 30);

/// An address space that takes seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// No other address space with the same `forked_at` has it while a frame is shared; one that does
    /// is refused seats, at worst.
    pub id: u64,
    /// When it was forked, at the latest, in nanoseconds since boot; `None`: it began with an exec.
    pub forked_at: Option<u64>,
}

impl Space {
    /// Whether it may have inherited entries of a frame that was made at `made_at`.
    fn may_have_inherited(&self, made_at: u64) -> bool {
        self.forked_at.is_some_and(|forked_at| forked_at >= made_at)
    }
}

/// A seat that a page has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The frame, and when it was made.
    frame: Frame,
    made_at: Option<u64>,
    /// Whose it is; `None`: one of the common ones.
    owner: Option<u64>,
}

/// The seats that one address space has of one frame.
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

    /// Takes a seat of `frame` for a page of `space` (`None`: it may be mapped in several); `None`
    /// where there is none left, or no memory to note it.
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

    /// Gives back a seat whose page was not merged. `frame` is what is known of the seat's frame by
    /// now. That may be another shared page on the same frame, of which no seat was taken; where it
    /// is not known when they were made, the two can't be told apart, and the end of the pass gives
    /// the seat back.
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

    /// Forgets the seats of frames that are not shared any more, and gives memory back.
    pub(crate) fn sweep(&mut self, storage: &S, is_shared: impl Fn(Frame) -> bool) {
        self.own.retain(|seats| is_shared(seats.frame));
        self.own.shrink(storage);
    }

    /// Memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.own.bytes()
    }
}

impl Seat {
    /// The frame that it is of.
    pub(crate) fn frame(&self) -> Frame {
        self.frame
    }
}

fn hash(frame: Frame, space: u64) -> u64 {
    // One in 2^64 is that of a vacant slot: it is not found, and so there is no seat.
    mix(mix(space) ^ frame.0)
}
