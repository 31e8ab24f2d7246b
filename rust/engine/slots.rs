// SPDX-License-Identifier: GPL-2.0

//! A mailbox of short notes that may be left in any context, even in one that interrupts another
//! context while that leaves or takes a note.
//!
//! There is no lock and no waiting: a note goes into the first free slot, or is dropped if none is
//! free.

/// An atomic number: the kernel's own type, or a test's type that interrupts at each access.
pub trait Word {
    /// Makes a word with the value 0.
    fn zero() -> Self;

    /// Reads the word with acquire ordering: later reads and writes happen after it.
    fn load_acquire(&self) -> usize;

    /// Reads the word without ordering.
    fn load_relaxed(&self) -> usize;

    /// Writes the word with release ordering: earlier reads and writes happen before it.
    fn store_release(&self, value: usize);

    /// Writes the word without ordering.
    fn store_relaxed(&self, value: usize);

    /// Compares and exchanges: if the word is `from`, changes it to `to` with acquire ordering, and
    /// returns true. Otherwise leaves it and returns false.
    fn exchange_acquire(&self, from: usize, to: usize) -> bool;
}

/// A place for one note. Its state determines who may access its words: nobody while it is
/// [`Self::FREE`]; while it is [`Self::TAKEN`], the thread that changed it from `FREE`, which writes
/// them; while it is [`Self::FULL`], the thread that takes notes, which reads them.
struct Slot<W> {
    state: W,
    note: [W; 2],
}

impl<W: Word> Slot<W> {
    const FREE: usize = 0;
    const TAKEN: usize = 1;
    const FULL: usize = 2;

    fn new() -> Self {
        // A new word is 0, which is `FREE`.
        Slot {
            state: W::zero(),
            note: [W::zero(), W::zero()],
        }
    }

    fn fill(&self, note: [usize; 2]) -> bool {
        // Acquire: the note that was here before has been read by now.
        if !self.state.exchange_acquire(Self::FREE, Self::TAKEN) {
            return false;
        }
        for (word, value) in self.note.iter().zip(note) {
            word.store_relaxed(value);
        }
        self.state.store_release(Self::FULL);
        true
    }

    fn take(&self) -> Option<[usize; 2]> {
        if self.state.load_acquire() != Self::FULL {
            return None;
        }
        let [first, second] = &self.note;
        let note = [first.load_relaxed(), second.load_relaxed()];
        self.state.store_release(Self::FREE);
        Some(note)
    }
}

/// A mailbox with room for `COUNT` notes.
pub struct Slots<W, const COUNT: usize>([Slot<W>; COUNT]);

impl<W: Word, const COUNT: usize> Slots<W, COUNT> {
    /// Makes an empty mailbox.
    #[expect(clippy::new_without_default)]
    pub fn new() -> Self {
        Slots(core::array::from_fn(|_| Slot::new()))
    }

    /// Leaves a note; returns false if no slot is free. May be called in any context.
    pub fn leave(&self, note: [usize; 2]) -> bool {
        self.0.iter().any(|slot| slot.fill(note))
    }

    /// Takes the notes that were left, each once. Must not run in two threads at a time.
    pub fn take(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        self.0.iter().filter_map(Slot::take)
    }
}
