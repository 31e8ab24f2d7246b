// SPDX-License-Identifier: GPL-2.0

//! The shared frames, by frame number, with the counts of their mappings.
//!
//! No reference to a frame is held: one that all sharers left is freed by the kernel at once,
//! and its entry is stale until [`Shared::recount`] or a new shared page on the same frame
//! replaces it. Who uses an entry therefore checks the frame first.

use crate::hash::mix;
use crate::hash::unmix;
use crate::ids::Domain;
use crate::ids::Frame;
use crate::ids::Key;
use crate::table::Entry;
use crate::table::Full;
use crate::table::Storage;
use crate::table::Table;

/// How far a shared frame may be used. Frames of every standing are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// In the stable set: pages of its domain merge into it.
    Stable,
    /// Not in the stable set: it has all the sharers that it may have, or another frame has its content's
    /// place there, or there was no memory for that. The end of a pass may take it back.
    Retired,
    /// Nothing is merged into it (any more): it is new, or its content was forgotten or can't be read.
    #[default]
    Closed,
}

/// A shared frame.
#[derive(Clone, Copy, Default)]
pub struct SharedFrame {
    /// [`tag`] of the frame; 0 for a vacant slot.
    tag: u64,
    /// Under what it is in the stable set, where it is there.
    pub key: Key,
    /// Whose pages it holds.
    pub domain: Domain,
    /// How many page table entries map it.
    pub mappings: u32,
    /// How far it may be used.
    pub standing: Standing,
    /// Seats taken by anybody's pages ([`crate::seats`]), which may be more than there are.
    pub(crate) common: u32,
    /// When it was made, in nanoseconds since boot; 0: not known.
    pub(crate) made_at: u64,
}

impl SharedFrame {
    /// Describes the shared frame `frame`, which nothing maps yet.
    pub fn new(frame: Frame) -> Self {
        SharedFrame {
            tag: tag(frame),
            ..SharedFrame::default()
        }
    }

    /// When it was made, in nanoseconds since boot, if that is known.
    pub(crate) fn made_at(&self) -> Option<u64> {
        (self.made_at > 0).then_some(self.made_at)
    }

    /// The frame number.
    pub fn frame(&self) -> Frame {
        Frame(unmix(self.tag).wrapping_sub(1))
    }
}

impl SharedFrame {
    /// Whether pages are merged into it, or were, by the whole of their contents.
    pub fn is_told_apart(&self) -> bool {
        self.key.is_whole() && matches!(self.standing, Standing::Stable | Standing::Retired)
    }
}

impl Entry for SharedFrame {
    #[inline]
    fn is_vacant(&self) -> bool {
        self.tag == 0
    }

    #[inline]
    fn hash(&self) -> u64 {
        !self.tag
    }
}

/// What the table finds a frame by.
#[inline]
fn hash(frame: Frame) -> u64 {
    !tag(frame)
}

/// What a frame is remembered as: its number, spread over all bits, as that is what the table compares
/// in each slot of a search. Of no frame 0.
#[inline]
fn tag(frame: Frame) -> u64 {
    mix(frame.0.wrapping_add(1))
}

/// Contents with several shared frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// How many contents that are.
    pub contents: u64,
    /// How many frames they have.
    pub frames: u64,
}

impl Copies {
    /// Counts a content with so many frames.
    pub(crate) fn count(&mut self, frames: u32) {
        if frames > 1 {
            self.contents = self.contents.saturating_add(1);
            self.frames = self.frames.saturating_add(frames.into());
        }
    }
}

/// How many frames of a content are retired.
#[derive(Clone, Copy, Default)]
pub struct Retired {
    /// Inverted, so that a vacant slot has the greatest.
    not_hash: u64,
    pub(crate) frames: u32,
}

impl Retired {
    /// The first one of this key.
    pub(crate) fn first(key: Key) -> Self {
        Retired {
            not_hash: !key.hash(),
            frames: 1,
        }
    }
}

impl Entry for Retired {
    fn is_vacant(&self) -> bool {
        self.not_hash == 0
    }

    fn hash(&self) -> u64 {
        !self.not_hash
    }
}

/// All shared frames, and the sums over them.
pub struct Shared<S: Storage<SharedFrame>> {
    frames: Table<SharedFrame, S>,
    /// Frames with at least one mapping.
    shared: u64,
    /// Mappings of all frames.
    mappings: u64,
    /// Whether the last recount met a frame that is retired.
    has_retired: bool,
}

impl<S: Storage<SharedFrame>> Shared<S> {
    /// Makes an empty set.
    pub const fn new() -> Self {
        Shared {
            frames: Table::new(),
            shared: 0,
            mappings: 0,
            has_retired: false,
        }
    }

    /// Frames that are mapped.
    pub fn pages_shared(&self) -> u64 {
        self.shared
    }

    /// Mappings beyond the first of each frame.
    pub fn pages_sharing(&self) -> u64 {
        self.mappings.saturating_sub(self.shared)
    }

    /// Whether a frame was retired when they were counted last.
    pub fn has_retired(&self) -> bool {
        self.has_retired
    }

    /// Memory of the table, in bytes.
    pub fn bytes(&self) -> usize {
        self.frames.bytes()
    }

    /// Finds a frame.
    pub fn get(&self, frame: Frame) -> Option<&SharedFrame> {
        self.frames.get(hash(frame))
    }

    /// The frames behind `last`, or all of them, in an order of their own. A caller that goes on behind
    /// the last frame it met, whatever has changed meanwhile, meets each frame that stays once.
    pub fn frames_after(&self, last: Option<Frame>) -> impl Iterator<Item = Frame> + '_ {
        self.entries_after(last).map(SharedFrame::frame)
    }

    fn entries_after(&self, last: Option<Frame>) -> impl Iterator<Item = &SharedFrame> {
        let next = last.map_or(Some(0), |last| hash(last).checked_add(1));
        next.into_iter()
            .flat_map(|next| self.frames.entries_from(next))
    }

    /// The first retired frame behind `last`, in the order of [`Self::frames_after`].
    pub(crate) fn next_retired(&self, last: Option<Frame>) -> Option<SharedFrame> {
        // The symbol of `find()` is too long for objtool here.
        #[allow(clippy::manual_find)]
        for &entry in self.entries_after(last) {
            if entry.standing == Standing::Retired {
                return Some(entry);
            }
        }
        None
    }

    /// Finds a frame, to change what does not concern its mappings.
    pub(crate) fn get_mut(&mut self, frame: Frame) -> Option<&mut SharedFrame> {
        self.frames.get_mut(hash(frame))
    }

    /// Adds a frame that is not in the set.
    ///
    /// # Errors
    ///
    /// [`Full`] where there is no memory for it.
    pub fn insert(&mut self, storage: &S, entry: SharedFrame) -> Result<(), Full> {
        self.frames.insert(storage, entry)?;
        self.add(entry.mappings);
        Ok(())
    }

    /// Removes a frame and returns what was known of it.
    pub fn remove(&mut self, frame: Frame) -> Option<SharedFrame> {
        let entry = self.frames.remove(hash(frame))?;
        self.subtract(entry.mappings);
        Some(entry)
    }

    /// Changes a frame's entry, mappings included; false where it is not in the set.
    pub fn update(&mut self, frame: Frame, change: impl FnOnce(&mut SharedFrame)) -> bool {
        let Some(entry) = self.frames.get_mut(hash(frame)) else {
            return false;
        };
        let before = entry.mappings;
        change(entry);
        let after = entry.mappings;
        self.subtract(before);
        self.add(after);
        true
    }

    /// Asks `mappings` of every frame how many page table entries map it now (`None`: it is no
    /// shared frame any more), and drops those that are gone. Tells `met` of each, and whether it
    /// stays.
    ///
    /// With `new_pass`, seats of pages that have left are free again: no merge may be under way then.
    pub fn recount(
        &mut self,
        new_pass: bool,
        mut mappings: impl FnMut(Frame) -> Option<u32>,
        mut met: impl FnMut(&SharedFrame, bool),
    ) {
        let mut shared = 0u64;
        let mut total = 0u64;
        let mut has_retired = false;
        self.frames.retain(|entry| {
            let count = mappings(entry.frame()).filter(|&count| count > 0);
            let Some(count) = count else {
                met(entry, false);
                return false;
            };
            entry.mappings = count;
            if new_pass {
                entry.common = entry.common.min(count);
            }
            met(entry, true);
            has_retired |= entry.standing == Standing::Retired;
            shared = shared.saturating_add(1);
            total = total.saturating_add(u64::from(count));
            true
        });
        self.shared = shared;
        self.mappings = total;
        self.has_retired = has_retired;
    }

    /// Closes all frames: nothing is merged into them any more.
    pub(crate) fn close(&mut self) {
        self.frames.retain(|entry| {
            entry.standing = Standing::Closed;
            true
        });
        self.has_retired = false;
    }

    /// Gives memory back where there are few frames left.
    pub fn shrink(&mut self, storage: &S) {
        self.frames.shrink(storage);
    }

    fn add(&mut self, mappings: u32) {
        self.shared = self.shared.saturating_add(u64::from(mappings > 0));
        self.mappings = self.mappings.saturating_add(u64::from(mappings));
    }

    fn subtract(&mut self, mappings: u32) {
        self.shared = self.shared.saturating_sub(u64::from(mappings > 0));
        self.mappings = self.mappings.saturating_sub(u64::from(mappings));
    }
}

impl<S: Storage<SharedFrame>> Default for Shared<S> {
    fn default() -> Self {
        Self::new()
    }
}
