// SPDX-License-Identifier: GPL-2.0

//! An open-addressing hash table that copes with having no memory to grow.
//!
//! Linear probing, power-of-two capacity, and deletion by shifting back (Knuth, TAOCP vol. 3,
//! section 6.4, algorithm R), so that there are no tombstones to clean up. Entries are small
//! `Copy` values, a cache line holds several.

use core::mem::size_of;

/// Where tables get their memory from.
pub trait Storage {
    /// An allocated block of `T`.
    type Block<T: Copy + Default>: AsRef<[T]> + AsMut<[T]>;

    /// Allocates `len` default values, or returns `None` where there is no memory for them.
    fn allocate<T: Copy + Default>(&self, len: usize) -> Option<Self::Block<T>>;
}

/// An entry of a [`Table`]. Its default is vacant.
pub trait Entry: Copy + Default {
    /// Whether this slot holds nothing.
    fn is_vacant(&self) -> bool;

    /// What the entry is looked up by.
    fn key(&self) -> u64;

    /// Spreads a key over 64 bits. The identity where keys are hashes already.
    fn hash(key: u64) -> u64;
}

/// Slots of the first allocation.
const MIN_SLOTS: usize = 256;

/// The table is full: it could not grow and its last slots are kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A hash table of entries `E` in blocks of `S`.
pub struct Table<E: Entry, S: Storage> {
    slots: Option<S::Block<E>>,
    len: usize,
}

impl<E: Entry, S: Storage> Table<E, S> {
    /// Makes an empty table; allocates nothing.
    pub const fn new() -> Self {
        Table {
            slots: None,
            len: 0,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory that the table occupies, in bytes.
    pub fn bytes(&self) -> usize {
        self.slots().len().saturating_mul(size_of::<E>())
    }

    /// Forgets all entries and frees their memory.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Finds the entry of `key`.
    #[inline]
    pub fn get(&self, key: u64) -> Option<&E> {
        let position = self.find(key)?;
        self.slots().get(position)
    }

    /// Finds the entry of `key`, to change it. Its key must stay as it is.
    #[inline]
    pub fn get_mut(&mut self, key: u64) -> Option<&mut E> {
        let position = self.find(key)?;
        self.slots_mut().get_mut(position)
    }

    /// Adds an entry whose key is not in the table yet.
    ///
    /// # Errors
    ///
    /// [`Full`] where the table would have to grow and there is no memory for that; it stays as
    /// it is.
    pub fn insert(&mut self, storage: &S, entry: E) -> Result<(), Full> {
        if self.is_crowded() && self.resize(storage, self.grown_size()).is_err() && self.is_full() {
            return Err(Full);
        }
        self.place(entry);
        Ok(())
    }

    /// Removes the entry of `key` and returns it.
    pub fn remove(&mut self, key: u64) -> Option<E> {
        let position = self.find(key)?;
        let entry = *self.slots().get(position)?;
        self.vacate(position);
        Some(entry)
    }

    /// Visits every entry once and removes those for which `keep` is false.
    ///
    /// The key of an entry must stay as it is.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut E) -> bool) {
        // Start behind a vacant slot: no run of entries then reaches past the end of the visit,
        // so that shifting back never moves an entry across its start.
        let Some(start) = self.slots().iter().position(E::is_vacant) else {
            return;
        };
        let mask = self.mask();
        let mut visited = 0;
        let mut position = start;
        while visited < self.slots().len() {
            let keeps = match self.slots_mut().get_mut(position) {
                Some(slot) if !slot.is_vacant() => keep(slot),
                _ => true,
            };
            if keeps {
                position = (position + 1) & mask;
                visited += 1;
            } else {
                // Another entry may have moved here: look at this slot again.
                self.vacate(position);
            }
        }
    }

    /// Gives memory back where the table is mostly empty. Failing to is harmless.
    pub fn shrink(&mut self, storage: &S) {
        if self.is_empty() {
            return self.clear();
        }
        let wanted = self
            .len
            .saturating_mul(2)
            .next_power_of_two()
            .max(MIN_SLOTS);
        if wanted.saturating_mul(4) <= self.slots().len() {
            // An error leaves the table as it is, only larger than it need be.
            let _ = self.resize(storage, wanted);
        }
    }

    fn slots(&self) -> &[E] {
        self.slots.as_ref().map_or(&[], |block| block.as_ref())
    }

    fn slots_mut(&mut self) -> &mut [E] {
        self.slots.as_mut().map_or(&mut [], |block| block.as_mut())
    }

    fn mask(&self) -> usize {
        self.slots().len().wrapping_sub(1)
    }

    /// More than three quarters full: long probes ahead, time to grow.
    fn is_crowded(&self) -> bool {
        let slots = self.slots().len();
        self.len >= slots - slots / 4
    }

    /// More than fifteen sixteenths full: no room even where it can't grow.
    fn is_full(&self) -> bool {
        let slots = self.slots().len();
        self.len >= slots - slots / 16
    }

    fn grown_size(&self) -> usize {
        self.slots().len().saturating_mul(2).max(MIN_SLOTS)
    }

    /// The slot in which the search for `key` begins.
    #[inline]
    fn home(&self, key: u64) -> usize {
        E::hash(key) as usize & self.mask()
    }

    /// The slot of `key`, if it is in the table.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let slots = self.slots();
        let mask = self.mask();
        let mut position = self.home(key);
        // Ends at a vacant slot at the latest: `is_full` keeps some. None in an empty table.
        loop {
            let slot = slots.get(position)?;
            if slot.is_vacant() {
                return None;
            }
            if slot.key() == key {
                return Some(position);
            }
            position = (position + 1) & mask;
        }
    }

    /// Puts an entry into the first vacant slot of its probe sequence. There must be one.
    fn place(&mut self, entry: E) {
        let mask = self.mask();
        let mut position = self.home(entry.key());
        let slots = self.slots_mut();
        while let Some(slot) = slots.get_mut(position) {
            if slot.is_vacant() {
                *slot = entry;
                self.len += 1;
                return;
            }
            position = (position + 1) & mask;
        }
    }

    /// Empties the slot at `hole`, moving back what was displaced by it.
    fn vacate(&mut self, mut hole: usize) {
        let mask = self.mask();
        let mut position = hole;
        loop {
            position = (position + 1) & mask;
            let Some(&entry) = self.slots().get(position) else {
                break;
            };
            if entry.is_vacant() {
                break;
            }
            // Only an entry whose home lies at or before the hole, cyclically, may fill it.
            let distance_from_home = position.wrapping_sub(self.home(entry.key())) & mask;
            let distance_from_hole = position.wrapping_sub(hole) & mask;
            if distance_from_home >= distance_from_hole {
                self.set(hole, entry);
                hole = position;
            }
        }
        self.set(hole, E::default());
        self.len -= 1;
    }

    fn set(&mut self, position: usize, entry: E) {
        if let Some(slot) = self.slots_mut().get_mut(position) {
            *slot = entry;
        }
    }

    /// Moves all entries into a block of `slots` slots, a power of two above their number.
    fn resize(&mut self, storage: &S, slots: usize) -> Result<(), Full> {
        let block = storage.allocate(slots).ok_or(Full)?;
        let mut larger = Table::<E, S> {
            slots: Some(block),
            len: 0,
        };
        for &entry in self.slots().iter().filter(|entry| !entry.is_vacant()) {
            larger.place(entry);
        }
        *self = larger;
        Ok(())
    }
}

impl<E: Entry, S: Storage> Default for Table<E, S> {
    fn default() -> Self {
        Self::new()
    }
}
