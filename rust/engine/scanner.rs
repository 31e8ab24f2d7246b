// SPDX-License-Identifier: GPL-2.0

//! [`KsmScanner`]: the documented API, and the decisions behind it.

use crate::content::Content;
use crate::content::PAGE_SIZE;
use crate::hash::HashKind;
use crate::ids::Domain;
use crate::ids::Frame;
use crate::ids::Key;
use crate::index::EntryState;
use crate::index::IndexEntry;
use crate::index::PassTag;
use crate::keys::Glimpse;
use crate::keys::Inspected;
use crate::keys::Keys;
use crate::region::LONGEST_INTERVAL;
use crate::seats::OwnSeats;
use crate::seats::Seat;
use crate::seats::Seats;
use crate::seats::Space;
use crate::seats::COMMON;
use crate::settings::EngineSettings;
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

/// The memory that a scanner's tables are allocated from.
pub trait ScannerStorage:
    Storage<IndexEntry> + Storage<SharedFrame> + Storage<Retired> + Storage<OwnSeats>
{
}

impl<S> ScannerStorage for S where
    S: Storage<IndexEntry> + Storage<SharedFrame> + Storage<Retired> + Storage<OwnSeats>
{
}

/// The scanner: the stable set, the unstable set, the settings and the counts.
///
/// The owner serialises all calls.
///
/// # Examples
///
/// ```
/// use engine::{KsmScanner, Storage, PAGE_SIZE};
///
/// /// The heap. A block of it can't be truncated, so `truncate()` is never called.
/// #[derive(Default)]
/// struct Heap;
///
/// impl<T: Clone + Default> Storage<T> for Heap {
///     type Block = Vec<T>;
///
///     fn allocate(&self, len: usize) -> Option<Vec<T>> {
///         Some(vec![T::default(); len])
///     }
///
///     fn can_truncate(&self, _block: &Vec<T>) -> bool {
///         false
///     }
///
///     fn truncate(&self, _block: &mut Vec<T>, _len: usize) {}
/// }
///
/// let mut scanner = KsmScanner::<Heap>::new();
/// let content = [7; PAGE_SIZE];
///
/// // A content is merged at its third sighting.
/// assert!(!scanner.scan_page(1, &content));
/// assert!(!scanner.scan_page(2, &content));
/// assert!(scanner.scan_page(3, &content));
///
/// // Later pages with this content merge at once.
/// assert!(scanner.scan_page(4, &content));
/// let stats = scanner.get_stats();
/// assert_eq!((stats.pages_shared, stats.pages_sharing), (1, 2));
/// ```
///
/// An owner whose merges can fail asks first, and reports the result:
///
/// ```
/// # use engine::{Storage, PAGE_SIZE};
/// # #[derive(Default)]
/// # struct Heap;
/// # impl<T: Clone + Default> Storage<T> for Heap {
/// #     type Block = Vec<T>;
/// #     fn allocate(&self, len: usize) -> Option<Vec<T>> {
/// #         Some(vec![T::default(); len])
/// #     }
/// #     fn can_truncate(&self, _block: &Vec<T>) -> bool {
/// #         false
/// #     }
/// #     fn truncate(&self, _block: &mut Vec<T>, _len: usize) {}
/// # }
/// use engine::{Domain, Frame, HashKind, KsmScanner, Target, Verdict};
///
/// let mut scanner = KsmScanner::with(Heap, HashKind::Wide, 0x1234);
/// scanner.set_promote_after(2);
/// let (domain, content) = (Domain(1000), [7; PAGE_SIZE]);
///
/// assert_eq!(scanner.scan(Frame(1), domain, &content), Verdict::Wait);
/// let Verdict::Merge(key) = scanner.scan(Frame(2), domain, &content) else {
///     panic!("the second sighting merges");
/// };
/// assert_eq!(scanner.target(key, domain), Some(Target::Twin(Frame(1))));
///
/// // The owner copies the content to frame 9, which both pages now map.
/// assert!(scanner.announce(Frame(9), 0));
/// assert!(scanner.made(key, Frame(9), domain, 2));
/// assert_eq!(scanner.target(key, domain), Some(Target::Shared(Frame(9))));
/// ```
///
/// The owner serialises all calls.
pub struct KsmScanner<S: ScannerStorage> {
    storage: S,
    keys: Keys,
    enabled: bool,
    settings: EngineSettings,
    /// Number of further passes for which a content seen now is remembered.
    remembered_for: u8,
    index: Table<IndexEntry, S>,
    unstable: u64,
    /// Contents of the unstable set that were at rest when the last pass ended.
    at_rest: u64,
    /// Contents with several shared frames when the last pass ended.
    last_copies: Copies,
    /// The index segment that [`Self::forget_some`] thins out next.
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

/// The documented API, continued: methods that need no default storage.
impl<S: ScannerStorage> KsmScanner<S> {
    /// Forgets all contents and shared frames, as if none had been seen.
    ///
    /// The settings and the totals since the start are kept. Shared frames that still exist are no longer
    /// counted.
    pub fn init(&mut self) {
        self.forget_contents();
        self.shared = Shared::new();
        self.seats = Seats::new();
    }

    /// Forgets all contents. Shared frames that still exist stay counted, but nothing is merged into
    /// them.
    pub fn forget_contents(&mut self) {
        self.index.clear();
        self.unstable = 0;
        self.at_rest = 0;
        self.last_copies = Copies::default();
        self.shared.close();
        self.shared.shrink(&self.storage);
    }

    /// Sets the number of pages scanned per cycle; 0 means 1.
    pub fn set_scan_rate(&mut self, pages_per_cycle: u32) {
        self.settings.set_scan_rate(pages_per_cycle);
    }

    /// Pages scanned per cycle.
    pub fn scan_rate(&self) -> u32 {
        self.settings.scan_rate
    }

    /// Sets the pause between two cycles, in milliseconds; 0 means none.
    pub fn set_sleep_ms(&mut self, ms: u32) {
        self.settings.set_sleep_ms(ms);
    }

    /// Pause between two cycles, in milliseconds.
    pub fn sleep_ms(&self) -> u32 {
        self.settings.sleep_ms
    }

    /// Allows the owner to scan.
    pub fn enable(&mut self) {
        self.enabled = true;
    }

    /// Asks the owner to stop scanning. Merged pages stay merged.
    pub fn disable(&mut self) {
        self.enabled = false;
    }

    /// Whether the owner may scan.
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

    /// Scans a page of the only domain; returns true if the page is merged, and the caller then remaps
    /// it copy-on-write.
    ///
    /// This is the documented one-call form, in which merging can't fail. An owner whose merges can
    /// fail, or which has several domains, calls [`KsmScanner::scan`] and [`KsmScanner::merged`].
    pub fn scan_page<C: Content + ?Sized>(&mut self, frame: u64, content: &C) -> bool {
        let (frame, domain) = (Frame(frame), Domain::default());
        self.pages_scanned = self.pages_scanned.wrapping_add(1);
        // A sample is not enough: the caller compares no bytes.
        let key = self.keys.of_whole(domain, Key::default(), content);
        if content.is_zero() || !matches!(self.sighting(key, frame), Glance::Merge(_)) {
            return false;
        }
        // The page is the shared frame of this content, still mapped where it was first seen.
        if self.shared.get(frame).is_some_and(|known| known.key == key) {
            return false;
        }
        match self.target(key, domain) {
            Some(Target::Shared(shared)) => self.share_one_more(key, shared, frame),
            Some(Target::Twin(twin)) => self.announce(twin, 0) && self.made(key, twin, domain, 2),
            None => false,
        }
    }

    /// Counts one more page that maps `shared`, the shared frame of `key`. Returns false if `shared`
    /// has `max_page_sharing` mappings already; it is then retired.
    fn share_one_more(&mut self, key: Key, shared: Frame, page: Frame) -> bool {
        let mappings = self.shared.get(shared).map_or(0, |entry| entry.mappings);
        if mappings >= self.settings.max_page_sharing {
            self.retire(key, page);
            return false;
        }
        self.shared
            .update(shared, |entry| entry.mappings = mappings.saturating_add(1))
    }

    /// Counts a mapping of a shared frame that a write has broken.
    ///
    /// Returns false if `frame` is no shared frame. The frame is freed with its last mapping. A fork
    /// may have added a mapping without telling the engine; the next recount finds it.
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

/// Methods beyond the documented API: domains, merges that can fail, passes.
impl<S: ScannerStorage> KsmScanner<S> {
    /// Makes a disabled scanner that hashes with `hash`. Its keys can't be predicted without `seed`.
    pub fn with(storage: S, hash: HashKind, seed: u64) -> Self {
        let settings = EngineSettings::default();
        KsmScanner {
            storage,
            keys: Keys::new(hash, seed),
            enabled: false,
            settings,
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

    /// Sets the number of sightings after which an unknown content is merged; 0 means 1.
    pub fn set_promote_after(&mut self, sightings: u8) {
        self.settings.set_promote_after(sightings);
    }

    /// Number of sightings after which an unknown content is merged.
    pub fn promote_after(&self) -> u8 {
        self.settings.promote_after
    }

    /// Sets the number of page table entries that merges may map to one shared frame, see
    /// [`EngineSettings::set_max_page_sharing`].
    ///
    /// A content with more sharers gets further frames. Frames above a lowered limit keep their
    /// mappings, and a fork may add mappings to any frame without asking the engine.
    pub fn set_max_page_sharing(&mut self, mappings: u32) {
        self.settings.set_max_page_sharing(mappings);
    }

    /// Number of page table entries that merges may map to one shared frame.
    pub fn max_page_sharing(&self) -> u32 {
        self.settings.max_page_sharing
    }

    /// Sets the longest interval between two visits of a page, in passes; 1 visits every page in every
    /// pass. The value is rounded down to a power of two and clamped to 1..=[`LONGEST_INTERVAL`].
    pub fn set_max_interval(&mut self, passes: u8) {
        self.settings.set_max_interval(passes);
    }

    /// Sets all settings.
    pub fn configure(&mut self, settings: EngineSettings) {
        self.settings = settings;
    }

    /// Longest interval between two visits of a page, in passes.
    pub fn max_interval(&self) -> u8 {
        self.settings.max_interval
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

    /// Unshared contents that were seen unchanged in two passes, as of the end of the last pass:
    /// mainline's `pages_unshared`.
    pub fn at_rest(&self) -> u64 {
        self.at_rest
    }

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

    /// The counts of [`Self::copies`] when the last pass ended.
    pub fn last_copies(&self) -> Copies {
        self.last_copies
    }

    /// Pages skipped because their regions were not due.
    pub fn pages_skipped(&self) -> u64 {
        self.pages_skipped
    }

    /// Counts skipped pages.
    pub fn skip(&mut self, pages: u64) {
        self.pages_skipped = self.pages_skipped.wrapping_add(pages);
    }

    /// Sets the number of further passes for which contents seen from now on are remembered: until the
    /// next visit of their region.
    pub fn remember_for(&mut self, passes: u8) {
        self.remembered_for = passes.clamp(1, LONGEST_INTERVAL);
    }

    /// Contents and frames that were not remembered because an allocation failed.
    pub fn index_failures(&self) -> u64 {
        self.index_failures
    }

    /// The scheme by which contents get their keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

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

    /// Decides from a sample what to do with an unshared page; most pages need no more.
    #[inline]
    pub fn glance(&mut self, frame: Frame, glimpse: Glimpse) -> Glance {
        self.pages_scanned = self.pages_scanned.wrapping_add(1);
        if glimpse.is_blank() {
            return Glance::Look;
        }
        self.sighting(glimpse.key(), frame)
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

    /// Like [`Self::look`], but takes the result of [`Keys::inspect`].
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

    /// Counts pages that were scanned without a decision: mappings of shared frames, and pages that
    /// can't be merged.
    pub fn pass_by(&mut self, mappings: u64) {
        self.pages_scanned = self.pages_scanned.wrapping_add(mappings);
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
    fn known(&self, key: Key) -> Option<Target> {
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
    /// The caller has checked with [`Keys::is_of`] that the content has this key: under another key the
    /// frame would not be found, and equal pages would get a second frame. If the key has got another
    /// frame meanwhile, or there is no memory, the frame is retired and false is returned. Returns false,
    /// too, if a recount has found that the frame is gone already: the content stays as it was.
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

    fn set_standing(&mut self, frame: Frame, standing: Standing) {
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
    fn reinstate_retired(&mut self) {
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

    /// Iterates over the shared frames, see [`Shared::frames_after`].
    pub fn shared_frames_after(&self, last: Option<Frame>) -> impl Iterator<Item = Frame> + '_ {
        self.shared.frames_after(last)
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

    /// Whether the sample of `key` is ambiguous: pages with different contents are known to have it.
    fn is_ambiguous(&self, key: Key) -> bool {
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
    fn make_ambiguous(&mut self, key: Key) -> bool {
        let state = EntryState::Ambiguous {
            until: self.until(),
            met: true,
        };
        self.replace(key, Frame::default(), state)
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

    /// Counts one more sighting of `key`, on `frame`. An ambiguous sample is not counted.
    #[inline]
    fn sighting(&mut self, key: Key, frame: Frame) -> Glance {
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

    /// The current pass.
    #[inline]
    fn pass(&self) -> PassTag {
        self.pass_after(0)
    }

    #[inline]
    fn pass_after(&self, passes: u8) -> PassTag {
        PassTag::of(self.full_scans.wrapping_add(passes.into()))
    }

    /// The pass in which a content seen now must be seen again at the latest, or it is forgotten.
    #[inline]
    fn until(&self) -> PassTag {
        self.pass_after(self.remembered_for)
    }

    /// Replaces the index entry of `key` by `frame`, as if the content were seen for the first time.
    fn sight_anew(&mut self, key: Key, frame: Frame) {
        self.replace(key, frame, self.first_sight());
    }

    /// Replaces the index entry of `key`; returns false if there is no memory for it.
    fn replace(&mut self, key: Key, frame: Frame, state: EntryState) -> bool {
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

    fn count_failure(&mut self, failed: bool) {
        self.index_failures = self.index_failures.wrapping_add(u64::from(failed));
    }
}

/// Removes the stable entry of a shared frame that has been freed, unless the key has another frame by
/// now.
fn forget_stable_entry<S: Storage<IndexEntry>>(
    index: &mut Table<IndexEntry, S>,
    gone: &SharedFrame,
) {
    let entry = index.get(gone.key.hash());
    if entry.is_some_and(|at| at.state() == EntryState::Stable && at.frame() == gone.frame()) {
        index.remove(gone.key.hash());
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
