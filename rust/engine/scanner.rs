// SPDX-License-Identifier: GPL-2.0

//! [`KsmScanner`]: the documented API, and the decisions behind it.

use crate::content::Content;
use crate::content::PAGE_SIZE;
use crate::hash::HashKind;
use crate::ids::Domain;
use crate::ids::Frame;
use crate::ids::Key;
use crate::index::IndexEntry;
use crate::index::PassTag;
use crate::index::State;
use crate::keys::Glimpse;
use crate::keys::Inspected;
use crate::keys::Keys;
use crate::knobs::Knobs;
use crate::region::LONGEST_INTERVAL;
use crate::seats::OwnSeats;
use crate::seats::Seat;
use crate::seats::Seats;
use crate::seats::Space;
use crate::seats::COMMON;
use crate::shared::Copies;
use crate::shared::Retired;
use crate::shared::Shared;
use crate::shared::SharedFrame;
use crate::shared::Standing;
use crate::stats::merge_ratio_x100;
use crate::stats::KsmStats;
use crate::table::Entry;
use crate::table::Storage;
use crate::table::Table;
use crate::table::SEGMENTS;
use crate::verdict::Glance;
use crate::verdict::Target;
use crate::verdict::Verdict;
use core::mem::size_of;

/// Where a scanner's tables are allocated.
pub trait ScannerStorage:
    Storage<IndexEntry> + Storage<SharedFrame> + Storage<Retired> + Storage<OwnSeats>
{
}

impl<S> ScannerStorage for S where
    S: Storage<IndexEntry> + Storage<SharedFrame> + Storage<Retired> + Storage<OwnSeats>
{
}

/// The scanner: the stable set, the unstable set, the knobs and the counts.
///
/// The owner serialises all calls.
pub struct KsmScanner<S: ScannerStorage> {
    storage: S,
    keys: Keys,
    enabled: bool,
    knobs: Knobs,
    /// For how many more passes a content is remembered that is seen now.
    remembered_for: u8,
    index: Table<IndexEntry, S>,
    unstable: u64,
    /// Contents of the unstable set that were at rest when the last pass ended.
    at_rest: u64,
    /// What had several shared frames then.
    last_copies: Copies,
    /// The part of the index that is forgotten next, if memory is short.
    next_forgotten: usize,
    shared: Shared<S>,
    seats: Seats<S>,
    pages_scanned: u64,
    pages_skipped: u64,
    full_scans: u64,
    index_failures: u64,
}

/// The documented API.
impl<S: ScannerStorage + Default> KsmScanner<S> {
    /// Makes a disabled scanner with the documented defaults: 100 pages a cycle, 200 ms between
    /// cycles, promotion after 3 sightings.
    pub fn new() -> Self {
        Self::with(S::default(), HashKind::default(), 0)
    }
}

impl<S: ScannerStorage + Default> Default for KsmScanner<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// The documented API, continued: what needs no default storage.
impl<S: ScannerStorage> KsmScanner<S> {
    /// Forgets all contents and shared frames, as if none had been seen.
    ///
    /// The knobs and the totals since the start stay. Shared frames that still exist are not counted
    /// any more.
    pub fn init(&mut self) {
        self.forget_contents();
        self.shared = Shared::new();
        self.seats = Seats::new();
    }

    /// Forgets all contents. Shared frames that still exist are counted, and nothing is merged into them.
    pub fn forget_contents(&mut self) {
        self.index.clear();
        self.unstable = 0;
        self.at_rest = 0;
        self.last_copies = Copies::default();
        self.shared.close();
        self.shared.shrink(&self.storage);
    }

    /// Sets how many pages a cycle looks at; 0 means 1.
    pub fn set_scan_rate(&mut self, pages_per_cycle: u32) {
        self.knobs.set_scan_rate(pages_per_cycle);
    }

    /// Pages a cycle looks at.
    pub fn scan_rate(&self) -> u32 {
        self.knobs.scan_rate
    }

    /// Sets the pause between two cycles, in milliseconds; 0 means none.
    pub fn set_sleep_ms(&mut self, ms: u32) {
        self.knobs.set_sleep_ms(ms);
    }

    /// Pause between two cycles, in milliseconds.
    pub fn sleep_ms(&self) -> u32 {
        self.knobs.sleep_ms
    }

    /// Lets the owner scan.
    pub fn enable(&mut self) {
        self.enabled = true;
    }

    /// Asks the owner to stop scanning. Merged pages stay merged.
    pub fn disable(&mut self) {
        self.enabled = false;
    }

    /// Whether the owner is to scan.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The counts.
    pub fn get_stats(&self) -> KsmStats {
        let pages_shared = self.shared.pages_shared();
        let pages_sharing = self.shared.pages_sharing();
        KsmStats {
            pages_shared,
            pages_sharing,
            pages_unshared: self.unstable,
            pages_scanned: self.pages_scanned,
            merge_ratio_x100: merge_ratio_x100(pages_sharing, pages_shared),
        }
    }

    /// Looks at a page of the only domain; true: it is merged, the caller remaps it copy-on-write.
    ///
    /// The documented one-call form, in which merging can't fail. An owner whose merges can, or
    /// who has several domains, calls [`KsmScanner::scan`] and [`KsmScanner::merged`].
    pub fn scan_page<C: Content + ?Sized>(&mut self, frame: u64, content: &C) -> bool {
        let (frame, domain) = (Frame(frame), Domain::default());
        self.pages_scanned = self.pages_scanned.wrapping_add(1);
        // The caller compares no bytes, so that a sample is not enough.
        let key = self.keys.of_whole(domain, Key::default(), content);
        if content.is_zero() || !matches!(self.sighting(key, frame), Glance::Merge(_)) {
            return false;
        }
        // A shared frame of this content itself, still mapped where it was first seen.
        if self.shared.get(frame).is_some_and(|known| known.key == key) {
            return false;
        }
        match self.target(key, domain) {
            Some(Target::Shared(shared)) => self.share_one_more(key, shared, frame),
            Some(Target::Twin(twin)) => self.announce(twin, 0) && self.made(key, twin, domain, 2),
            None => false,
        }
    }

    /// Takes note that one more page maps `shared`, which has the content of `key`; false where
    /// it has all the sharers that it may have.
    fn share_one_more(&mut self, key: Key, shared: Frame, page: Frame) -> bool {
        let mappings = self.shared.get(shared).map_or(0, |entry| entry.mappings);
        if mappings >= self.knobs.max_page_sharing {
            self.retire(key, page);
            return false;
        }
        self.shared
            .update(shared, |entry| entry.mappings = mappings.saturating_add(1))
    }

    /// Notes that a mapping of a shared frame was broken by a write.
    ///
    /// Returns false where `frame` is no shared frame. The last mapping takes the frame along; should a
    /// fork have made another, which nobody tells of, a recount finds that.
    pub fn unmerge_page(&mut self, frame: u64) -> bool {
        let frame = Frame(frame);
        let Some(&known) = self.shared.get(frame).filter(|entry| entry.mappings > 0) else {
            return false;
        };
        let left = known.mappings.saturating_sub(1);
        if left == 0 {
            forget_stable_entry(&mut self.index, &known);
            self.set_standing(frame, Standing::Closed);
        }
        self.shared.update(frame, |entry| entry.mappings = left)
    }
}

/// What goes beyond the documented API: domains, merges that fail, passes.
impl<S: ScannerStorage> KsmScanner<S> {
    /// Makes a disabled scanner that hashes with `hash`; whoever does not know `seed` can't tell
    /// what its keys are.
    pub fn with(storage: S, hash: HashKind, seed: u64) -> Self {
        let knobs = Knobs::default();
        KsmScanner {
            storage,
            keys: Keys::new(hash, seed),
            enabled: false,
            knobs,
            remembered_for: 1,
            index: Table::new(),
            unstable: 0,
            at_rest: 0,
            last_copies: Copies::default(),
            next_forgotten: 0,
            shared: Shared::new(),
            seats: Seats::new(),
            pages_scanned: 0,
            pages_skipped: 0,
            full_scans: 0,
            index_failures: 0,
        }
    }

    /// Sets how often an unknown content must be seen before it is merged; 0 means 1.
    pub fn set_promote_after(&mut self, sightings: u8) {
        self.knobs.set_promote_after(sightings);
    }

    /// Sightings before an unknown content is merged.
    pub fn promote_after(&self) -> u8 {
        self.knobs.promote_after
    }

    /// Sets how many page table entries may be made to map a shared frame, as
    /// [`Knobs::set_max_page_sharing`].
    ///
    /// A content with more sharers gets further frames. Frames that have more already keep them,
    /// and a fork may add to any: the kernel asks nobody then.
    pub fn set_max_page_sharing(&mut self, mappings: u32) {
        self.knobs.set_max_page_sharing(mappings);
    }

    /// How many page table entries may be made to map a shared frame.
    pub fn max_page_sharing(&self) -> u32 {
        self.knobs.max_page_sharing
    }

    /// Sets within how many passes each page is looked at, at the latest; 1: in every pass. What is
    /// no power of two, or above [`LONGEST_INTERVAL`], becomes the next lower one, 0 becomes 1.
    pub fn set_max_interval(&mut self, passes: u8) {
        self.knobs.set_max_interval(passes);
    }

    /// Sets all knobs.
    pub fn set_knobs(&mut self, knobs: Knobs) {
        self.knobs = knobs;
    }

    /// Within how many passes each page is looked at, at the latest.
    pub fn max_interval(&self) -> u8 {
        self.knobs.max_interval
    }

    /// Completed passes over all memory.
    pub fn full_scans(&self) -> u64 {
        self.full_scans
    }

    /// Memory of the tables, in bytes.
    pub fn index_bytes(&self) -> u64 {
        let of_frames = self.shared.bytes().saturating_add(self.seats.bytes());
        self.index.bytes().saturating_add(of_frames) as u64
    }

    /// Contents that are unshared and were the same in two passes, as of the end of the last one:
    /// what mainline calls `pages_unshared`.
    pub fn at_rest(&self) -> u64 {
        self.at_rest
    }

    /// Which contents have several shared frames. Looks at all of them.
    pub fn copies(&self) -> Copies {
        let mut retired = Table::<Retired, S>::new();
        let mut last = None;
        while let Some(frame) = self.shared.next_retired(last) {
            let key = frame.key;
            let make = || Retired::first(key);
            // Where there is no memory for it, the content is not counted.
            if let Ok(Some(known)) = retired.get_or_insert(&self.storage, key.hash(), make) {
                known.frames = known.frames.saturating_add(1);
            }
            last = Some(frame.frame());
        }
        let mut copies = Copies::default();
        for known in retired.entries_from(0) {
            let entry = self.index.get(known.hash());
            let is_stable = entry.is_some_and(|entry| entry.state() == State::Stable);
            copies.count(known.frames.saturating_add(is_stable.into()));
        }
        copies
    }

    /// Which contents had several shared frames when the last pass ended.
    pub fn last_copies(&self) -> Copies {
        self.last_copies
    }

    /// Pages that were passed over, in regions that were not due.
    pub fn pages_skipped(&self) -> u64 {
        self.pages_skipped
    }

    /// Takes note of pages that were passed over.
    pub fn skip(&mut self, pages: u64) {
        self.pages_skipped = self.pages_skipped.wrapping_add(pages);
    }

    /// Sets for how many more passes contents are remembered that are seen from now on: until the
    /// next visit of the region where they are.
    pub fn remember_for(&mut self, passes: u8) {
        self.remembered_for = passes.clamp(1, LONGEST_INTERVAL);
    }

    /// Contents and frames that could not be remembered for want of memory.
    pub fn index_failures(&self) -> u64 {
        self.index_failures
    }

    /// How contents get their keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Looks at a page that is not shared and says what to do with it.
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

    /// Says what to do with a page that is not shared, by a sample of it: enough for most.
    #[inline]
    pub fn glance(&mut self, frame: Frame, glimpse: Glimpse) -> Glance {
        self.pages_scanned = self.pages_scanned.wrapping_add(1);
        if glimpse.is_blank() {
            return Glance::Look;
        }
        self.sighting(glimpse.key(), frame)
    }

    /// Says what to do with a page of which the sample was not enough.
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

    /// As [`Self::look`], of what [`Keys::inspect`] said.
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

    /// Counts mappings of shared frames that were met, and pages that can't be merged.
    pub fn pass_by(&mut self, mappings: u64) {
        self.pages_scanned = self.pages_scanned.wrapping_add(mappings);
    }

    /// With what to merge a page of `domain` of this key now; `None` where that has gone since.
    ///
    /// Keys of two domains may collide, so a shared frame is asked whose it is. A twin can't be: whoever
    /// merges with it looks at who maps it.
    pub fn target(&self, key: Key, domain: Domain) -> Option<Target> {
        self.known(key).filter(|known| match *known {
            Target::Shared(frame) => self.is_in(frame, domain),
            Target::Twin(_) => true,
        })
    }

    /// Whether `frame` is known as a shared one of `domain`.
    fn is_in(&self, frame: Frame, domain: Domain) -> bool {
        let known = self.shared.get(frame);
        known.is_some_and(|known| known.domain == domain)
    }

    /// What the index has for `key`, of whatever domain.
    fn known(&self, key: Key) -> Option<Target> {
        let entry = self.index.get(key.hash())?;
        match entry.state() {
            State::Stable => Some(Target::Shared(entry.frame())),
            State::Unstable { .. } => Some(Target::Twin(entry.frame())),
            State::Ambiguous { .. } => None,
        }
    }

    /// Makes a shared frame known that is about to be made, at `made_at` or later: nanoseconds since boot, 0
    /// where that is not known, and the frame then counts as older than every address space. Replaces
    /// what was known of a frame that had this number before.
    ///
    /// Returns false where there is no memory for it: it must not be made then.
    pub fn announce(&mut self, frame: Frame, made_at: u64) -> bool {
        self.forget_shared(frame);
        let mut entry = SharedFrame::new(frame);
        entry.made_at = made_at;
        let inserted = self.shared.insert(&self.storage, entry);
        self.count_failure(inserted.is_err());
        inserted.is_ok()
    }

    /// Adds a shared frame that was [announced](Self::announce) to the stable set. Its content has `key`, and
    /// `pages` pages of `domain` are merged into it.
    ///
    /// The caller has asked [`Keys::is_of`] about the content: under another key it would not be found,
    /// and equal pages would get a second frame. Where another frame has got the key meanwhile, or there
    /// is no memory, this one is retired; returns false then.
    pub fn made(&mut self, key: Key, frame: Frame, domain: Domain, pages: u32) -> bool {
        let is_stable = !self.is_taken(key) && self.replace(key, frame, State::Stable);
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
        }) && is_stable
    }

    /// Counts the mappings of the shared frame `frame`, which pages were merged into.
    pub fn merged(&mut self, frame: Frame, mappings: u32) {
        self.shared.update(frame, |entry| entry.mappings = mappings);
    }

    /// Takes a seat of the shared frame `frame` for a page of `space`, or for one that may be mapped
    /// in several address spaces (`None`): to be called before it is merged into the frame, and so for
    /// every page that is. `None`: the frame is full for that page.
    pub fn take_seat(&mut self, frame: Frame, space: Option<Space>) -> Option<Seat> {
        let entry = self.shared.get_mut(frame)?;
        self.seats.take(&self.storage, entry, space)
    }

    /// Gives back the seat of a page that was not merged.
    pub fn give_back(&mut self, seat: Seat) {
        if let Some(entry) = self.shared.get_mut(seat.frame()) {
            self.seats.give_back(entry, seat);
        }
    }

    /// Notes that the frame which the index has for `key` does not hold its content (any more), or can't be
    /// read, and that `frame` does.
    pub fn refuted(&mut self, key: Key, frame: Frame) {
        if let Some(Target::Shared(shared)) = self.known(key) {
            self.set_standing(shared, Standing::Closed);
        }
        self.sight_anew(key, frame);
    }

    /// Takes note that `frame`, which has `key`, does not equal its target, a frame of `domain`
    /// with this content.
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

    /// Takes note that the shared frame of `key` takes no more sharers, and that `page`, which
    /// has its content, is therefore unshared. The next of that content get a further frame.
    pub fn retire(&mut self, key: Key, page: Frame) {
        if let Some(Target::Shared(full)) = self.known(key) {
            self.set_standing(full, Standing::Retired);
            self.sight_anew(key, page);
        }
    }

    fn set_standing(&mut self, frame: Frame, standing: Standing) {
        if let Some(entry) = self.shared.get_mut(frame) {
            entry.standing = standing;
        }
    }

    /// Forgets a shared frame that is gone.
    fn forget_shared(&mut self, frame: Frame) {
        if let Some(gone) = self.shared.remove(frame) {
            forget_stable_entry(&mut self.index, &gone);
        }
    }

    /// Takes retired frames into the stable set again that have lost half of their sharers, unless
    /// another has their place.
    fn reinstate_retired(&mut self) {
        let most = self.knobs.max_page_sharing / 2;
        let mut last = None;
        while let Some(retired) = self.shared.next_retired(last) {
            let (frame, key) = (retired.frame(), retired.key);
            let has_room = retired.mappings <= most && retired.common <= COMMON / 2;
            let is_free = !self.is_taken(key) && !self.is_ambiguous(key);
            if has_room && is_free && self.replace(key, frame, State::Stable) {
                self.set_standing(frame, Standing::Stable);
            }
            last = Some(frame);
        }
    }

    /// Ends a pass: forgets the contents that were not seen in it, and recounts.
    ///
    /// `mappings` says how many page table entries map a frame, `None` where it is no shared
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

    /// How many calls of [`Self::forget_some`] would give memory back that is worth it.
    pub fn forgettable_parts(&self) -> usize {
        let bytes = self.unstable.saturating_mul(size_of::<IndexEntry>() as u64);
        usize::try_from(bytes / PAGE_SIZE as u64).map_or(SEGMENTS, |parts| parts.min(SEGMENTS))
    }

    /// Forgets the unstable set, a part of it in each call, and gives the memory back: for when
    /// that is short. Allocates nothing; returns false if [`Self::shrink_index`], which may, is to be
    /// called for the memory to be given back. What is seen again is remembered again.
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

    /// Gives memory of the index back that is not in use.
    pub fn shrink_index(&mut self) {
        self.index.shrink(&self.storage);
    }

    /// The shared frames, as [`Shared::frames_after`] has them.
    pub fn shared_frames_after(&self, last: Option<Frame>) -> impl Iterator<Item = Frame> + '_ {
        self.shared.frames_after(last)
    }

    /// Brings the counts of shared frames up to date.
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

    /// Whether pages of different contents are known to have the sample of `key`.
    fn is_ambiguous(&self, key: Key) -> bool {
        let entry = self.index.get(key.hash());
        entry.is_some_and(|entry| matches!(entry.state(), State::Ambiguous { .. }))
    }

    /// Counts a page of this sample; false unless it is ambiguous.
    fn see_ambiguous(&mut self, key: Key) -> bool {
        let (now, next) = (self.pass(), self.until());
        let Some(entry) = self.index.get_mut(key.hash()) else {
            return false;
        };
        let State::Ambiguous { until, met } = entry.state() else {
            return false;
        };
        let state = State::Ambiguous {
            until: if met { until.later(next, now) } else { until },
            met: true,
        };
        entry.set_state(state);
        true
    }

    /// Has pages of this sample told apart by the whole of their contents from now on; false
    /// where there is no memory for that.
    fn make_ambiguous(&mut self, key: Key) -> bool {
        let state = State::Ambiguous {
            until: self.until(),
            met: true,
        };
        self.replace(key, Frame::default(), state)
    }

    /// Puts the shared frame `shared` into the stable set under `key`; where another is there, or there
    /// is no memory, it is retired.
    fn rename(&mut self, shared: Frame, key: Key) {
        let is_renamed = !self.is_taken(key) && self.replace(key, shared, State::Stable);
        if let Some(entry) = self.shared.get_mut(shared) {
            entry.key = key;
            if !is_renamed {
                entry.standing = Standing::Retired;
            }
        }
    }

    /// Whether a shared frame is in the stable set under `key`.
    fn is_taken(&self, key: Key) -> bool {
        matches!(self.known(key), Some(Target::Shared(_)))
    }

    /// Counts one more sighting of `key`, on `frame`; nothing where that is an ambiguous sample.
    #[inline]
    fn sighting(&mut self, key: Key, frame: Frame) -> Glance {
        let (now, promote_after) = (self.pass(), self.knobs.promote_after);
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
                State::Ambiguous { .. } => Glance::Look,
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

    /// Takes note of a content that was seen for the first time, if there was memory for it.
    fn count_added(&mut self, is_added: bool) {
        self.unstable = self.unstable.saturating_add(u64::from(is_added));
        self.count_failure(!is_added);
    }

    /// The state of a content that was just seen for the first time.
    fn first_sight(&self) -> State {
        State::Unstable {
            sightings: 1,
            until: self.until(),
            met: true,
        }
    }

    /// This pass.
    #[inline]
    fn pass(&self) -> PassTag {
        self.pass_after(0)
    }

    #[inline]
    fn pass_after(&self, passes: u8) -> PassTag {
        PassTag::of(self.full_scans.wrapping_add(passes.into()))
    }

    /// The pass in which a content that is seen now has to be seen again.
    #[inline]
    fn until(&self) -> PassTag {
        self.pass_after(self.remembered_for)
    }

    /// Puts `frame` in the place of what the index has for `key`, as if seen for the first time.
    fn sight_anew(&mut self, key: Key, frame: Frame) {
        self.replace(key, frame, self.first_sight());
    }

    /// Sets what the index has for `key`; false where there is no memory for it.
    fn replace(&mut self, key: Key, frame: Frame, state: State) -> bool {
        self.forget_content(key);
        let inserted = self
            .index
            .insert(&self.storage, IndexEntry::new(key, frame, state));
        self.count_failure(inserted.is_err());
        if inserted.is_ok() && matches!(state, State::Unstable { .. }) {
            self.unstable = self.unstable.saturating_add(1);
        }
        inserted.is_ok()
    }

    /// Removes what the index has for `key`.
    fn forget_content(&mut self, key: Key) {
        let removed = self.index.remove(key.hash());
        if removed.is_some_and(|entry| matches!(entry.state(), State::Unstable { .. })) {
            self.unstable = self.unstable.saturating_sub(1);
        }
    }

    fn count_failure(&mut self, failed: bool) {
        self.index_failures = self.index_failures.wrapping_add(u64::from(failed));
    }
}

/// Removes the stable content of a shared frame that is gone, unless another has its place.
fn forget_stable_entry<S: Storage<IndexEntry>>(
    index: &mut Table<IndexEntry, S>,
    gone: &SharedFrame,
) {
    let entry = index.get(gone.key.hash());
    if entry.is_some_and(|at| at.state() == State::Stable && at.frame() == gone.frame()) {
        index.remove(gone.key.hash());
    }
}

/// Keeps a sample ambiguous beyond the pass that is `ending`, for one more if no longer: a shared
/// frame is known by its whole content, and nobody would find that by its sample.
fn keep_ambiguous<S: Storage<IndexEntry>>(
    index: &mut Table<IndexEntry, S>,
    sample: Key,
    ending: PassTag,
    until_then: PassTag,
) {
    let entry = index.get_mut(sample.hash());
    if let Some(entry) = entry {
        if let State::Ambiguous { until, met } = entry.state() {
            let until = until.later(until_then, ending);
            entry.set_state(State::Ambiguous { until, met });
        }
    }
}
