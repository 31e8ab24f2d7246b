// SPDX-License-Identifier: GPL-2.0

//! A reference model of the scanner: with hash maps, without hashes of contents, without packing, every
//! sum computed anew. Slow and plain, so that its correctness is obvious.
//!
//! Its allocations never fail. Where the engine's did, the caller says so (`remembered: false`), and
//! the model does not remember the entry either.

use crate::letters::Letter;
use crate::letters::ZERO;
use engine::Domain;
use engine::Frame;
use engine::Glimpse;
use engine::KsmStats;
use engine::Target;
use std::collections::HashMap as SeededMap;
use std::hash::BuildHasherDefault;
use std::hash::DefaultHasher;

/// A hash map with the same order in every run, so that a fuzzer can reproduce a failure.
type HashMap<K, V> = SeededMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// The part of a page that identifies its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A sample of the content.
    Sample(Glimpse),
    /// The whole content, if pages with different contents were found to have this sample.
    Whole(Letter, Glimpse),
}

/// The engine's key: a content in a domain.
pub type What = (Domain, Name);

/// A page to scan.
#[derive(Clone, Copy)]
pub struct Look {
    /// Its domain.
    pub domain: Domain,
    /// Its content.
    pub letter: Letter,
    /// The engine's sample of the content.
    pub sample: Glimpse,
}

/// The expected decision on a page: a [`engine::Verdict`], with the target that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// [`engine::Verdict::Wait`].
    Wait,
    /// [`engine::Verdict::Promising`].
    Promising,
    /// [`engine::Verdict::Zero`].
    Zero,
    /// [`engine::Verdict::Merge`].
    Merge(Target),
}

/// A content of the unstable set.
struct Unstable {
    /// The frame on which it was first seen.
    twin: Frame,
    sightings: usize,
    /// The frames on which it was seen in this pass.
    in_this_pass: Vec<Frame>,
    /// The pass at whose end it is forgotten.
    until: u64,
}

impl Unstable {
    fn new(frame: Frame, until: u64) -> Self {
        Unstable {
            twin: frame,
            sightings: 1,
            in_this_pass: vec![frame],
            until,
        }
    }
}

/// A sample that pages with different contents have.
struct Ambiguous {
    /// How many such pages were seen in this pass.
    seen: usize,
    /// The pass at whose end it is forgotten.
    until: u64,
}

/// A shared frame.
struct Shared {
    /// The key that it was made for; `None` if no pages are merged into it.
    what: Option<What>,
    mappings: u32,
    /// Whether it takes no more sharers.
    retired: bool,
}

/// The scanner.
pub struct Reference {
    promote_after: usize,
    unstable: HashMap<What, Unstable>,
    stable: HashMap<What, Frame>,
    shared: HashMap<Frame, Shared>,
    ambiguous: HashMap<(Domain, Glimpse), Ambiguous>,
    remembered_for: u64,
    pages_scanned: u64,
    full_scans: u64,
}

impl Reference {
    /// Makes a scanner that promotes contents after this many sightings, at least one.
    pub fn new(promote_after: u8) -> Self {
        Reference {
            promote_after: promote_after.into(),
            unstable: HashMap::default(),
            stable: HashMap::default(),
            shared: HashMap::default(),
            ambiguous: HashMap::default(),
            remembered_for: 1,
            pages_scanned: 0,
            full_scans: 0,
        }
    }

    /// See `KsmScanner::init`.
    pub fn init(&mut self) {
        self.forget_contents();
        self.shared.clear();
    }

    /// See `KsmScanner::forget_contents`.
    pub fn forget_contents(&mut self) {
        self.unstable.clear();
        self.stable.clear();
        self.ambiguous.clear();
        for shared in self.shared.values_mut() {
            (shared.what, shared.retired) = (None, false);
        }
    }

    /// See `KsmScanner::pass_by`.
    pub fn pass_by(&mut self, pages: u64) {
        self.pages_scanned += pages;
    }

    /// The key of the page now.
    pub fn name(&self, look: Look) -> What {
        let ambiguous = self.ambiguous.contains_key(&(look.domain, look.sample));
        let name = if ambiguous {
            Name::Whole(look.letter, look.sample)
        } else {
            Name::Sample(look.sample)
        };
        (look.domain, name)
    }

    /// See `KsmScanner::set_promote_after`.
    pub fn set_promote_after(&mut self, sightings: u8) {
        self.promote_after = sightings.max(1).into();
    }

    /// See `KsmScanner::remember_for`.
    pub fn remember_for(&mut self, passes: u8) {
        self.remembered_for = passes.clamp(1, 8).into();
    }

    /// The pass at whose end contents seen now are forgotten.
    fn until(&self) -> u64 {
        self.full_scans + self.remembered_for
    }

    /// See `KsmScanner::full_scans`.
    pub fn full_scans(&self) -> u64 {
        self.full_scans
    }

    /// See `KsmScanner::get_stats`.
    pub fn stats(&self) -> KsmStats {
        let mapped = || self.shared.values().filter(|shared| shared.mappings > 0);
        let pages_shared = mapped().count() as u64;
        let mappings: u64 = mapped().map(|shared| u64::from(shared.mappings)).sum();
        let pages_sharing = mappings - pages_shared;
        KsmStats {
            pages_shared,
            pages_sharing,
            pages_unshared: self.unstable.len() as u64,
            pages_scanned: self.pages_scanned,
            merge_ratio_x100: (pages_sharing * 100)
                .checked_div(pages_shared)
                .unwrap_or_default(),
        }
    }

    /// See `KsmScanner::scan`.
    pub fn scan(&mut self, frame: Frame, look: Look, remembered: bool) -> Answer {
        self.pages_scanned += 1;
        if look.letter == ZERO {
            return Answer::Zero;
        }
        let (what, until) = (self.name(look), self.until());
        if let Some(sample) = self.ambiguous.get_mut(&(look.domain, look.sample)) {
            sample.seen += 1;
            if sample.seen > 1 {
                sample.until = sample.until.max(until);
            }
        }
        if let Some(&shared) = self.stable.get(&what) {
            return Answer::Merge(Target::Shared(shared));
        }
        let Some(known) = self.unstable.get_mut(&what) else {
            if remembered {
                self.unstable.insert(what, Unstable::new(frame, until));
            }
            return Answer::Wait;
        };
        known.until = known.until.max(until);
        let again = frame == known.twin && known.in_this_pass.contains(&frame);
        known.sightings += usize::from(!again);
        known.in_this_pass.push(frame);
        if frame == known.twin {
            Answer::Wait
        } else if known.sightings >= self.promote_after {
            Answer::Merge(Target::Twin(known.twin))
        } else {
            Answer::Promising
        }
    }

    /// See `KsmScanner::announce`.
    pub fn announce(&mut self, frame: Frame, remembered: bool) {
        self.forget_shared(frame);
        if remembered {
            let shared = Shared {
                what: None,
                mappings: 0,
                retired: false,
            };
            self.shared.insert(frame, shared);
        }
    }

    /// See `KsmScanner::made`.
    pub fn made(&mut self, what: What, frame: Frame, mappings: u32, remembered: bool) {
        let is_stable = remembered && !self.stable.contains_key(&what);
        if is_stable {
            self.unstable.remove(&what);
            self.stable.insert(what, frame);
        }
        let shared = Shared {
            what: Some(what),
            mappings,
            retired: !is_stable,
        };
        self.shared.insert(frame, shared);
    }

    /// See `KsmScanner::merged`.
    pub fn merged(&mut self, frame: Frame, mappings: u32) {
        self.shared.get_mut(&frame).unwrap().mappings = mappings;
    }

    /// See `KsmScanner::differed`; `target` is the present content of the target.
    pub fn differed(&mut self, what: What, frame: Frame, target: Look, remembered: bool) {
        let known = self.unstable.get(&what);
        let (domain, sample) = match what {
            (domain, Name::Sample(sample)) if known.is_none() || target.sample == sample => {
                (domain, sample)
            }
            // The twin has changed, or only the hash is the same.
            _ => {
                if known.is_some() {
                    self.unstable
                        .insert(what, Unstable::new(frame, self.until()));
                }
                return;
            }
        };
        // The two pages that differ.
        let pages = Ambiguous {
            seen: 2,
            until: self.until(),
        };
        self.ambiguous.insert((domain, sample), pages);
        self.unstable.remove(&what);
        if let Some(shared) = self.stable.remove(&what) {
            let name = Name::Whole(target.letter, sample);
            self.rename(shared, (domain, name), remembered);
        }
    }

    fn rename(&mut self, shared: Frame, what: What, remembered: bool) {
        let free = remembered && !self.stable.contains_key(&what);
        if free {
            self.unstable.remove(&what);
            self.stable.insert(what, shared);
        }
        let shared = self.shared.get_mut(&shared).unwrap();
        (shared.what, shared.retired) = (Some(what), !free);
    }

    /// See `KsmScanner::refuted`.
    pub fn refuted(&mut self, what: What, frame: Frame) {
        if let Some(shared) = self.stable.remove(&what) {
            self.shared.get_mut(&shared).unwrap().what = None;
        }
        self.unstable
            .insert(what, Unstable::new(frame, self.until()));
    }

    /// See `KsmScanner::prefer_twin`.
    pub fn prefer_twin(&mut self, what: What, frame: Frame) {
        if let Some(known) = self.unstable.get_mut(&what) {
            known.twin = frame;
        }
    }

    /// See `KsmScanner::retire`.
    pub fn retire(&mut self, what: What, frame: Frame) {
        if let Some(full) = self.stable.remove(&what) {
            self.shared.get_mut(&full).unwrap().retired = true;
            self.unstable
                .insert(what, Unstable::new(frame, self.until()));
        }
    }

    fn forget_shared(&mut self, frame: Frame) {
        let what = self.shared.remove(&frame).and_then(|shared| shared.what);
        if let Some(what) = what.filter(|what| self.stable.get(what) == Some(&frame)) {
            self.stable.remove(&what);
        }
    }

    /// See `KsmScanner::unmerge_page`.
    pub fn unmerge_page(&mut self, frame: Frame) -> bool {
        let Some(shared) = self
            .shared
            .get_mut(&frame)
            .filter(|known| known.mappings > 0)
        else {
            return false;
        };
        shared.mappings -= 1;
        if shared.mappings == 0 {
            self.forget_shared(frame);
            self.announce(frame, true);
        }
        true
    }

    /// See `KsmScanner::recount`.
    pub fn recount(&mut self, mappings: impl Fn(Frame) -> Option<u32>) {
        let frames: Vec<Frame> = self.shared.keys().copied().collect();
        for frame in frames {
            match mappings(frame) {
                None | Some(0) => self.forget_shared(frame),
                Some(count) => self.shared.get_mut(&frame).unwrap().mappings = count,
            }
        }
    }

    /// See `KsmScanner::end_pass`, except that retired frames are not reinstated.
    pub fn end_pass(&mut self, mappings: impl Fn(Frame) -> Option<u32>) {
        let ended = self.full_scans;
        self.full_scans += 1;
        self.recount(mappings);
        self.unstable.retain(|_, content| content.until > ended);
        for content in self.unstable.values_mut() {
            content.in_this_pass.clear();
        }
        // If a shared frame is filed under its whole content, its sample must lead there.
        for what in self.shared.values().filter_map(|shared| shared.what) {
            if let (domain, Name::Whole(_, sample)) = what {
                if let Some(sample) = self.ambiguous.get_mut(&(domain, sample)) {
                    sample.until = sample.until.max(ended + 1);
                }
            }
        }
        self.ambiguous.retain(|_, sample| sample.until > ended);
        for sample in self.ambiguous.values_mut() {
            sample.seen = 0;
        }
    }

    /// The key under which a retired frame is reinstated, if it has at most `most` mappings and the key
    /// is free.
    pub fn is_to_return(&self, frame: Frame, most: u32) -> Option<What> {
        let is_ambiguous = |what: &What| match what {
            (domain, Name::Sample(sample)) => self.ambiguous.contains_key(&(*domain, *sample)),
            _ => false,
        };
        let shared = &self.shared[&frame];
        let what = shared
            .what
            .filter(|_| shared.retired && shared.mappings <= most);
        what.filter(|what| !is_ambiguous(what) && !self.stable.contains_key(what))
    }

    /// Reinstates a retired frame.
    pub fn reinstate(&mut self, frame: Frame, what: What) {
        self.shared.get_mut(&frame).unwrap().retired = false;
        self.unstable.remove(&what);
        self.stable.insert(what, frame);
    }
}
