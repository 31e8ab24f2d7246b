// SPDX-License-Identifier: GPL-2.0

//! The stable and the unstable set: contents by their key, 12 bytes each.
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
    /// No content, but a sample that pages of different contents have: these are known by the
    /// whole of their contents instead.
    Ambiguous {
        /// The pass in which a page of this sample was seen last, by its parity.
        parity: bool,
        /// Whether there was more than one in that pass.
        several: bool,
    },
}

/// One content: its key, its state, and a frame that holds it.
///
/// Three words of 32 bits, so that an entry has 12 bytes:
/// - bits 0 to 31 of the key, inverted
/// - bits 32 to 43 of the key, inverted; bits 32 to 39 of the frame; sightings; two flags; the kind
/// - bits 0 to 31 of the frame
#[derive(Clone, Copy, Default)]
pub struct IndexEntry([u32; 3]);

/// Bits of a frame number: physical addresses have 52 at most.
const FRAME_BITS: u32 = 40;
const FRAME_MASK: u64 = (1 << FRAME_BITS) - 1;

const KEY_HIGH_MASK: u32 = (1 << (Key::BITS - 32)) - 1;
const FRAME_HIGH_SHIFT: u32 = Key::BITS - 32;
const FRAME_HIGH_MASK: u32 = (1 << (FRAME_BITS - 32)) - 1;
const SIGHTINGS_SHIFT: u32 = FRAME_HIGH_SHIFT + FRAME_BITS - 32;
const FLAG: u32 = 1 << 28;
const PARITY: u32 = 1 << 29;
const KIND_SHIFT: u32 = 30;

/// What the upper two bits of the second word say; 0 is a vacant slot.
const UNSTABLE: u32 = 1 << KIND_SHIFT;
const STABLE: u32 = 2 << KIND_SHIFT;
const AMBIGUOUS: u32 = 3 << KIND_SHIFT;

impl IndexEntry {
    /// Makes an entry. Of an ambiguous sample the frame means nothing.
    #[inline]
    pub fn new(key: Key, frame: Frame, state: State) -> Self {
        let state = match state {
            State::Stable => STABLE,
            State::Unstable {
                sightings,
                parity,
                on_frame,
            } => UNSTABLE | (u32::from(sightings) << SIGHTINGS_SHIFT) | flags(parity, on_frame),
            State::Ambiguous { parity, several } => AMBIGUOUS | flags(parity, several),
        };
        // Inverted, so that a vacant slot has the greatest key.
        let key = !key.number();
        let key_high = (key >> 32) as u32 & KEY_HIGH_MASK;
        let frame_high = ((frame.0 & FRAME_MASK) >> 32) as u32;
        IndexEntry([
            key as u32,
            state | key_high | (frame_high << FRAME_HIGH_SHIFT),
            frame.0 as u32,
        ])
    }

    /// The frame on which the content was seen.
    #[inline]
    pub fn frame(&self) -> Frame {
        let [_, word, low] = self.0;
        let high = (word >> FRAME_HIGH_SHIFT) & FRAME_HIGH_MASK;
        Frame((u64::from(high) << 32) | u64::from(low))
    }

    /// In which set the content is.
    #[inline]
    pub fn state(&self) -> State {
        let [_, word, _] = self.0;
        let (parity, flag) = (word & PARITY != 0, word & FLAG != 0);
        match word >> KIND_SHIFT << KIND_SHIFT {
            STABLE => State::Stable,
            AMBIGUOUS => State::Ambiguous {
                parity,
                several: flag,
            },
            _ => State::Unstable {
                sightings: ((word >> SIGHTINGS_SHIFT) & 0xff) as u8,
                parity,
                on_frame: flag,
            },
        }
    }
}

#[inline]
fn flags(parity: bool, flag: bool) -> u32 {
    (u32::from(parity) * PARITY) | (u32::from(flag) * FLAG)
}

impl Entry for IndexEntry {
    #[inline]
    fn is_vacant(&self) -> bool {
        let [_, word, _] = self.0;
        word >> KIND_SHIFT == 0
    }

    #[inline]
    fn hash(&self) -> u64 {
        let [low, word, _] = self.0;
        !((u64::from(word) << 32) | u64::from(low)) << (u64::BITS - Key::BITS)
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
            State::Ambiguous {
                parity: true,
                several: false,
            },
            State::Ambiguous {
                parity: false,
                several: true,
            },
        ];
        for state in states {
            for frame in [Frame(0), Frame(FRAME_MASK)] {
                for key in [
                    Key::of_sample(7),
                    Key::of_sample(u64::MAX),
                    Key::of_whole(!7, Key::default()),
                ] {
                    let entry = IndexEntry::new(key, frame, state);
                    assert!(!entry.is_vacant());
                    assert_eq!(
                        (entry.hash(), entry.frame(), entry.state()),
                        (key.hash(), frame, state)
                    );
                }
            }
        }
        assert!(IndexEntry::default().is_vacant());
        assert!(IndexEntry::default().hash() >= Key::of_sample(u64::MAX).hash());
        assert_eq!(core::mem::size_of::<IndexEntry>(), 12);
    }
}
