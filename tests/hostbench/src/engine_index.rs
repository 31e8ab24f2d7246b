// SPDX-License-Identifier: GPL-2.0

//! The engine: samples, and hash tables of small entries.

use crate::memory::Page;
use engine::Domain;
use engine::Frame;
use engine::Glance;
use engine::HashKind;
use engine::KsmScanner;
use engine::Storage;

/// Tables in the process's own memory.
#[derive(Default)]
pub struct Heap;

/// A block of that.
pub struct Block<T>(Box<[T]>);

impl<T> AsRef<[T]> for Block<T> {
    fn as_ref(&self) -> &[T] {
        &self.0
    }
}

impl<T> AsMut<[T]> for Block<T> {
    fn as_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl Storage for Heap {
    type Block<T: Copy + Default> = Block<T>;

    fn allocate<T: Copy + Default>(&self, len: usize) -> Option<Block<T>> {
        Some(Block(vec![T::default(); len].into_boxed_slice()))
    }
}

/// A scanner.
pub struct Index(KsmScanner<Heap>);

impl Default for Index {
    fn default() -> Self {
        Index(KsmScanner::with(Heap, HashKind::Wide, 42))
    }
}

impl Index {
    /// Goes over all pages once. Returns how many were to be looked at more closely.
    pub fn pass(&mut self, pages: &[Page]) -> usize {
        let sampler = *self.0.sampler();
        let mut remarkable = 0;
        for (frame, page) in (0..).zip(pages) {
            let glance = self.0.glance(Frame(frame), Domain(1), sampler.of(page));
            remarkable += usize::from(glance != Glance::Wait);
        }
        self.0.end_pass(|_| None);
        remarkable
    }
}
