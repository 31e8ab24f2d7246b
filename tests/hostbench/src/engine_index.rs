// SPDX-License-Identifier: GPL-2.0

//! The engine: samples, and hash tables of small entries.

use crate::memory::Page;
use engine::Domain;
use engine::Frame;
use engine::Glance;
use engine::HashKind;
use engine::KsmScanner;
use model::memory::Memory;

/// A scanner.
pub struct Index(KsmScanner<Memory>);

impl Default for Index {
    fn default() -> Self {
        Index(KsmScanner::with(Memory::default(), HashKind::Wide, 42))
    }
}

impl Index {
    /// Goes over all pages once. Returns how many were to be looked at more closely.
    pub fn pass(&mut self, pages: &[Page]) -> usize {
        let keys = *self.0.keys();
        let salt = keys.salt(Domain(1));
        let mut remarkable = 0;
        for (frame, page) in (0..).zip(pages) {
            let glance = self.0.glance(Frame(frame), keys.glimpse(salt, page));
            remarkable += usize::from(glance != Glance::Wait);
        }
        self.0.end_pass(|_| None);
        remarkable
    }
}
