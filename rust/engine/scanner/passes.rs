// SPDX-License-Identifier: GPL-2.0

//! The ends of passes: what is forgotten, and what is counted anew.

use super::stable::forget_stable_entry;
use super::KsmScanner;
use super::ScannerStorage;
use crate::content::PAGE_SIZE;
use crate::ids::Frame;
use crate::ids::Key;
use crate::index::EntryState;
use crate::index::IndexEntry;
use crate::index::PassTag;
use crate::shared::Copies;
use crate::table::Storage;
use crate::table::Table;
use crate::table::SEGMENTS;
use core::mem::size_of;

impl<S: ScannerStorage> KsmScanner<S> {
    /// Ends a pass: forgets the contents that had to be seen again by its end and were not, and
    /// recounts the shared frames.
    ///
    /// `mappings` returns the number of page table entries that map a frame; `None` if it is no shared
    /// frame any more.
    pub fn end_pass(&mut self, mappings: impl FnMut(Frame) -> Option<u32>) {
        self.recount_frames(true, mappings);
        let ended = self.pass();
        let (mut forgotten, mut at_rest, mut forgotten_at_rest) = (0u64, 0u64, 0u64);
        self.index.sweep(
            |slots| {
                let found = IndexEntry::end_pass(slots, ended);
                at_rest = at_rest.wrapping_add(found.at_rest);
                found.is_any_over
            },
            |entry| {
                let is_over = entry.is_over(ended);
                if is_over {
                    forgotten = forgotten.wrapping_add(entry.is_unstable().into());
                    forgotten_at_rest = forgotten_at_rest.wrapping_add(entry.is_at_rest().into());
                }
                !is_over
            },
        );
        self.unstable = self.unstable.saturating_sub(forgotten);
        self.at_rest = at_rest.saturating_sub(forgotten_at_rest);
        self.full_scans = self.full_scans.wrapping_add(1);
        if self.shared.has_retired() {
            self.reinstate_retired();
        }
        self.index.shrink(&self.storage);
        self.shared.shrink(&self.storage);
        let shared = &self.shared;
        self.seats
            .sweep(&self.storage, |frame| shared.get(frame).is_some());
        self.last_copies = if self.shared.has_retired() {
            self.copies()
        } else {
            Copies::default()
        };
    }

    /// Number of calls of [`Self::forget_some`] that would free a worthwhile amount of memory.
    pub fn forgettable_parts(&self) -> usize {
        let bytes = self.unstable.saturating_mul(size_of::<IndexEntry>() as u64);
        usize::try_from(bytes / PAGE_SIZE as u64).map_or(SEGMENTS, |parts| parts.min(SEGMENTS))
    }

    /// Forgets the unstable contents of one index segment and frees memory: for use under memory
    /// pressure. Each call takes the next segment. Contents that are seen again are remembered again.
    ///
    /// Allocates nothing. Returns false if memory can only be freed by [`Self::shrink_index`], which
    /// may allocate.
    pub fn forget_some(&mut self) -> bool {
        let mut forgotten = 0u64;
        let is_given_back = self
            .index
            .thin_out(&self.storage, self.next_forgotten, |entry| {
                let stays = !entry.is_unstable();
                forgotten = forgotten.wrapping_add(u64::from(!stays));
                stays
            });
        self.unstable = self.unstable.saturating_sub(forgotten);
        self.next_forgotten = self.next_forgotten.wrapping_add(1) % SEGMENTS;
        is_given_back
    }

    /// Frees unused memory of the index.
    pub fn shrink_index(&mut self) {
        self.index.shrink(&self.storage);
    }

    /// Recounts the mappings of the shared frames.
    pub fn recount(&mut self, mappings: impl FnMut(Frame) -> Option<u32>) {
        self.recount_frames(false, mappings);
    }

    fn recount_frames(&mut self, new_pass: bool, mappings: impl FnMut(Frame) -> Option<u32>) {
        let (ending, until) = (self.pass(), self.pass_after(1));
        let index = &mut self.index;
        self.shared.recount(new_pass, mappings, |frame, stays| {
            if !stays {
                forget_stable_entry(index, frame);
            } else if new_pass && frame.is_told_apart() {
                keep_ambiguous(index, frame.key.of_its_sample(), ending, until);
            }
        });
    }

    /// The current pass.
    #[inline]
    pub(super) fn pass(&self) -> PassTag {
        self.pass_after(0)
    }

    #[inline]
    fn pass_after(&self, passes: u8) -> PassTag {
        PassTag::of(self.full_scans.wrapping_add(passes.into()))
    }

    /// The pass in which a content seen now must be seen again at the latest, or it is forgotten.
    #[inline]
    pub(super) fn until(&self) -> PassTag {
        self.pass_after(self.remembered_for)
    }
}

/// Keeps an ambiguous sample beyond the `ending` pass, until `until_then` at least. A shared frame that
/// is filed under its whole content can't be found by its sample: without this entry, equal pages would
/// not be looked up by their whole content.
fn keep_ambiguous<S: Storage<IndexEntry>>(
    index: &mut Table<IndexEntry, S>,
    sample: Key,
    ending: PassTag,
    until_then: PassTag,
) {
    let entry = index.get_mut(sample.hash());
    if let Some(entry) = entry {
        if let EntryState::Ambiguous { until, met } = entry.state() {
            let until = until.later(until_then, ending);
            entry.set_state(EntryState::Ambiguous { until, met });
        }
    }
}
