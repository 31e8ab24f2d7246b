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
use engine::Sight;
use engine::Target;
use std::collections::hash_map::Entry::Vacant;
use std::collections::HashMap as SeededMap;
use std::hash::BuildHasherDefault;
use std::hash::DefaultHasher;

/// A hash map that is the same in every run, so that a fuzzer sees the same twice.
type HashMap<K, V> = SeededMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// What the engine calls a key: a content in a domain.
pub type What = (Domain, Letter);

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

/// The scanner.
pub struct Reference {
    promote_after: usize,
    unstable: HashMap<What, Unstable>,
    stable: HashMap<What, Frame>,
    shared: HashMap<Frame, Shared>,
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
            pages_scanned: 0,
            full_scans: 0,
        }
    }

    /// As `KsmScanner::init`.
    pub fn init(&mut self) {
        self.unstable.clear();
        self.stable.clear();
        self.shared.clear();
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
    pub fn scan(&mut self, frame: Frame, what: What, remembered: bool) -> Answer {
        self.pages_scanned += 1;
        if what.1 == ZERO {
            return Answer::Zero;
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
        }
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
        if !remembered {
            return Sight::Known;
        }
        let shared = self.shared.entry(frame).or_insert(Shared {
            what: None,
            mappings,
            retired: false,
            met_in: Vec::new(),
        });
        if let Some(what) = shared.what.filter(|_| shared.retired && few) {
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
    pub fn adopt(&mut self, frame: Frame, what: What, remembered: bool) {
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
        for shared in self.shared.values_mut() {
            shared.met_in.clear();
        }
    }
}
