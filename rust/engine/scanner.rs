// SPDX-License-Identifier: GPL-2.0

//! [`KsmScanner`]: its tables, its settings and its counts. What it does is in four files:
//!
//! - `scanner/api.rs`: the documented calls, in which merging cannot fail
//! - `scanner/sightings.rs`: what a sighting of a page means
//! - `scanner/stable.rs`: targets of merges, and the results of merges
//! - `scanner/passes.rs`: the ends of passes

use crate::hash::HashKind;
use crate::index::IndexEntry;
use crate::keys::Keys;
use crate::region::LONGEST_INTERVAL;
use crate::seats::OwnSeats;
use crate::seats::Seats;
use crate::settings::EngineSettings;
use crate::shared::Copies;
use crate::shared::Retired;
use crate::shared::Shared;
use crate::shared::SharedFrame;
use crate::table::Storage;
use crate::table::Table;

mod api;
mod passes;
mod sightings;
mod stable;

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

    /// Counts pages that were scanned without a decision: mappings of shared frames, and pages that
    /// can't be merged.
    pub fn pass_by(&mut self, mappings: u64) {
        self.pages_scanned = self.pages_scanned.wrapping_add(mappings);
    }
}
