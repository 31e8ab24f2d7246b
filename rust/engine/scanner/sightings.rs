// SPDX-License-Identifier: GPL-2.0

//! What a sighting of a page means: wait, merge, or read the whole page.

use super::KsmScanner;
use super::ScannerStorage;
use crate::content::Content;
use crate::ids::Domain;
use crate::ids::Frame;
use crate::ids::Key;
use crate::index::EntryState;
use crate::index::IndexEntry;
use crate::keys::Glimpse;
use crate::keys::Inspected;
use crate::verdict::Glance;
use crate::verdict::Verdict;

impl<S: ScannerStorage> KsmScanner<S> {
    /// Scans an unshared page and returns what to do with it.
    pub fn scan<C: Content + ?Sized>(
        &mut self,
        frame: Frame,
        domain: Domain,
        content: &C,
    ) -> Verdict {
        match self.glance(frame, self.keys.glimpse(self.keys.salt(domain), content)) {
            Glance::Wait => Verdict::Wait,
            Glance::Promising => Verdict::Promising,
            Glance::Merge(key) => Verdict::Merge(key),
            Glance::Look => self.look(frame, domain, content),
        }
    }

    /// Prepares for [`Self::glance`] at this sample, some samples ahead: begins to fetch what is known of it into
    /// the processor's caches.
    #[inline]
    pub fn expect(&self, glimpse: Glimpse) {
        self.index.fetch(glimpse.key().hash());
    }

    /// Decides from a sample what to do with an unshared page; most pages need no more.
    #[inline]
    pub fn glance(&mut self, frame: Frame, glimpse: Glimpse) -> Glance {
        self.pages_scanned = self.pages_scanned.wrapping_add(1);
        if glimpse.is_blank() {
            return Glance::Look;
        }
        self.sighting(glimpse.key(), frame)
    }

    /// As [`Self::glance`], if only pages of zeroes are merged: nothing is remembered of any other page.
    #[inline]
    pub fn glance_zero(&mut self, glimpse: Glimpse) -> Glance {
        self.pages_scanned = self.pages_scanned.wrapping_add(1);
        if glimpse.is_blank() {
            Glance::Look
        } else {
            Glance::Wait
        }
    }

    /// Decides from the whole content what to do with a page whose sample was not enough.
    pub fn look<C: Content + ?Sized>(
        &mut self,
        frame: Frame,
        domain: Domain,
        content: &C,
    ) -> Verdict {
        match self.keys.inspect(domain, content) {
            Some(inspected) => self.settle(frame, inspected),
            None => Verdict::Zero,
        }
    }

    /// Like [`Self::look`], but takes the result of [`Keys::inspect`](crate::keys::Keys::inspect).
    pub fn settle(&mut self, frame: Frame, inspected: Inspected) -> Verdict {
        let Inspected { sample, whole } = inspected;
        let key = if self.see_ambiguous(sample) {
            whole
        } else {
            sample
        };
        match self.sighting(key, frame) {
            Glance::Merge(key) => Verdict::Merge(key),
            Glance::Promising => Verdict::Promising,
            _ => Verdict::Wait,
        }
    }

    /// Whether the sample of `key` is ambiguous: pages with different contents are known to have it.
    pub(super) fn is_ambiguous(&self, key: Key) -> bool {
        let entry = self.index.get(key.hash());
        entry.is_some_and(|entry| matches!(entry.state(), EntryState::Ambiguous { .. }))
    }

    /// Counts a page with this sample if the sample is ambiguous; returns whether it is.
    fn see_ambiguous(&mut self, key: Key) -> bool {
        let (now, next) = (self.pass(), self.until());
        let Some(entry) = self.index.get_mut(key.hash()) else {
            return false;
        };
        let EntryState::Ambiguous { until, met } = entry.state() else {
            return false;
        };
        let state = EntryState::Ambiguous {
            until: if met { until.later(next, now) } else { until },
            met: true,
        };
        entry.set_state(state);
        true
    }

    /// Marks this sample ambiguous: from now on its pages are told apart by their whole contents.
    /// Returns false if there is no memory for the entry.
    pub(super) fn make_ambiguous(&mut self, key: Key) -> bool {
        let state = EntryState::Ambiguous {
            until: self.until(),
            met: true,
        };
        self.replace(key, Frame::default(), state)
    }

    /// Counts one more sighting of `key`, on `frame`. An ambiguous sample is not counted.
    #[inline]
    pub(super) fn sighting(&mut self, key: Key, frame: Frame) -> Glance {
        let (now, promote_after) = (self.pass(), self.settings.promote_after);
        let next = self.until();
        let first_sight = self.first_sight();
        let make = || IndexEntry::new(key, frame, first_sight);
        let entry = match self.index.get_or_insert(&self.storage, key.hash(), make) {
            Ok(Some(entry)) => entry,
            added => {
                let is_added = added.is_ok();
                self.count_added(is_added);
                return Glance::Wait;
            }
        };
        if !entry.is_unstable() {
            return match entry.state() {
                EntryState::Ambiguous { .. } => Glance::Look,
                _ => Glance::Merge(key),
            };
        }
        let (sightings, twin) = entry.see(frame, now, next);
        if twin == frame {
            Glance::Wait
        } else if sightings >= promote_after {
            Glance::Merge(key)
        } else {
            Glance::Promising
        }
    }

    /// Counts a content seen for the first time, or the failure to remember it.
    fn count_added(&mut self, is_added: bool) {
        self.unstable = self.unstable.saturating_add(u64::from(is_added));
        self.count_failure(!is_added);
    }

    /// The state of a content that was just seen for the first time.
    fn first_sight(&self) -> EntryState {
        EntryState::Unstable {
            sightings: 1,
            until: self.until(),
            met: true,
        }
    }

    /// Replaces the index entry of `key` by `frame`, as if the content were seen for the first time.
    pub(super) fn sight_anew(&mut self, key: Key, frame: Frame) {
        self.replace(key, frame, self.first_sight());
    }

    /// Replaces the index entry of `key`; returns false if there is no memory for it.
    pub(super) fn replace(&mut self, key: Key, frame: Frame, state: EntryState) -> bool {
        self.forget_content(key);
        let inserted = self
            .index
            .insert(&self.storage, IndexEntry::new(key, frame, state));
        self.count_failure(inserted.is_err());
        if inserted.is_ok() && matches!(state, EntryState::Unstable { .. }) {
            self.unstable = self.unstable.saturating_add(1);
        }
        inserted.is_ok()
    }

    /// Removes the index entry of `key`.
    fn forget_content(&mut self, key: Key) {
        let removed = self.index.remove(key.hash());
        if removed.is_some_and(|entry| matches!(entry.state(), EntryState::Unstable { .. })) {
            self.unstable = self.unstable.saturating_sub(1);
        }
    }

    pub(super) fn count_failure(&mut self, failed: bool) {
        self.index_failures = self.index_failures.wrapping_add(u64::from(failed));
    }
}
