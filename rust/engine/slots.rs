// SPDX-License-Identifier: GPL-2.0

//! Notes that are left in any context, even in one that interrupts another which leaves or takes one.
//!
//! Nothing is locked and nobody waits: a note goes into the first free slot, or is not left.

/// An atomic number: the kernel's own, or one with which a test interrupts at each access.
pub trait Word {
    /// A new one, of the value 0.
    fn zero() -> Self;

    /// Reads it; later reads and writes happen later.
    fn load_acquire(&self) -> usize;

    /// Reads it, in no order.
    fn load_relaxed(&self) -> usize;

    /// Writes it; earlier reads and writes happened earlier.
    fn store_release(&self, value: usize);

    /// Writes it, in no order.
    fn store_relaxed(&self, value: usize);

    /// Changes it from `from` to `to` and returns true, or leaves it; later reads and writes happen later.
    fn exchange_acquire(&self, from: usize, to: usize) -> bool;
}

/// A place for one note. While its state is [`Self::FREE`], its words are nobody's; while it is
/// [`Self::TAKEN`], those of the thread that has changed it from `FREE`, which writes them; while it is
/// [`Self::FULL`], those of the one who takes notes, which reads them.
struct Slot<W> {
    state: W,
    note: [W; 2],
}

impl<W: Word> Slot<W> {
    const FREE: usize = 0;
    const TAKEN: usize = 1;
    const FULL: usize = 2;

    fn new() -> Self {
        // A new word says `FREE`.
        Slot {
            state: W::zero(),
            note: [W::zero(), W::zero()],
        }
    }

    fn fill(&self, note: [usize; 2]) -> bool {
        // After what was there before has been read.
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

/// As many notes as may wait at one time.
pub struct Slots<W, const COUNT: usize>([Slot<W>; COUNT]);

impl<W: Word, const COUNT: usize> Slots<W, COUNT> {
    /// Slots without notes.
    #[expect(clippy::new_without_default)]
    pub fn new() -> Self {
        Slots(core::array::from_fn(|_| Slot::new()))
    }

    /// Leaves a note; false if no slot is free. For any context.
    pub fn leave(&self, note: [usize; 2]) -> bool {
        self.0.iter().any(|slot| slot.fill(note))
    }

    /// Takes the notes that were left, each once. For one thread at a time.
    pub fn take(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        self.0.iter().filter_map(Slot::take)
    }
}
