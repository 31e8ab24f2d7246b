// SPDX-License-Identifier: GPL-2.0

//! The stable set: targets of merges, and the results of merges.

use super::KsmScanner;
use super::ScannerStorage;
use crate::content::Content;
use crate::ids::Domain;
use crate::ids::Frame;
use crate::ids::Key;
use crate::index::EntryState;
use crate::index::IndexEntry;
use crate::seats::Seat;
use crate::seats::Space;
use crate::seats::COMMON;
use crate::shared::Copies;
use crate::shared::Retired;
use crate::shared::SharedFrame;
use crate::shared::Standing;
use crate::table::Entry;
use crate::table::Storage;
use crate::table::Table;
use crate::verdict::Target;

impl<S: ScannerStorage> KsmScanner<S> {
    /// Counts the contents with several shared frames. Walks all shared frames.
    pub fn copies(&self) -> Copies {
        let mut retired = Table::<Retired, S>::new();
        let mut last = None;
        while let Some(frame) = self.shared.next_retired(last) {
            let key = frame.key;
            let make = || Retired::first(key);
            // Without memory for an entry, the content is not counted.
            if let Ok(Some(known)) = retired.get_or_insert(&self.storage, key.hash(), make) {
                known.frames = known.frames.saturating_add(1);
            }
            last = Some(frame.frame());
        }
        let mut copies = Copies::default();
        for known in retired.entries_from(0) {
            let entry = self.index.get(known.hash());
            let is_stable = entry.is_some_and(|entry| entry.state() == EntryState::Stable);
            copies.count(known.frames.saturating_add(is_stable.into()));
        }
        copies
    }

    /// Returns what a page of `domain` with `key` should be merged with now; `None` if it has gone
    /// since.
    ///
    /// Keys of two domains may collide, so the domain of a shared frame is compared. The domain of a
    /// twin is not recorded: before merging with a twin, the caller checks who maps it.
    pub fn target(&self, key: Key, domain: Domain) -> Option<Target> {
        self.known(key).filter(|known| match *known {
            Target::Shared(frame) => self.is_in(frame, domain),
            Target::Twin(_) => true,
        })
    }

    /// Whether `frame` is a known shared frame of `domain`.
    fn is_in(&self, frame: Frame, domain: Domain) -> bool {
        let known = self.shared.get(frame);
        known.is_some_and(|known| known.domain == domain)
    }

    /// Looks up `key` in the index, without comparing domains.
    pub(super) fn known(&self, key: Key) -> Option<Target> {
        let entry = self.index.get(key.hash())?;
        match entry.state() {
            EntryState::Stable => Some(Target::Shared(entry.frame())),
            EntryState::Unstable { .. } => Some(Target::Twin(entry.frame())),
            EntryState::Ambiguous { .. } => None,
        }
    }

    /// Announces a shared frame before it is created. `made_at` is a time, in nanoseconds since boot,
    /// before which the frame did not exist; with 0, the frame counts as older than every address
    /// space. Replaces the entry of a former shared frame with this number.
    ///
    /// Returns false if there is no memory for the entry: the shared frame must not be created then.
    pub fn announce(&mut self, frame: Frame, made_at: u64) -> bool {
        self.forget_shared(frame);
        let mut entry = SharedFrame::new(frame);
        entry.made_at = made_at;
        let inserted = self.shared.insert(&self.storage, entry);
        self.count_failure(inserted.is_err());
        inserted.is_ok()
    }

    /// Adds a shared frame that was [announced](Self::announce) to the stable set under `key`, the key
    /// of its content. `pages` pages of `domain` are merged into it.
    ///
    /// The caller has checked with [`Keys::is_of`](crate::keys::Keys::is_of) that the content has this
    /// key: under another key the frame would not be found, and equal pages would get a second frame.
    /// If the key has got another frame meanwhile, or there is no memory, the frame is retired and
    /// false is returned. Returns false, too, if a recount has found that the frame is gone already:
    /// the content stays as it was.
    pub fn made(&mut self, key: Key, frame: Frame, domain: Domain, pages: u32) -> bool {
        if self.shared.get(frame).is_none() {
            return false;
        }
        let is_stable = !self.is_taken(key) && self.replace(key, frame, EntryState::Stable);
        self.shared.update(frame, |entry| {
            entry.key = key;
            entry.domain = domain;
            entry.common = pages;
            entry.mappings = pages;
            entry.standing = if is_stable {
                Standing::Stable
            } else {
                Standing::Retired
            };
        });
        is_stable
    }

    /// Sets the number of mappings of the shared frame `frame` after pages were merged into it.
    pub fn merged(&mut self, frame: Frame, mappings: u32) {
        self.shared.update(frame, |entry| entry.mappings = mappings);
    }

    /// Takes a seat of the shared frame `frame` for a page of `space`; `None` stands for a page that
    /// may be mapped in several address spaces. Every page takes a seat before it is merged into the
    /// frame. Returns `None` if the frame has no seat for this page.
    pub fn take_seat(&mut self, frame: Frame, space: Option<Space>) -> Option<Seat> {
        let entry = self.shared.get_mut(frame)?;
        self.seats.take(&self.storage, entry, space)
    }

    /// Returns the seat of a page that was not merged.
    pub fn give_back(&mut self, seat: Seat) {
        if let Some(entry) = self.shared.get_mut(seat.frame()) {
            self.seats.give_back(entry, seat);
        }
    }

    /// Records that the index entry of `key` is wrong: its frame does not hold this content (any more)
    /// or can't be read. `frame` holds it and replaces the entry.
    pub fn refuted(&mut self, key: Key, frame: Frame) {
        if let Some(Target::Shared(shared)) = self.known(key) {
            self.set_standing(shared, Standing::Closed);
        }
        self.sight_anew(key, frame);
    }

    /// Remembers `frame`, on which the content of `key` was just seen, instead of the twin that the index has.
    /// The twin may still hold the content, but is not merged now.
    pub fn prefer_twin(&mut self, key: Key, frame: Frame) {
        let Some(entry) = self.index.get_mut(key.hash()) else {
            return;
        };
        if let EntryState::Unstable {
            sightings, until, ..
        } = entry.state()
        {
            let state = EntryState::Unstable {
                sightings,
                until,
                met: true,
            };
            *entry = IndexEntry::new(key, frame, state);
        }
    }

    /// Records that the page on `frame`, which has `key`, differs from its target. The target is a
    /// frame of `domain` with this `content`.
    pub fn differed<C: Content + ?Sized>(
        &mut self,
        key: Key,
        frame: Frame,
        domain: Domain,
        content: &C,
    ) {
        match self.known(key) {
            Some(Target::Twin(_)) if key.is_whole() || !self.keys.is_of(key, domain, content) => {
                self.sight_anew(key, frame);
            }
            Some(Target::Twin(_)) => {
                self.make_ambiguous(key);
            }
            Some(Target::Shared(shared)) if !key.is_whole() => {
                if self.make_ambiguous(key) {
                    self.rename(shared, self.keys.of_whole(domain, key, content));
                }
            }
            _ => (),
        }
    }

    /// Retires the shared frame of `key`, which takes no more sharers. `page`, which has this content,
    /// becomes the unshared entry of `key`, so that the next equal pages get a further shared frame.
    pub fn retire(&mut self, key: Key, page: Frame) {
        if let Some(Target::Shared(full)) = self.known(key) {
            self.set_standing(full, Standing::Retired);
            self.sight_anew(key, page);
        }
    }

    pub(super) fn set_standing(&mut self, frame: Frame, standing: Standing) {
        if let Some(entry) = self.shared.get_mut(frame) {
            entry.standing = standing;
        }
    }

    /// Forgets a shared frame that has been freed.
    fn forget_shared(&mut self, frame: Frame) {
        if let Some(gone) = self.shared.remove(frame) {
            forget_stable_entry(&mut self.index, &gone);
        }
    }

    /// Returns retired frames to the stable set if at most half of their mappings and common seats are
    /// in use, unless their key has another shared frame there or is an ambiguous sample.
    pub(super) fn reinstate_retired(&mut self) {
        let most = self.settings.max_page_sharing / 2;
        let mut last = None;
        while let Some(retired) = self.shared.next_retired(last) {
            let (frame, key) = (retired.frame(), retired.key);
            let has_room = retired.mappings <= most && retired.common <= COMMON / 2;
            let is_free = !self.is_taken(key) && !self.is_ambiguous(key);
            if has_room && is_free && self.replace(key, frame, EntryState::Stable) {
                self.set_standing(frame, Standing::Stable);
            }
            last = Some(frame);
        }
    }

    /// Iterates over the shared frames, see [`Shared::frames_after`](crate::shared::Shared::frames_after).
    pub fn shared_frames_after(&self, last: Option<Frame>) -> impl Iterator<Item = Frame> + '_ {
        self.shared.frames_after(last)
    }

    /// Moves the shared frame `shared` to `key` in the stable set. It is retired instead if `key` has
    /// another shared frame or there is no memory.
    fn rename(&mut self, shared: Frame, key: Key) {
        let is_renamed = !self.is_taken(key) && self.replace(key, shared, EntryState::Stable);
        if let Some(entry) = self.shared.get_mut(shared) {
            entry.key = key;
            if !is_renamed {
                entry.standing = Standing::Retired;
            }
        }
    }

    /// Whether the stable set has a shared frame for `key`.
    fn is_taken(&self, key: Key) -> bool {
        matches!(self.known(key), Some(Target::Shared(_)))
    }
}

/// Removes the stable entry of a shared frame that has been freed, unless the key has another frame by
/// now.
pub(super) fn forget_stable_entry<S: Storage<IndexEntry>>(
    index: &mut Table<IndexEntry, S>,
    gone: &SharedFrame,
) {
    let entry = index.get(gone.key.hash());
    if entry.is_some_and(|at| at.state() == EntryState::Stable && at.frame() == gone.frame()) {
        index.remove(gone.key.hash());
    }
}
