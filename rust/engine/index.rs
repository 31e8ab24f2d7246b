// SPDX-License-Identifier: GPL-2.0

//! The stable and the unstable set: contents by key, 12 bytes per entry.
//!
//! Both sets are in one table, so one lookup searches both. A content is either *unstable* (seen
//! `sightings` times, on a frame that its owner may change at any moment) or *stable* (on a shared
//! frame, which nobody can write to).

use crate::ids::Frame;
use crate::ids::Key;
use crate::table::Entry;

/// A pass, identified by the last bits of its number.
///
/// Two passes have different tags if they are less than [`PassTag::APART`] apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassTag(u8);

impl PassTag {
    const BITS: u32 = 4;
    const MASK: u32 = (1 << Self::BITS) - 1;
    /// Number of different tags.
    pub const APART: u8 = 1 << Self::BITS;

    /// The tag of the pass of this number.
    #[inline]
    pub fn of(pass: u64) -> Self {
        PassTag((pass % u64::from(Self::APART)) as u8)
    }

    /// The later of two passes, neither of which is before `now`.
    #[inline]
    pub fn later(self, other: Self, now: Self) -> Self {
        let ahead = |tag: Self| tag.0.wrapping_sub(now.0) % Self::APART;
        if ahead(self) < ahead(other) {
            other
        } else {
            self
        }
    }
}

/// A content in one of the two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Not merged yet.
    Unstable {
        /// Number of sightings; saturates.
        sightings: u8,
        /// The content is forgotten at the end of this pass, unless it is seen again.
        until: PassTag,
        /// Whether it was seen on the entry's own frame in this pass.
        met: bool,
    },
    /// Merged into a shared frame.
    Stable,
    /// Not a content but a sample that pages with different contents have. These pages are identified
    /// by their whole contents instead.
    Ambiguous {
        /// The entry is forgotten at the end of this pass, unless two pages with this sample are seen
        /// in one pass.
        until: PassTag,
        /// Whether a page of this sample was seen in this pass.
        met: bool,
    },
}

/// One content: its key, its state, and a frame that holds it.
///
/// Three words of 32 bits, so that an entry has 12 bytes:
/// - bits 0 to 31 of the key, inverted
/// - bits 32 to 40 of the key, inverted; bits 32 to 39 of the frame; sightings; the last pass;
///   whether it was met; the kind
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
const UNTIL_SHIFT: u32 = SIGHTINGS_SHIFT + u8::BITS;
const MET: u32 = 1 << (UNTIL_SHIFT + PassTag::BITS);
const KIND_SHIFT: u32 = UNTIL_SHIFT + PassTag::BITS + 1;
const _: () = assert!(KIND_SHIFT + 2 == u32::BITS);

const KIND_MASK: u32 = u32::MAX << KIND_SHIFT;
/// The bits that encode a [`EntryState`].
const STATE_MASK: u32 = u32::MAX << SIGHTINGS_SHIFT;

/// Values of the upper two bits of the second word; 0 is a vacant slot.
const UNSTABLE: u32 = 1 << KIND_SHIFT;
const STABLE: u32 = 2 << KIND_SHIFT;
const AMBIGUOUS: u32 = 3 << KIND_SHIFT;

impl IndexEntry {
    /// Makes an entry. The frame of an ambiguous sample has no meaning.
    #[inline]
    pub fn new(key: Key, frame: Frame, state: EntryState) -> Self {
        // Inverted, so that a vacant slot has the greatest key.
        let key = !key.number();
        let key_high = (key >> 32) as u32 & KEY_HIGH_MASK;
        let frame_high = ((frame.0 & FRAME_MASK) >> 32) as u32;
        IndexEntry([
            key as u32,
            bits_of(state) | key_high | (frame_high << FRAME_HIGH_SHIFT),
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

    /// The state of the content: in which set it is.
    #[inline]
    pub fn state(&self) -> EntryState {
        let [_, word, _] = self.0;
        let until = PassTag::of((word >> UNTIL_SHIFT).into());
        let met = word & MET != 0;
        match word & KIND_MASK {
            STABLE => EntryState::Stable,
            AMBIGUOUS => EntryState::Ambiguous { until, met },
            _ => EntryState::Unstable {
                sightings: ((word >> SIGHTINGS_SHIFT) & 0xff) as u8,
                until,
                met,
            },
        }
    }

    /// Changes the state.
    #[inline]
    pub fn set_state(&mut self, state: EntryState) {
        let [_, word, _] = &mut self.0;
        *word = (*word & !STATE_MASK) | bits_of(state);
    }

    /// Counts one more sighting of an unstable content, on `frame` in the pass `now`. The content is
    /// now remembered until the pass `until` at least. Returns the number of sightings, and the entry's
    /// own frame.
    #[inline]
    pub fn see(&mut self, frame: Frame, now: PassTag, until: PassTag) -> (u8, Frame) {
        let twin = self.frame();
        let [_, word, _] = &mut self.0;
        let is_twin = twin == frame;
        let met = *word & MET != 0;
        // A frame that two processes map is seen twice in a pass, but counts once. Known only for the
        // remembered frame: the entry does not record others.
        let counts = u8::from(!(is_twin && met));
        let sightings = ((*word >> SIGHTINGS_SHIFT) as u8).saturating_add(counts);
        let last = PassTag::of((*word >> UNTIL_SHIFT).into()).later(until, now);
        *word = (*word & !STATE_MASK)
            | UNSTABLE
            | (u32::from(sightings) << SIGHTINGS_SHIFT)
            | last_pass(last, met || is_twin);
        (sightings, twin)
    }

    /// Whether the content is in the unstable set.
    #[inline]
    pub fn is_unstable(&self) -> bool {
        let [_, word, _] = self.0;
        word & KIND_MASK == UNSTABLE
    }

    /// Whether the content is in the unstable set and was seen more than once.
    #[inline]
    pub fn is_at_rest(&self) -> bool {
        let [_, word, _] = self.0;
        // The kind, and all bits of the sightings but the lowest. The entry is unstable and has one of
        // these bits set: it was seen more than once.
        let seen = word & (KIND_MASK | (0xfe << SIGHTINGS_SHIFT));
        UNSTABLE < seen && seen < STABLE
    }

    /// Whether the entry is forgotten at the end of this pass.
    #[inline]
    pub fn is_over(&self, ended: PassTag) -> bool {
        self.is_over_by(over_pattern(ended))
    }

    #[inline]
    fn is_over_by(&self, pattern: u32) -> bool {
        let [_, word, _] = self.0;
        (word ^ pattern) & OVER_MASK == 0
    }

    /// Ends a pass for these slots: marks each as not met in the next pass. Returns whether some entry
    /// [`Self::is_over`], and how many contents are [`Self::is_at_rest`], including those that are
    /// over.
    ///
    /// This loop visits every content in every pass, so it has no branches.
    #[inline]
    pub fn end_pass(slots: &mut [Self], ended: PassTag) -> EndOfPass {
        let pattern = over_pattern(ended);
        let mut found = EndOfPass::default();
        for slot in slots {
            let [_, word, _] = &mut slot.0;
            *word &= !MET;
            found.is_any_over |= slot.is_over_by(pattern);
            found.at_rest = found.at_rest.wrapping_add(u64::from(slot.is_at_rest()));
        }
        found
    }
}

/// The result of [`IndexEntry::end_pass`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndOfPass {
    /// Whether some entry must be forgotten.
    pub is_any_over: bool,
    /// Contents of the unstable set that were seen more than once.
    pub at_rest: u64,
}

/// The lower bit of the kind is set for entries that are remembered until some pass (unstable,
/// ambiguous), and clear for others (stable, vacant).
const FOR_A_WHILE: u32 = 1 << KIND_SHIFT;
const OVER_MASK: u32 = FOR_A_WHILE | (PassTag::MASK << UNTIL_SHIFT);

/// The value of the [`OVER_MASK`] bits of an entry that is forgotten at the end of this pass.
#[inline]
fn over_pattern(ended: PassTag) -> u32 {
    FOR_A_WHILE | (u32::from(ended.0) << UNTIL_SHIFT)
}

#[inline]
fn bits_of(state: EntryState) -> u32 {
    match state {
        EntryState::Stable => STABLE,
        EntryState::Unstable {
            sightings,
            until,
            met,
        } => UNSTABLE | (u32::from(sightings) << SIGHTINGS_SHIFT) | last_pass(until, met),
        EntryState::Ambiguous { until, met } => AMBIGUOUS | last_pass(until, met),
    }
}

#[inline]
fn last_pass(until: PassTag, met: bool) -> u32 {
    (u32::from(until.0) << UNTIL_SHIFT) | (u32::from(met) * MET)
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

    #[inline]
    fn is_before(&self, hash: u64) -> bool {
        // Compares the inverted values, which saves an instruction in a loop. The low bits of a hash
        // are zero.
        let [low, word, _] = self.0;
        ((u64::from(word) << 32) | u64::from(low)) << (u64::BITS - Key::BITS) > !hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_what_it_was_made_of() {
        let (first, last) = (PassTag::of(0), PassTag::of(u64::MAX));
        let states = [
            EntryState::Stable,
            EntryState::Unstable {
                sightings: 0,
                until: first,
                met: true,
            },
            EntryState::Unstable {
                sightings: 255,
                until: last,
                met: false,
            },
            EntryState::Ambiguous {
                until: last,
                met: false,
            },
            EntryState::Ambiguous {
                until: first,
                met: true,
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

    #[test]
    fn of_two_passes_the_later_is_found() {
        for now in 0..40 {
            let tag = |ahead: u64| PassTag::of(now + ahead);
            for (a, b) in [(0, 1), (1, 8), (0, 15), (8, 8)] {
                assert_eq!(tag(a).later(tag(b), tag(0)), tag(b));
                assert_eq!(tag(b).later(tag(a), tag(0)), tag(b));
            }
        }
    }

    #[test]
    fn with_the_end_of_a_pass_an_entry_is_unmet() {
        let state = |met| EntryState::Unstable {
            sightings: 7,
            until: PassTag::of(9),
            met,
        };
        let mut entry = IndexEntry::new(Key::of_sample(7), Frame(3), state(true));
        let mut end_pass = |pass| {
            let found = IndexEntry::end_pass(core::slice::from_mut(&mut entry), PassTag::of(pass));
            assert_eq!(found.is_any_over, entry.is_over(PassTag::of(pass)));
            assert_eq!(entry.state(), state(false));
            (found.is_any_over, found.at_rest)
        };
        assert_eq!(end_pass(8), (false, 1));
        assert_eq!(end_pass(8), (false, 1));
        assert_eq!(end_pass(9), (true, 1));
    }

    #[test]
    fn what_is_stable_or_vacant_is_never_over() {
        for pass in 0..u64::from(PassTag::APART) {
            let ended = PassTag::of(pass);
            let key = Key::of_sample(u64::MAX);
            let state = EntryState::Ambiguous {
                until: ended,
                met: true,
            };
            let ambiguous = IndexEntry::new(key, Frame(FRAME_MASK), state);
            let stable = IndexEntry::new(key, Frame(FRAME_MASK), EntryState::Stable);
            let found = IndexEntry::end_pass(&mut [stable, IndexEntry::default()], ended);
            assert_eq!(found, EndOfPass::default());
            assert!(ambiguous.is_over(ended));
            assert!(!ambiguous.is_over(PassTag::of(pass + 1)));
        }
    }

    #[test]
    fn at_rest_is_what_was_seen_twice_and_is_not_merged() {
        for sightings in 0..=255 {
            let state = EntryState::Unstable {
                sightings,
                until: PassTag::of(15),
                met: true,
            };
            let entry = IndexEntry::new(Key::default(), Frame(FRAME_MASK), state);
            assert_eq!(entry.is_at_rest(), sightings > 1);
        }
        let stable = IndexEntry::new(Key::default(), Frame(FRAME_MASK), EntryState::Stable);
        assert!(!stable.is_at_rest());
    }

    #[test]
    fn a_new_state_leaves_key_and_frame_as_they_are() {
        let key = Key::of_sample(u64::MAX);
        let mut entry = IndexEntry::new(key, Frame(FRAME_MASK), EntryState::Stable);
        let state = EntryState::Unstable {
            sightings: 255,
            until: PassTag::of(15),
            met: true,
        };
        for state in [state, EntryState::Stable] {
            entry.set_state(state);
            assert_eq!(
                (entry.hash(), entry.frame(), entry.state()),
                (key.hash(), Frame(FRAME_MASK), state)
            );
        }
    }
}
