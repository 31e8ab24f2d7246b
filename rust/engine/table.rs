// SPDX-License-Identifier: GPL-2.0

//! A hash table that works nearly full, and keeps working without memory to grow.
//!
//! The table uses open addressing with linear probing, and keeps its entries sorted by hash: the home
//! slot of an entry increases with its hash, and no entry lies before one with a lower hash. So a
//! search ends at the first higher hash, which keeps it short even with more than nine tenths of the
//! slots in use, and a resize reads and writes sequentially. There are no tombstones: a removal closes
//! the gap.
//!
//! Reference: O. Amble, D. E. Knuth, "Ordered hash tables", The Computer Journal 17 (1974).
//!
//! The leading bits of a hash select one of several segments. Each segment grows separately, so no growth
//! moves more than a fraction of the entries, or needs more than a fraction of the memory twice. A large
//! segment grows by three eighths: an entry of a growing table is moved three or four times. [`Table::shrink`]
//! frees what is too much of that.

use core::mem::size_of;
use core::mem::size_of_val;

/// The memory that tables of `T` are allocated from.
pub trait Storage<T> {
    /// An allocated block.
    type Block: AsRef<[T]> + AsMut<[T]>;

    /// Allocates `len` default values; returns `None` if there is no memory.
    fn allocate(&self, len: usize) -> Option<Self::Block>;

    /// Whether the end of this block can be freed separately.
    fn can_truncate(&self, block: &Self::Block) -> bool;

    /// Frees the end of a block, and keeps its first `len` values. The block has at least that many,
    /// and [`Self::can_truncate`] is true for it. Allocates nothing.
    fn truncate(&self, block: &mut Self::Block, len: usize);

    /// Begins to fetch a value into the processor's caches: it will soon be used. Has no other effect, and may
    /// have none.
    #[inline]
    fn fetch(_value: &T) {}
}

/// An entry of a [`Table`]. Its default value is vacant.
pub trait Entry: Copy + Default {
    /// Whether this slot is vacant.
    fn is_vacant(&self) -> bool;

    /// The hash that the entry is looked up by, spread over 64 bits. Unique; vacant slots compare
    /// highest, so a search ends there.
    fn hash(&self) -> u64;

    /// Whether the hash of the entry is lower than `hash`. Called for each slot that a search passes.
    #[inline]
    fn is_before(&self, hash: u64) -> bool {
        self.hash() < hash
    }
}

/// The error of an insertion into a full table that can't grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Number of hash bits that select the segment.
const SEGMENT_BITS: u32 = 4;
/// Number of segments of a table.
pub const SEGMENTS: usize = 1 << SEGMENT_BITS;

/// A hash table with entries of type `E`, in memory from `S`.
///
/// # Examples
///
/// ```
/// use engine::table::{Entry, Table};
/// use engine::Storage;
///
/// /// The age of a person. The slot is vacant if the ID is 0.
/// #[derive(Clone, Copy, Debug, Default, PartialEq)]
/// struct Age {
///     id: u32,
///     years: u32,
/// }
///
/// impl Entry for Age {
///     fn is_vacant(&self) -> bool {
///         self.id == 0
///     }
///
///     // Inverted, so that a vacant slot has the highest hash.
///     fn hash(&self) -> u64 {
///         !engine::hash::mix(self.id.into())
///     }
/// }
///
/// /// The heap. A block of it can't be truncated, so `truncate()` is never called.
/// struct Heap;
///
/// impl Storage<Age> for Heap {
///     type Block = Vec<Age>;
///
///     fn allocate(&self, len: usize) -> Option<Vec<Age>> {
///         Some(vec![Age::default(); len])
///     }
///
///     fn can_truncate(&self, _block: &Vec<Age>) -> bool {
///         false
///     }
///
///     fn truncate(&self, _block: &mut Vec<Age>, _len: usize) {}
/// }
///
/// let mut table = Table::new();
/// let ada = Age { id: 1, years: 36 };
/// let alan = Age { id: 2, years: 41 };
/// table.insert(&Heap, ada)?;
/// table.insert(&Heap, alan)?;
/// assert_eq!(table.get(ada.hash()), Some(&ada));
///
/// // The hash of an entry must not change; everything else may.
/// if let Some(entry) = table.get_mut(alan.hash()) {
///     entry.years = 42;
/// }
/// table.retain(|entry| entry.years > 40);
/// assert_eq!(table.get(ada.hash()), None);
/// assert_eq!(table.len(), 1);
/// # Ok::<(), engine::table::Full>(())
/// ```
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

    /// Memory of the table, in bytes.
    pub fn bytes(&self) -> usize {
        let slots: usize = self.segments.iter().map(|s| s.slots().len()).sum();
        slots.saturating_mul(size_of::<E>())
    }

    /// Forgets all entries and frees their memory.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Finds the entry with this hash.
    #[inline]
    pub fn get(&self, hash: u64) -> Option<&E> {
        let segment = self.segments.get(segment_of(hash))?;
        let position = segment.find(hash)?;
        segment.slots().get(position)
    }

    /// Finds the entry with this hash, for changes that keep the hash.
    #[inline]
    pub fn get_mut(&mut self, hash: u64) -> Option<&mut E> {
        let segment = self.segments.get_mut(segment_of(hash))?;
        let position = segment.find(hash)?;
        segment.slots_mut().get_mut(position)
    }

    /// Begins to fetch the place where a search for this hash begins.
    #[inline]
    pub fn fetch(&self, hash: u64) {
        let segment = self.segments.get(segment_of(hash));
        if let Some(slot) = segment.and_then(|segment| segment.home_slot(hash)) {
            S::fetch(slot);
        }
    }

    /// Finds the entry with this hash, as [`Self::get_mut`] does. If there is none, adds the entry that
    /// `make` returns, which must have this hash, and returns `None`.
    ///
    /// # Errors
    ///
    /// Those of [`Self::insert`].
    #[inline]
    pub fn get_or_insert(
        &mut self,
        storage: &S,
        hash: u64,
        make: impl FnOnce() -> E,
    ) -> Result<Option<&mut E>, Full> {
        let segment = self.segments.get_mut(segment_of(hash)).ok_or(Full)?;
        let position = segment.position_of(hash);
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
    /// [`Full`] if the table has to grow and there is no memory, or if far too many hashes are alike.
    /// The table is unchanged then.
    pub fn insert(&mut self, storage: &S, entry: E) -> Result<(), Full> {
        let hash = entry.hash();
        let segment = self.segments.get_mut(segment_of(hash)).ok_or(Full)?;
        segment.insert_at(storage, segment.position_of(hash), entry)
    }

    /// Removes and returns the entry with this hash.
    pub fn remove(&mut self, hash: u64) -> Option<E> {
        self.segments.get_mut(segment_of(hash))?.remove(hash)
    }

    /// Visits every entry once and removes those for which `keep` is false.
    ///
    /// `keep` may change an entry, but not its hash.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut E) -> bool) {
        for segment in &mut self.segments {
            segment.retain(&mut keep);
        }
    }

    /// Calls `sweep` with all slots, segment by segment; it may change entries, but not their hashes.
    /// If it returns true, entries of this segment are removed as by [`Self::retain`].
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

    /// Iterates over the entries whose hashes are at least `hash`, in ascending order.
    pub fn entries_from(&self, hash: u64) -> impl Iterator<Item = &E> {
        let first = segment_of(hash);
        let segments = self.segments.iter().skip(first).enumerate();
        let slots = segments.flat_map(move |(index, segment)| {
            let start = match index {
                0 => segment.position_of(hash),
                _ => 0,
            };
            segment.slots().get(start..).unwrap_or(&[])
        });
        slots.filter(|entry| !entry.is_vacant())
    }

    /// Does [`Self::retain`] and [`Self::shrink`] for one of the [`SEGMENTS`] without allocating: for
    /// use under memory pressure. Returns false if memory can only be freed by [`Self::shrink`].
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

    /// Frees memory of segments that are mostly empty. A failure is harmless.
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

/// Size of a segment's first block, in bytes.
const FIRST_BLOCK: usize = 1024;
/// Blocks of at least this size are multiples of it, since they are allocated in pages.
const PAGE: usize = 4096;
/// Smaller blocks double when they grow.
const DOUBLING: usize = 4 * PAGE;

/// Number of slots after the last home slot, for entries displaced from there: so probing never wraps
/// around.
const fn tail(slots: usize) -> usize {
    if slots / 4 < 64 {
        slots / 4
    } else {
        64
    }
}

/// The entries whose hashes begin with the same bits.
///
/// Entries are sorted by hash. Each is in its home slot or after it, and no slot between the two is
/// vacant.
struct Segment<E: Entry, S: Storage<E>> {
    slots: Option<S::Block>,
    len: usize,
    /// Number of home slots: those without the [`tail`].
    homes: usize,
}

impl<E: Entry, S: Storage<E>> Segment<E, S> {
    const fn new() -> Self {
        Segment {
            slots: None,
            len: 0,
            homes: 0,
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

    /// Whether `limit` of 32 slots are in use, without counting the tail.
    #[inline]
    fn is_used(&self, limit: usize) -> bool {
        self.len >= entries_of(self.homes, limit)
    }

    /// The home slot of `hash`.
    #[inline]
    fn home_slot(&self, hash: u64) -> Option<&E> {
        self.slots().get(home(self.homes, hash))
    }

    /// The slot where `hash` is or belongs: the first slot from its home on that is vacant or has no lower hash;
    /// the end of the slots if there is none.
    #[inline]
    fn position_of(&self, hash: u64) -> usize {
        let (slots, mut position) = (self.slots(), home(self.homes, hash));
        while let Some(slot) = slots.get(position) {
            if !slot.is_before(hash) {
                break;
            }
            position += 1;
        }
        position
    }

    /// The slot of the entry with this hash, if there is one.
    #[inline]
    fn find(&self, hash: u64) -> Option<usize> {
        let position = self.position_of(hash);
        self.holds(position, hash).then_some(position)
    }

    /// Whether the slot at `position` holds the entry with this hash.
    #[inline]
    fn holds(&self, position: usize, hash: u64) -> bool {
        let entry = self.slots().get(position);
        entry.is_some_and(|entry| entry.hash() == hash && !entry.is_vacant())
    }

    /// Adds an entry at `position`, where it belongs. Grows the segment first if it is crowded.
    #[inline]
    fn insert_at(&mut self, storage: &S, position: usize, entry: E) -> Result<(), Full> {
        if !self.is_used(CROWDED) && self.place_at(position, entry).is_ok() {
            return Ok(());
        }
        self.grow_and_insert(storage, entry)
    }

    #[cold]
    fn grow_and_insert(&mut self, storage: &S, entry: E) -> Result<(), Full> {
        if self.is_used(CROWDED) && self.grow(storage).is_err() && self.is_used(FULL) {
            return Err(Full);
        }
        while self.place(entry).is_err() {
            // The last home slots are crowded. A larger block helps entries that come in the order of
            // their hashes, but not many hashes that are alike.
            if !self.is_used(SPARSE) {
                return Err(Full);
            }
            self.grow(storage)?;
        }
        Ok(())
    }

    /// Moves all entries into a larger block, or into one that is a little larger if there is not enough memory.
    fn grow(&mut self, storage: &S) -> Result<(), Full> {
        let bytes = self.bytes();
        match self.resize(storage, grown(bytes)) {
            Err(Full) if bytes >= PAGE => self.resize(storage, grown_a_little(bytes)),
            done => done,
        }
    }

    fn place(&mut self, entry: E) -> Result<(), Full> {
        self.place_at(self.position_of(entry.hash()), entry)
    }

    /// Puts an entry at `position`, where it belongs, and moves the entries from there to the next
    /// vacant slot up by one.
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
        let (position, homes) = (self.find(hash)?, self.homes);
        let slots = self.slots_mut();
        let removed = *slots.get(position)?;
        let next = position + 1;
        // The entries after it that are not in their home slots move down by one.
        let count = slots.len();
        let at_home = |(offset, slot): (usize, &E)| {
            slot.is_vacant() || home(homes, slot.hash()) == next + offset
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
        // In most calls, no entry goes.
        let goes = |slot: &mut E| !slot.is_vacant() && !keep(slot);
        let Some(first) = slots.iter_mut().position(goes) else {
            return;
        };
        if let Some(slot) = slots.get_mut(first) {
            *slot = E::default();
        }
        let mut removed = 1;
        // Moves down the entries between a removed one and the next vacant slot.
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
                // This does not fail: an entry never moves up from where it was read.
                let _ = writer.append(slots, entry);
            }
        }
        self.len -= removed;
    }

    fn shrink(&mut self, storage: &S) {
        if !self.shrink_in_place(storage) {
            if let Some(bytes) = self.wanted_bytes() {
                // A failure leaves the segment as it is, only larger than necessary.
                let _ = self.resize(storage, bytes);
            }
        }
    }

    /// Frees memory if the segment is mostly empty. Allocates nothing; returns false if it would have
    /// to.
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
        self.homes = homes(count);
        true
    }

    /// The size that the segment should have, in bytes, if that is noticeably smaller than its present size.
    fn wanted_bytes(&self) -> Option<usize> {
        let is_roomy = |bytes| self.len < entries_of(homes(bytes / size_of::<E>()), ROOMY);
        let mut bytes = FIRST_BLOCK;
        while bytes < PAGE && !is_roomy(bytes) {
            bytes = grown(bytes);
        }
        if !is_roomy(bytes) {
            // The first multiple of a page that is roomy: its tail has at most `tail(usize::MAX)` slots.
            let homes = self.len.saturating_mul(32) / ROOMY + 1;
            let slots = homes.saturating_add(tail(usize::MAX));
            bytes = slots.saturating_mul(size_of::<E>()).next_multiple_of(PAGE);
        }
        (bytes.saturating_add(bytes / 16) < self.bytes()).then_some(bytes)
    }

    /// Moves all entries into a new block of `bytes` bytes.
    fn resize(&mut self, storage: &S, bytes: usize) -> Result<(), Full> {
        let mut block = storage.allocate(bytes / size_of::<E>()).ok_or(Full)?;
        let mut writer = Writer { next: 0 };
        for &entry in self.slots().iter().filter(|entry| !entry.is_vacant()) {
            writer.append(block.as_mut(), entry)?;
        }
        self.homes = homes(block.as_ref().len());
        self.slots = Some(block);
        Ok(())
    }
}

/// Whether all entries fit into the first `count` slots, which are fewer, taken as a segment of that
/// size.
fn fits<E: Entry>(slots: &[E], count: usize) -> bool {
    let entries = slots.iter().filter(|entry| !entry.is_vacant());
    let homes = homes(count);
    let end = entries.fold(0, |next, entry| home(homes, entry.hash()).max(next) + 1);
    end <= count
}

/// Moves all entries to their places in a segment of the first `count` slots, where they fit.
///
/// No entry moves up, so none is overwritten before it was read. Proof by induction: the home of an
/// entry in a smaller segment is not above its old home (see [`home`]), and the entry is now at or
/// above its old home. The entry before it has not moved up either, so the slot after that one is not
/// above the entry.
fn pack<E: Entry>(slots: &mut [E], count: usize) {
    let mut writer = Writer { next: 0 };
    for index in 0..slots.len() {
        let Some(slot) = slots.get_mut(index).filter(|slot| !slot.is_vacant()) else {
            continue;
        };
        let entry = core::mem::take(slot);
        // This does not fail: the caller has checked that the entries fit.
        let _ = slots
            .get_mut(..count)
            .map_or(Err(Full), |slots| writer.append(slots, entry));
    }
}

/// Writes entries into vacant slots, in ascending order of their hashes.
struct Writer {
    next: usize,
}

impl Writer {
    fn append<E: Entry>(&mut self, slots: &mut [E], entry: E) -> Result<(), Full> {
        let position = home(homes(slots.len()), entry.hash()).max(self.next);
        *slots.get_mut(position).ok_or(Full)? = entry;
        self.next = position + 1;
        Ok(())
    }
}

/// Number of home slots of a segment of this many slots.
#[inline]
fn homes(slots: usize) -> usize {
    slots - tail(slots)
}

/// The home slot of `hash` in a segment with this many home slots, where its search begins.
#[inline]
fn home(homes: usize, hash: u64) -> usize {
    ((u128::from(hash << SEGMENT_BITS) * homes as u128) >> u64::BITS) as usize
}

/// Number of 32 home slots that may be in use before a segment grows.
const CROWDED: usize = 29;
/// Number of 32 slots that may be in use if the segment can't grow. Some stay vacant so that each
/// search ends.
const FULL: usize = 31;
/// Number of 32 slots in use below which growing does not help. So a segment whose hashes are alike has
/// at most 32 slots for an entry, and no more entries than the last home slot and the tail hold.
const SPARSE: usize = 1;
/// Number of 32 slots in use at most after shrinking: few enough that the segment does not grow again
/// at once.
const ROOMY: usize = 27;

/// Number of entries at which `limit` of 32 home slots are in use.
#[inline]
fn entries_of(homes: usize, limit: usize) -> usize {
    homes.saturating_mul(limit).div_ceil(32)
}

/// The next size after `bytes`: twice as large up to [`DOUBLING`], larger by three eighths from there.
fn grown(bytes: usize) -> usize {
    if bytes < DOUBLING {
        bytes.saturating_mul(2).max(FIRST_BLOCK)
    } else {
        let wanted = bytes.saturating_add(bytes / 8 * 3);
        wanted - wanted % PAGE
    }
}

/// The next size after a page or more if there is little memory: larger by an eighth.
fn grown_a_little(bytes: usize) -> usize {
    bytes.saturating_add(bytes / 8).next_multiple_of(PAGE)
}
