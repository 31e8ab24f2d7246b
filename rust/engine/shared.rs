// SPDX-License-Identifier: GPL-2.0

//! The shared frames by frame number, with their mapping counts.
//!
//! The engine holds no reference to a frame. The kernel frees a shared frame as soon as its last sharer
//! is gone. Its entry is then stale, until [`Shared::recount`] removes it or a new shared page on the
//! same frame replaces it. So a caller must check the frame before it uses an entry.

use crate::hash::mix;
use crate::hash::unmix;
use crate::ids::Domain;
use crate::ids::Frame;
use crate::ids::Key;
use crate::table::Entry;
use crate::table::Full;
use crate::table::Storage;
use crate::table::Table;

/// Whether pages may be merged into a shared frame. Frames of every standing are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// In the stable set: pages of its domain are merged into it.
    Stable,
    /// Not in the stable set: it has all the sharers it may have, or another frame has its key there,
    /// or there was no memory for the entry. The end of a pass may return it to the stable set.
    Retired,
    /// No pages are merged into it (any more): it is new, its content was forgotten, or it can't be
    /// read.
    #[default]
    Closed,
}

/// A shared frame.
#[derive(Clone, Copy, Default)]
pub struct SharedFrame {
    /// [`tag`] of the frame; 0 for a vacant slot.
    tag: u64,
    /// Key in the stable set, if present.
    pub key: Key,
    /// The domain of its pages.
    pub domain: Domain,
    /// Number of page table entries that map it.
    pub mappings: u32,
    /// Whether pages may be merged into it.
    pub standing: Standing,
    /// Number of common seats taken ([`crate::seats`]). Seats whose pages have left are still counted,
    /// until the end of the pass.
    pub(crate) common: u32,
    /// When it was made, in nanoseconds since boot; 0 if not known.
    pub(crate) made_at: u64,
}

impl SharedFrame {
    /// Makes the entry of the shared frame `frame`, which nothing maps yet.
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
    /// Whether it is filed under the key of its whole content, and pages are merged into it or may be
    /// again.
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

/// The hash by which the table finds a frame.
#[inline]
fn hash(frame: Frame) -> u64 {
    !tag(frame)
}

/// The tag of a frame: its number spread over all bits, since the table compares it in each slot of a
/// search. No frame has the tag 0.
#[inline]
fn tag(frame: Frame) -> u64 {
    mix(frame.0.wrapping_add(1))
}

/// Contents with several shared frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Number of these contents.
    pub contents: u64,
    /// Number of their frames.
    pub frames: u64,
}

impl Copies {
    /// Counts a content that has `frames` frames, if these are several.
    pub(crate) fn count(&mut self, frames: u32) {
        if frames > 1 {
            self.contents = self.contents.saturating_add(1);
            self.frames = self.frames.saturating_add(frames.into());
        }
    }
}

/// Number of retired frames of a content.
#[derive(Clone, Copy, Default)]
pub struct Retired {
    /// Inverted, so that a vacant slot has the highest hash.
    not_hash: u64,
    pub(crate) frames: u32,
}

impl Retired {
    /// Makes the entry of a key with one retired frame.
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

/// All shared frames, and their totals.
pub struct Shared<S: Storage<SharedFrame>> {
    frames: Table<SharedFrame, S>,
    /// Frames with at least one mapping.
    shared: u64,
    /// Mappings of all frames.
    mappings: u64,
    /// Whether the last recount found a retired frame.
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

    /// Number of frames with at least one mapping.
    pub fn pages_shared(&self) -> u64 {
        self.shared
    }

    /// Number of mappings beyond the first one of each frame.
    pub fn pages_sharing(&self) -> u64 {
        self.mappings.saturating_sub(self.shared)
    }

    /// Whether the last recount found a retired frame.
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

    /// Iterates over the frames after `last`, or over all frames, in the order of their hashes. A
    /// caller that repeatedly continues after the last frame it saw sees each frame that stays exactly
    /// once, even if the set changes meanwhile.
    pub fn frames_after(&self, last: Option<Frame>) -> impl Iterator<Item = Frame> + '_ {
        self.entries_after(last).map(SharedFrame::frame)
    }

    fn entries_after(&self, last: Option<Frame>) -> impl Iterator<Item = &SharedFrame> {
        let next = last.map_or(Some(0), |last| hash(last).checked_add(1));
        next.into_iter()
            .flat_map(|next| self.frames.entries_from(next))
    }

    /// The first retired frame after `last`, in the order of [`Self::frames_after`].
    pub(crate) fn next_retired(&self, last: Option<Frame>) -> Option<SharedFrame> {
        // A loop rather than iterator adapters: their symbol name would be too long for objtool.
        #[allow(clippy::manual_find)]
        for &entry in self.entries_after(last) {
            if entry.standing == Standing::Retired {
                return Some(entry);
            }
        }
        None
    }

    /// Finds a frame, for changes that keep the number of mappings.
    pub(crate) fn get_mut(&mut self, frame: Frame) -> Option<&mut SharedFrame> {
        self.frames.get_mut(hash(frame))
    }

    /// Adds a frame that is not in the set.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no memory for the entry.
    pub fn insert(&mut self, storage: &S, entry: SharedFrame) -> Result<(), Full> {
        self.frames.insert(storage, entry)?;
        self.add(entry.mappings);
        Ok(())
    }

    /// Removes a frame and returns its entry.
    pub fn remove(&mut self, frame: Frame) -> Option<SharedFrame> {
        let entry = self.frames.remove(hash(frame))?;
        self.subtract(entry.mappings);
        Some(entry)
    }

    /// Changes a frame's entry, including its number of mappings. Returns false if the frame is not in
    /// the set.
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

    /// Recounts all frames. `mappings` returns the number of page table entries that map a frame
    /// (`None`: it is no shared frame any more). Frames without mappings are removed. Calls `met` for
    /// each frame, with whether it stays.
    ///
    /// With `new_pass`, the common seats of pages that have left become free. No merge may be in
    /// progress then: it has taken a seat, but its mapping is not yet counted.
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

    /// Closes all frames: no pages are merged into them any more.
    pub(crate) fn close(&mut self) {
        self.frames.retain(|entry| {
            entry.standing = Standing::Closed;
            true
        });
        self.has_retired = false;
    }

    /// Frees memory if few frames are left.
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
