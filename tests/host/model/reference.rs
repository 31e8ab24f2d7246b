// SPDX-License-Identifier: GPL-2.0

//! The scanner once more: hash maps, no hashes of contents, nothing packed, every sum summed up
//! anew. Slow and plain, so that one can see that it is right.
//!
//! It has memory for everything. Where the engine had none, the caller says so
//! (`remembered: false`), and what the engine could not remember is not remembered here.

use crate::letters::Letter;
use crate::letters::ZERO;
use engine::Domain;
use engine::Frame;
use engine::KsmStats;
use engine::Sample;
use engine::Sight;
use engine::Target;
use std::collections::hash_map::Entry::Vacant;
use std::collections::HashMap as SeededMap;
use std::hash::BuildHasherDefault;
use std::hash::DefaultHasher;

/// A hash map that is the same in every run, so that a fuzzer sees the same twice.
type HashMap<K, V> = SeededMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// What pages are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A sample of the content.
    Sample(Sample),
    /// The whole of it, where pages of different contents were found to have this sample.
    Whole(Letter, Sample),
}

/// What the engine calls a key: a content in a domain.
pub type What = (Domain, Name);

/// A page that the scanner looks at.
#[derive(Clone, Copy)]
pub struct Look {
    /// Whose it is.
    pub domain: Domain,
    /// Its content.
    pub letter: Letter,
    /// The engine's sample of that.
    pub sample: Sample,
}

/// What the engine is to say of a page: a [`engine::Verdict`], with the target that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// [`engine::Verdict::Wait`].
    Wait,
    /// [`engine::Verdict::Zero`].
    Zero,
    /// [`engine::Verdict::Merge`].
    Merge(Target),
}

/// A content of the unstable set.
struct Unstable {
    /// The frame that it was seen on first.
    twin: Frame,
    sightings: usize,
    /// The frames on which it was seen in this pass.
    in_this_pass: Vec<Frame>,
}

impl Unstable {
    fn new(frame: Frame) -> Self {
        Unstable {
            twin: frame,
            sightings: 1,
            in_this_pass: vec![frame],
        }
    }
}

/// A shared frame.
struct Shared {
    /// What it was merged or adopted for.
    what: Option<What>,
    mappings: u32,
    /// Whether it takes no more sharers.
    retired: bool,
    /// The domains in which mappings of it were met in this pass, while it was not adopted.
    met_in: Vec<Domain>,
}

/// What is left of this pass, and the next one.
const A_WHOLE_PASS: u32 = 2;
/// Every so many passes shared frames are watched in any case.
const WATCH_EVERY: u64 = 16;

/// The scanner.
pub struct Reference {
    promote_after: usize,
    unstable: HashMap<What, Unstable>,
    stable: HashMap<What, Frame>,
    shared: HashMap<Frame, Shared>,
    /// Samples that pages of different contents have: how many such pages were seen in this pass.
    ambiguous: HashMap<(Domain, Sample), usize>,
    /// For how many passes, this one included, shared frames are watched.
    watch: u32,
    pages_scanned: u64,
    full_scans: u64,
}

impl Reference {
    /// Makes a scanner that promotes after so many sightings, at least one.
    pub fn new(promote_after: u8) -> Self {
        Reference {
            promote_after: promote_after.into(),
            unstable: HashMap::default(),
            stable: HashMap::default(),
            shared: HashMap::default(),
            ambiguous: HashMap::default(),
            watch: A_WHOLE_PASS,
            pages_scanned: 0,
            full_scans: 0,
        }
    }

    /// As `KsmScanner::init`.
    pub fn init(&mut self) {
        self.unstable.clear();
        self.stable.clear();
        self.shared.clear();
        self.ambiguous.clear();
        self.watch = A_WHOLE_PASS;
    }

    /// As `KsmScanner::is_watchful`.
    pub fn is_watchful(&self) -> bool {
        self.watch > 0
    }

    /// What the page is known by now.
    pub fn name(&self, look: Look) -> What {
        let ambiguous = self.ambiguous.contains_key(&(look.domain, look.sample));
        let name = if ambiguous {
            Name::Whole(look.letter, look.sample)
        } else {
            Name::Sample(look.sample)
        };
        (look.domain, name)
    }

    /// As `KsmScanner::set_promote_after`.
    pub fn set_promote_after(&mut self, sightings: u8) {
        self.promote_after = sightings.max(1).into();
    }

    /// As `KsmScanner::full_scans`.
    pub fn full_scans(&self) -> u64 {
        self.full_scans
    }

    /// As `KsmScanner::get_stats`.
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

    /// As `KsmScanner::scan`.
    pub fn scan(&mut self, frame: Frame, look: Look, remembered: bool) -> Answer {
        self.pages_scanned += 1;
        if look.letter == ZERO {
            return Answer::Zero;
        }
        let what = self.name(look);
        if let Some(seen) = self.ambiguous.get_mut(&(look.domain, look.sample)) {
            *seen += 1;
        }
        if let Some(&shared) = self.stable.get(&what) {
            return Answer::Merge(Target::Shared(shared));
        }
        let Some(known) = self.unstable.get_mut(&what) else {
            if remembered {
                self.unstable.insert(what, Unstable::new(frame));
            }
            return Answer::Wait;
        };
        let again = frame == known.twin && known.in_this_pass.contains(&frame);
        known.sightings += usize::from(!again);
        known.in_this_pass.push(frame);
        if frame != known.twin && known.sightings >= self.promote_after {
            Answer::Merge(Target::Twin(known.twin))
        } else {
            Answer::Wait
        }
    }

    /// As `KsmScanner::merged`.
    pub fn merged(&mut self, what: What, frame: Frame, mappings: u32, remembered: bool) {
        if let Some(shared) = self.shared.get_mut(&frame) {
            shared.mappings = mappings;
        } else if remembered {
            let shared = Shared {
                what: Some(what),
                mappings,
                retired: false,
                met_in: Vec::new(),
            };
            self.shared.insert(frame, shared);
            self.unstable.remove(&what);
            self.stable.insert(what, frame);
        } else {
            self.watch = A_WHOLE_PASS;
        }
    }

    /// As `KsmScanner::differed`; `target` is what that has now.
    pub fn differed(&mut self, what: What, frame: Frame, target: Look, remembered: bool) {
        let known = self.unstable.get(&what);
        let (domain, sample) = match what {
            (domain, Name::Sample(sample)) if known.is_none() || target.sample == sample => {
                (domain, sample)
            }
            // The twin has changed, or only the hash is the same.
            _ => {
                if known.is_some() {
                    self.unstable.insert(what, Unstable::new(frame));
                }
                return;
            }
        };
        // The two pages that differ.
        self.ambiguous.insert((domain, sample), 2);
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
        } else {
            self.watch = A_WHOLE_PASS;
        }
        let shared = self.shared.get_mut(&shared).unwrap();
        shared.what = free.then_some(what);
        // What was met of it while it was in the stable set was not counted.
        shared.met_in.clear();
    }

    /// As `KsmScanner::refuted`.
    pub fn refuted(&mut self, what: What, frame: Frame) {
        if let Some(&shared) = self.stable.get(&what) {
            self.forget_shared(shared);
        }
        self.unstable.insert(what, Unstable::new(frame));
    }

    /// As `KsmScanner::retire`.
    pub fn retire(&mut self, what: What, frame: Frame) {
        if let Some(full) = self.stable.remove(&what) {
            self.shared.get_mut(&full).unwrap().retired = true;
            self.watch = A_WHOLE_PASS;
            self.unstable.insert(what, Unstable::new(frame));
        }
    }

    /// As `KsmScanner::forget_shared`.
    pub fn forget_shared(&mut self, frame: Frame) {
        let what = self.shared.remove(&frame).and_then(|shared| shared.what);
        if let Some(what) = what.filter(|what| self.stable.get(what) == Some(&frame)) {
            self.stable.remove(&what);
        }
    }

    /// As `KsmScanner::sight_shared`. `few`: half as many mappings as there may be, or fewer.
    pub fn sight_shared(
        &mut self,
        frame: Frame,
        domain: Domain,
        mappings: u32,
        few: bool,
        remembered: bool,
    ) -> Sight {
        self.pages_scanned += 1;
        if !remembered && !self.shared.contains_key(&frame) {
            self.watch = A_WHOLE_PASS;
        }
        if !remembered || self.watch == 0 {
            return Sight::Known;
        }
        let shared = self.shared.entry(frame).or_insert(Shared {
            what: None,
            mappings,
            retired: false,
            met_in: Vec::new(),
        });
        let is_ambiguous = |what: &What| match what {
            (domain, Name::Sample(sample)) => self.ambiguous.contains_key(&(*domain, *sample)),
            _ => false,
        };
        let returns = |what: &What| shared.retired && few && !is_ambiguous(what);
        if let Some(what) = shared.what.filter(returns) {
            if let Vacant(place) = self.stable.entry(what) {
                place.insert(frame);
                self.unstable.remove(&what);
                shared.retired = false;
            }
        }
        shared.met_in.push(domain);
        let one_domain = shared.met_in.iter().all(|&other| other == domain);
        if shared.what.is_none() && one_domain && shared.met_in.len() >= mappings as usize {
            Sight::Adoptable
        } else {
            Sight::Known
        }
    }

    /// As `KsmScanner::adopt`.
    pub fn adopt(&mut self, frame: Frame, look: Look, remembered: bool) {
        let what = self.name(look);
        if remembered && !self.stable.contains_key(&what) {
            self.unstable.remove(&what);
            self.stable.insert(what, frame);
            self.shared.get_mut(&frame).unwrap().what = Some(what);
        }
    }

    /// As `KsmScanner::unmerge_page`.
    pub fn unmerge_page(&mut self, frame: Frame) -> bool {
        let Some(shared) = self.shared.get_mut(&frame) else {
            return false;
        };
        if shared.mappings > 1 {
            shared.mappings -= 1;
        } else {
            self.forget_shared(frame);
            self.watch = A_WHOLE_PASS;
        }
        true
    }

    /// As `KsmScanner::recount`.
    pub fn recount(&mut self, mappings: impl Fn(Frame) -> Option<u32>) {
        let frames: Vec<Frame> = self.shared.keys().copied().collect();
        for frame in frames {
            match mappings(frame) {
                None | Some(0) => self.forget_shared(frame),
                Some(count) => self.shared.get_mut(&frame).unwrap().mappings = count,
            }
        }
    }

    /// As `KsmScanner::end_pass`.
    pub fn end_pass(&mut self, mappings: impl Fn(Frame) -> Option<u32>) {
        self.full_scans += 1;
        self.recount(mappings);
        self.unstable
            .retain(|_, content| !content.in_this_pass.is_empty());
        for content in self.unstable.values_mut() {
            content.in_this_pass.clear();
        }
        // Where a shared frame is known by its whole content, its sample must lead there.
        for what in self.shared.values().filter_map(|shared| shared.what) {
            if let (domain, Name::Whole(_, sample)) = what {
                if let Some(seen) = self.ambiguous.get_mut(&(domain, sample)) {
                    *seen = 2;
                }
            }
        }
        self.ambiguous.retain(|_, seen| std::mem::take(seen) > 1);
        for shared in self.shared.values_mut() {
            shared.met_in.clear();
        }
        self.watch = self.watch.saturating_sub(1);
        let unsettled = |shared: &Shared| shared.what.is_none() || shared.retired;
        if self.full_scans % WATCH_EVERY == 0 || self.shared.values().any(unsettled) {
            self.watch = self.watch.max(1);
        }
    }
}
