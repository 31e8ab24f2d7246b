// SPDX-License-Identifier: GPL-2.0

//! A hash table that stays nearly full, and copes with having no memory to grow.
//!
//! Open addressing with linear probing, in the order of the hashes: an entry's home grows with its
//! hash, and no entry lies before one of a lower hash. So a search ends at the first higher hash,
//! which keeps it short where more than nine tenths of the slots are in use, and a resize reads
//! and writes from front to back. There are no tombstones: removal closes the gap.
//!
//! Reference: O. Amble, D. E. Knuth, "Ordered hash tables", The Computer Journal 17 (1974).
//!
//! A table consists of segments, by the first bits of the hash, that grow one by one, by an
//! eighth: no growth moves more than a part of the entries, or needs more than a part of the
//! memory twice.

use core::mem::size_of;
use core::mem::size_of_val;

/// Where tables of `T` get their memory from.
pub trait Storage<T> {
    /// An allocated block.
    type Block: AsRef<[T]> + AsMut<[T]>;

    /// Allocates `len` default values, or returns `None` where there is no memory for them.
    fn allocate(&self, len: usize) -> Option<Self::Block>;

    /// Whether the end of a block can be given back by itself.
    fn can_truncate(&self, block: &Self::Block) -> bool;

    /// Gives back what lies behind the first `len` values of a block for which [`Self::can_truncate`] is
    /// true, which has no fewer. Allocates nothing.
    fn truncate(&self, block: &mut Self::Block, len: usize);
}

/// An entry of a [`Table`]. Its default is vacant.
pub trait Entry: Copy + Default {
    /// Whether this slot holds nothing.
    fn is_vacant(&self) -> bool;

    /// What the entry is looked up by: spread over 64 bits, and no other entry's. Of a vacant slot
    /// no less than of any entry, so that a search ends there.
    fn hash(&self) -> u64;

    /// Whether its hash is lower. Asked once for each slot that a search passes.
    #[inline]
    fn is_before(&self, hash: u64) -> bool {
        self.hash() < hash
    }
}

/// The table is full: it could not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Bits of a hash that choose the segment.
const SEGMENT_BITS: u32 = 4;
/// Into how many parts a table is divided.
pub const SEGMENTS: usize = 1 << SEGMENT_BITS;

/// A hash table of entries `E` in blocks of `S`.
pub struct Table<E: Entry, S: Storage<E>> {
    segments: [Segment<E, S>; SEGMENTS],
}

impl<E: Entry, S: Storage<E>> Table<E, S> {
    /// Makes an empty table; allocates nothing.
    pub const fn new() -> Self {
        Table {
            segments: [const { Segment::new() }; SEGMENTS],
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that the table occupies, in bytes.
    pub fn bytes(&self) -> usize {
        let slots: usize = self.segments.iter().map(|s| s.slots().len()).sum();
        slots.saturating_mul(size_of::<E>())
    }

    /// Forgets all entries and frees their memory.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Finds the entry of `hash`.
    #[inline]
    pub fn get(&self, hash: u64) -> Option<&E> {
        let segment = self.segments.get(segment_of(hash))?;
        let position = segment.find(hash)?;
        segment.slots().get(position)
    }

    /// Finds the entry of `hash`, to change it. Its hash must stay as it is.
    #[inline]
    pub fn get_mut(&mut self, hash: u64) -> Option<&mut E> {
        let segment = self.segments.get_mut(segment_of(hash))?;
        let position = segment.find(hash)?;
        segment.slots_mut().get_mut(position)
    }

    /// Finds the entry of `hash`, to change it as by [`Self::get_mut`]; or adds one that is made
    /// with this hash, and returns `None`.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    #[inline]
    pub fn get_or_insert(
        &mut self,
        storage: &S,
        hash: u64,
        make: impl FnOnce() -> E,
    ) -> Result<Option<&mut E>, Full> {
        let segment = self.segments.get_mut(segment_of(hash)).ok_or(Full)?;
        let position = position_of(segment.slots(), hash);
        if segment.holds(position, hash) {
            Ok(segment.slots_mut().get_mut(position))
        } else {
            segment.insert_at(storage, position, make())?;
            Ok(None)
        }
    }

    /// Adds an entry whose hash is not in the table yet.
    ///
    /// # Errors
    ///
    /// [`Full`] where it would have to grow and there is no memory for that, or where far too many
    /// hashes are alike; it stays as it is.
    pub fn insert(&mut self, storage: &S, entry: E) -> Result<(), Full> {
        let hash = entry.hash();
        let segment = self.segments.get_mut(segment_of(hash)).ok_or(Full)?;
        segment.insert_at(storage, position_of(segment.slots(), hash), entry)
    }

    /// Removes the entry of `hash` and returns it.
    pub fn remove(&mut self, hash: u64) -> Option<E> {
        self.segments.get_mut(segment_of(hash))?.remove(hash)
    }

    /// Visits every entry once and removes those for which `keep` is false.
    ///
    /// The hash of an entry must stay as it is.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut E) -> bool) {
        for segment in &mut self.segments {
            segment.retain(&mut keep);
        }
    }

    /// Shows all slots, part by part, to `sweep`, which may change what entries say; where it finds
    /// that some have to go, as [`Self::retain`].
    pub fn sweep(
        &mut self,
        mut sweep: impl FnMut(&mut [E]) -> bool,
        mut keep: impl FnMut(&mut E) -> bool,
    ) {
        for segment in &mut self.segments {
            if sweep(segment.slots_mut()) {
                segment.retain(&mut keep);
            }
        }
    }

    /// The entries whose hashes are not below `hash`, in the order of those.
    pub fn entries_from(&self, hash: u64) -> impl Iterator<Item = &E> {
        let first = segment_of(hash);
        let segments = self.segments.iter().skip(first).map(Segment::slots);
        let slots = segments.enumerate().flat_map(move |(index, slots)| {
            let start = match index {
                0 => position_of(slots, hash),
                _ => 0,
            };
            slots.get(start..).unwrap_or(&[])
        });
        slots.filter(|entry| !entry.is_vacant())
    }

    /// As [`Self::retain`] and [`Self::shrink`] for one of the [`SEGMENTS`], but allocates nothing: for
    /// who is asked for memory. Returns false if there is some to give back by [`Self::shrink`] only.
    pub fn thin_out(
        &mut self,
        storage: &S,
        segment: usize,
        mut keep: impl FnMut(&mut E) -> bool,
    ) -> bool {
        let Some(segment) = self.segments.get_mut(segment) else {
            return true;
        };
        segment.retain(&mut keep);
        segment.shrink_in_place(storage)
    }

    /// Gives memory back where the table is mostly empty. Failing to is harmless.
    pub fn shrink(&mut self, storage: &S) {
        for segment in &mut self.segments {
            segment.shrink(storage);
        }
    }
}

impl<E: Entry, S: Storage<E>> Default for Table<E, S> {
    fn default() -> Self {
        Self::new()
    }
}

fn segment_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SEGMENT_BITS)) as usize
}

/// Bytes of a segment's first block.
const FIRST_BLOCK: usize = 1024;
/// Blocks of this many bytes or more are multiples of it: so they are allocated.
const PAGE: usize = 4096;

/// Slots behind the last home, for what is displaced from there: so nothing has to wrap around.
const fn tail(slots: usize) -> usize {
    if slots / 4 < 64 {
        slots / 4
    } else {
        64
    }
}

/// The hashes that begin with the same bits.
///
/// Entries are in the order of their hashes, each at its home or behind it, with no vacant slot
/// between the two.
struct Segment<E: Entry, S: Storage<E>> {
    slots: Option<S::Block>,
    len: usize,
    /// With how many entries it is [`CROWDED`].
    limit: usize,
}

impl<E: Entry, S: Storage<E>> Segment<E, S> {
    const fn new() -> Self {
        Segment {
            slots: None,
            len: 0,
            limit: 0,
        }
    }

    #[inline]
    fn slots(&self) -> &[E] {
        self.slots.as_ref().map_or(&[], |block| block.as_ref())
    }

    #[inline]
    fn slots_mut(&mut self) -> &mut [E] {
        self.slots.as_mut().map_or(&mut [], |block| block.as_mut())
    }

    fn bytes(&self) -> usize {
        size_of_val(self.slots())
    }

    fn is_used(&self, limit: usize) -> bool {
        is_used(self.slots().len(), self.len, limit)
    }

    /// The slot of `hash`, if it is in the segment.
    #[inline]
    fn find(&self, hash: u64) -> Option<usize> {
        let position = position_of(self.slots(), hash);
        self.holds(position, hash).then_some(position)
    }

    /// Whether the entry of `hash` is here.
    #[inline]
    fn holds(&self, position: usize, hash: u64) -> bool {
        let entry = self.slots().get(position);
        entry.is_some_and(|entry| entry.hash() == hash && !entry.is_vacant())
    }

    /// Adds an entry that belongs at `position`, unless the segment has to grow for that.
    #[inline]
    fn insert_at(&mut self, storage: &S, position: usize, entry: E) -> Result<(), Full> {
        if self.len < self.limit && self.place_at(position, entry).is_ok() {
            return Ok(());
        }
        self.grow_and_insert(storage, entry)
    }

    #[cold]
    fn grow_and_insert(&mut self, storage: &S, entry: E) -> Result<(), Full> {
        if self.len >= self.limit {
            let grown = self.resize(storage, grown(self.bytes()));
            if grown.is_err() && self.is_used(FULL) {
                return Err(Full);
            }
        }
        self.place(entry).or_else(|Full| {
            // The last homes are crowded. Where the others are not, a larger block is no use.
            if !self.is_used(HALF) {
                return Err(Full);
            }
            self.resize(storage, grown(self.bytes()))?;
            self.place(entry)
        })
    }

    fn place(&mut self, entry: E) -> Result<(), Full> {
        self.place_at(position_of(self.slots(), entry.hash()), entry)
    }

    /// Puts an entry where it belongs, and those behind it, up to the next vacant slot, one
    /// further.
    fn place_at(&mut self, position: usize, entry: E) -> Result<(), Full> {
        let slots = self.slots_mut();
        let behind = slots.get(position..).ok_or(Full)?;
        let run = behind.iter().position(E::is_vacant).ok_or(Full)?;
        let vacant = position.checked_add(run).ok_or(Full)?;
        slots.copy_within(position..vacant, position + 1);
        *slots.get_mut(position).ok_or(Full)? = entry;
        self.len += 1;
        Ok(())
    }

    fn remove(&mut self, hash: u64) -> Option<E> {
        let position = self.find(hash)?;
        let slots = self.slots_mut();
        let removed = *slots.get(position)?;
        let next = position + 1;
        // Those behind it that are not at home come one nearer.
        let count = slots.len();
        let at_home = |(offset, slot): (usize, &E)| {
            slot.is_vacant() || home(count, slot.hash()) == next + offset
        };
        let behind = slots.get(next..)?;
        let run = behind.iter().enumerate().position(at_home);
        let end = run.map_or(count, |run| next + run);
        slots.copy_within(next..end, position);
        *slots.get_mut(end - 1)? = E::default();
        self.len -= 1;
        Some(removed)
    }

    fn retain(&mut self, keep: &mut impl FnMut(&mut E) -> bool) {
        let slots = self.slots_mut();
        // Mostly none is to go.
        let goes = |slot: &mut E| !slot.is_vacant() && !keep(slot);
        let Some(first) = slots.iter_mut().position(goes) else {
            return;
        };
        if let Some(slot) = slots.get_mut(first) {
            *slot = E::default();
        }
        let mut removed = 1;
        // Writes those that follow a removed one, up to the next vacant slot, anew.
        let mut moving = Some(Writer { next: first });
        for index in first + 1..slots.len() {
            let Some(slot) = slots.get_mut(index) else {
                break;
            };
            if slot.is_vacant() {
                moving = None;
            } else if !keep(slot) {
                *slot = E::default();
                removed += 1;
                moving.get_or_insert(Writer { next: index });
            } else if let Some(writer) = &mut moving {
                let entry = core::mem::take(slot);
                // Never behind where it was read, so there is room.
                let _ = writer.append(slots, entry);
            }
        }
        self.len -= removed;
    }

    fn shrink(&mut self, storage: &S) {
        if !self.shrink_in_place(storage) {
            if let Some(bytes) = self.wanted_bytes() {
                // An error leaves the segment as it is, only larger than it need be.
                let _ = self.resize(storage, bytes);
            }
        }
    }

    /// Gives memory back where the segment is mostly empty. Allocates nothing, and returns false where
    /// it would have to.
    fn shrink_in_place(&mut self, storage: &S) -> bool {
        if self.len == 0 {
            *self = Self::new();
            return true;
        }
        let Some(bytes) = self.wanted_bytes() else {
            return true;
        };
        let count = bytes / size_of::<E>();
        let Some(block) = &mut self.slots else {
            return true;
        };
        if !storage.can_truncate(block) || !fits(block.as_ref(), count) {
            return false;
        }
        pack(block.as_mut(), count);
        storage.truncate(block, count);
        self.limit = entries_of(count, CROWDED);
        true
    }

    /// Bytes that the segment should have, if that is much less than it has.
    fn wanted_bytes(&self) -> Option<usize> {
        let mut bytes = FIRST_BLOCK;
        while is_used(bytes / size_of::<E>(), self.len, ROOMY) {
            bytes = grown(bytes);
        }
        (bytes.saturating_add(bytes / 2) <= self.bytes()).then_some(bytes)
    }

    /// Moves all entries into a block of `bytes`.
    fn resize(&mut self, storage: &S, bytes: usize) -> Result<(), Full> {
        let mut block = storage.allocate(bytes / size_of::<E>()).ok_or(Full)?;
        let mut writer = Writer { next: 0 };
        for &entry in self.slots().iter().filter(|entry| !entry.is_vacant()) {
            writer.append(block.as_mut(), entry)?;
        }
        self.limit = entries_of(block.as_ref().len(), CROWDED);
        self.slots = Some(block);
        Ok(())
    }
}

/// Whether all entries have room in the first `count` slots, which are fewer, as a segment of so many.
fn fits<E: Entry>(slots: &[E], count: usize) -> bool {
    let entries = slots.iter().filter(|entry| !entry.is_vacant());
    let end = entries.fold(0, |next, entry| home(count, entry.hash()).max(next) + 1);
    end <= count
}

/// Moves all entries to where they belong in a segment of the first `count` slots, where they have room.
///
/// No entry moves to the right, so that none is overwritten before it has been read. For its home is no
/// further right in a smaller segment (see [`home`]): no further than its old home, behind which or at
/// which it is now. And behind the entry before it there is room, since that did not move to the right
/// either.
fn pack<E: Entry>(slots: &mut [E], count: usize) {
    let mut writer = Writer { next: 0 };
    for index in 0..slots.len() {
        let Some(slot) = slots.get_mut(index).filter(|slot| !slot.is_vacant()) else {
            continue;
        };
        let entry = core::mem::take(slot);
        // There is room: the caller has seen to it.
        let _ = slots
            .get_mut(..count)
            .map_or(Err(Full), |slots| writer.append(slots, entry));
    }
}

/// Writes entries into vacant slots, in the order of their hashes.
struct Writer {
    next: usize,
}

impl Writer {
    fn append<E: Entry>(&mut self, slots: &mut [E], entry: E) -> Result<(), Full> {
        let position = home(slots.len(), entry.hash()).max(self.next);
        *slots.get_mut(position).ok_or(Full)? = entry;
        self.next = position + 1;
        Ok(())
    }
}

/// Where the search for `hash` begins in a segment of so many slots.
#[inline]
fn home(slots: usize, hash: u64) -> usize {
    let homes = (slots - tail(slots)) as u64;
    ((u128::from(hash << SEGMENT_BITS) * u128::from(homes)) >> u64::BITS) as usize
}

/// Where `hash` is, or else belongs: the first slot from its home on that is vacant or has no
/// lower hash; the end of the slots if there is none.
#[inline]
fn position_of<E: Entry>(slots: &[E], hash: u64) -> usize {
    let mut position = home(slots.len(), hash);
    while let Some(slot) = slots.get(position) {
        if !slot.is_before(hash) {
            break;
        }
        position += 1;
    }
    position
}

/// How many of 32 slots may be in use before a segment grows.
const CROWDED: usize = 29;
/// How many may be where it can't grow: a search must come to its end.
const FULL: usize = 31;
/// How many are in one that is not worth growing.
const HALF: usize = 16;
/// How many are in a segment that was shrunk: not so many that it grows again at once.
const ROOMY: usize = 24;

/// Whether `limit` of 32 slots, the tail left out, are in use.
fn is_used(slots: usize, len: usize, limit: usize) -> bool {
    len >= entries_of(slots, limit)
}

/// How many entries are `limit` of 32 slots, the tail left out.
fn entries_of(slots: usize, limit: usize) -> usize {
    (slots - tail(slots)).saturating_mul(limit).div_ceil(32)
}

/// The size that follows after `bytes`: twice as much up to a page, an eighth more from there.
fn grown(bytes: usize) -> usize {
    if bytes < PAGE {
        bytes.saturating_mul(2).max(FIRST_BLOCK)
    } else {
        bytes.saturating_add(bytes / 8).next_multiple_of(PAGE)
    }
}
