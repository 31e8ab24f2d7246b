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

/// How far a shared frame may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// In the stable set: pages of its domain merge into it.
    #[default]
    Stable,
    /// Met in memory, and not known: forgotten with all contents, or not remembered for want of memory. Not all of its mappings have been
    /// seen in this pass, so it may reach into another domain. Counted, not merged into.
    Found {
        /// Mappings seen in this pass.
        seen: u32,
    },
    /// Was in the stable set until it had all the sharers it may have. Counted, not merged into.
    Retired,
    /// Met in several domains. Counted, never merged into in this pass.
    Mixed,
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
    made_at: u64,
}

impl SharedFrame {
    /// Describes the shared frame `frame`. Each of its mappings has taken a seat, for all that is known.
    pub fn new(frame: Frame, key: Key, domain: Domain, mappings: u32, standing: Standing) -> Self {
        SharedFrame {
            tag: tag(frame),
            key,
            domain,
            mappings,
            standing,
            common: mappings,
            made_at: 0,
        }
    }

    /// When it was made, in nanoseconds since boot, if that is known.
    pub(crate) fn made_at(&self) -> Option<u64> {
        (self.made_at > 0).then_some(self.made_at)
    }

    /// Takes note of when it was made, and of how many pages.
    pub(crate) fn set_made(&mut self, made_at: u64, pages: u32) {
        self.made_at = made_at;
        self.common = pages;
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
    /// Whether the last recount met a frame that is not in the stable set.
    unsettled: bool,
    /// Whether it met one that is retired.
    has_retired: bool,
}

impl<S: Storage<SharedFrame>> Shared<S> {
    /// Makes an empty set.
    pub const fn new() -> Self {
        Shared {
            frames: Table::new(),
            shared: 0,
            mappings: 0,
            unsettled: false,
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

    /// Whether there was a frame outside the stable set when they were counted last.
    pub fn has_unsettled(&self) -> bool {
        self.unsettled
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

    /// The frames behind `last`, or all of them, in an order of their own: who goes on behind the
    /// last one met, whatever has changed meanwhile, meets each that stays once.
    pub fn frames_after(&self, last: Option<Frame>) -> impl Iterator<Item = Frame> + '_ {
        let next = last.map_or(Some(0), |last| hash(last).checked_add(1));
        let entries = next
            .into_iter()
            .flat_map(|next| self.frames.entries_from(next));
        entries.map(SharedFrame::frame)
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
    /// With `new_pass`, what was found out about domains in this pass is forgotten too, and seats of
    /// pages that have left are free again: no merge may be under way then.
    pub fn recount(
        &mut self,
        new_pass: bool,
        mut mappings: impl FnMut(Frame) -> Option<u32>,
        mut met: impl FnMut(&SharedFrame, bool),
    ) {
        let mut shared = 0u64;
        let mut total = 0u64;
        let (mut unsettled, mut has_retired) = (false, false);
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
            if new_pass && matches!(entry.standing, Standing::Found { .. } | Standing::Mixed) {
                entry.standing = Standing::Found { seen: 0 };
            }
            met(entry, true);
            unsettled |= entry.standing != Standing::Stable;
            has_retired |= entry.standing == Standing::Retired;
            shared = shared.saturating_add(1);
            total = total.saturating_add(u64::from(count));
            true
        });
        self.shared = shared;
        self.mappings = total;
        self.unsettled = unsettled;
        self.has_retired = has_retired;
    }

    /// Forgets under which keys frames were known: each is as if it had been found just now.
    pub fn forget_keys(&mut self) {
        self.frames.retain(|entry| {
            entry.key = Key::default();
            entry.standing = Standing::Found { seen: 0 };
            true
        });
        self.unsettled = self.shared > 0;
        self.has_retired = false;
    }

    /// Tells the key of each frame that is retired.
    pub(crate) fn each_retired(&mut self, mut tell: impl FnMut(Key)) {
        self.frames.retain(|entry| {
            if entry.standing == Standing::Retired {
                tell(entry.key);
            }
            true
        });
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
