// SPDX-License-Identifier: GPL-2.0

//! The stable and the unstable set: contents by their key, 16 bytes each.
//!
//! Both sets live in one table, so that one probe answers for both. A content is either
//! *unstable* (seen `sightings` times, on a frame that its owner may change at any moment) or
//! *stable* (a shared frame, which nobody can write to).

use crate::ids::Frame;
use crate::ids::Key;
use crate::table::Entry;

/// A content in one of the two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not merged yet.
    Unstable {
        /// How often it was seen; saturates.
        sightings: u8,
        /// The pass in which it was seen last, by its parity.
        parity: bool,
        /// Whether it was seen on the entry's own frame in that pass, not only on others.
        on_frame: bool,
    },
    /// Merged into a shared frame.
    Stable,
}

/// One content: its key, its state, and a frame that holds it.
#[derive(Clone, Copy, Default)]
pub struct IndexEntry {
    key: u64,
    /// Bits 0 to 47: frame. 48 to 55: sightings. 60: on frame. 61: parity. 62: stable.
    /// 63: occupied.
    packed: u64,
}

const FRAME_MASK: u64 = (1 << 48) - 1;
const SIGHTINGS_SHIFT: u32 = 48;
const ON_FRAME: u64 = 1 << 60;
const PARITY: u64 = 1 << 61;
const STABLE: u64 = 1 << 62;
const OCCUPIED: u64 = 1 << 63;

impl IndexEntry {
    /// Makes an entry. Frame numbers have at most 48 bits (physical addresses at most 60).
    pub fn new(key: Key, frame: Frame, state: State) -> Self {
        let state = match state {
            State::Stable => STABLE,
            State::Unstable {
                sightings,
                parity,
                on_frame,
            } => {
                (u64::from(sightings) << SIGHTINGS_SHIFT)
                    | if parity { PARITY } else { 0 }
                    | if on_frame { ON_FRAME } else { 0 }
            }
        };
        IndexEntry {
            key: key.0,
            packed: OCCUPIED | state | (frame.0 & FRAME_MASK),
        }
    }

    /// The frame on which the content was seen.
    pub fn frame(&self) -> Frame {
        Frame(self.packed & FRAME_MASK)
    }

    /// In which set the content is.
    pub fn state(&self) -> State {
        if self.packed & STABLE != 0 {
            State::Stable
        } else {
            State::Unstable {
                sightings: ((self.packed >> SIGHTINGS_SHIFT) & 0xff) as u8,
                parity: self.packed & PARITY != 0,
                on_frame: self.packed & ON_FRAME != 0,
            }
        }
    }
}

impl Entry for IndexEntry {
    #[inline]
    fn is_vacant(&self) -> bool {
        self.packed & OCCUPIED == 0
    }

    #[inline]
    fn key(&self) -> u64 {
        self.key
    }

    /// Keys are hashes already.
    #[inline]
    fn hash(key: u64) -> u64 {
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_what_it_was_made_of() {
        let states = [
            State::Stable,
            State::Unstable {
                sightings: 0,
                parity: false,
                on_frame: true,
            },
            State::Unstable {
                sightings: 255,
                parity: true,
                on_frame: false,
            },
        ];
        for state in states {
            for frame in [Frame(0), Frame(FRAME_MASK)] {
                let entry = IndexEntry::new(Key(7), frame, state);
                assert!(!entry.is_vacant());
                assert_eq!(
                    (entry.key(), entry.frame(), entry.state()),
                    (7, frame, state)
                );
            }
        }
        assert!(IndexEntry::default().is_vacant());
        assert_eq!(core::mem::size_of::<IndexEntry>(), 16);
    }
}
