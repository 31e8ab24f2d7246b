// SPDX-License-Identifier: GPL-2.0

//! A simulated machine on which stories happen, with a scanner and a model of the scanner.
//!
//! It does what the module does around the engine: it asks, compares, merges onto fresh frames, and
//! reports. Frame numbers are reused as soon as they are free, so the engine's entry of a frame is
//! often out of date. After every step, the engine's answers and counts are compared with the
//! [`Reference`], and each merge it asks for is compared with the machine.

use crate::letters::Letter;
use crate::letters::ALPHABET;
use crate::memory::Memory;
use crate::reference::Answer;
use crate::reference::Look;
use crate::reference::Name;
use crate::reference::Reference;
use crate::reference::What;
use crate::story::Op;
use crate::story::Outcome;
use crate::story::Setting;
use crate::story::SLOTS;
use engine::Domain;
use engine::Frame;
use engine::Key;
use engine::KsmScanner;
use engine::Target;
use engine::Verdict;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// First frame of the machine: its frames are the last ones that a physical address can have.
const FIRST_FRAME: u64 = (1 << 40) - 4096;
/// First frame of the pages of [`Op::Flood`].
const FLOOD_FRAMES: u64 = 1 << 36;

/// A page table entry.
#[derive(Clone, Copy)]
struct Mapping {
    frame: Frame,
    domain: Domain,
}

/// A page frame in use.
#[derive(Clone, Copy)]
struct Page {
    letter: Letter,
    shared: bool,
    /// The domain that it was merged for, if the scanner knows the frame.
    home: Option<Domain>,
}

/// Counts of events, to check that the stories cover something.
#[derive(Default)]
pub struct Events {
    /// The engine wanted nothing done.
    pub waits: u32,
    /// A page was full of zeros.
    pub zeros: u32,
    /// Two pages became a shared page.
    pub merged_twins: u32,
    /// A page was merged into a shared page.
    pub merged_into_shared: u32,
    /// The twin had changed or gone.
    pub refuted_twins: u32,
    /// The shared page that was the target had gone.
    pub refuted_shared: u32,
    /// The target had the same sample, but another content.
    pub differed: u32,
    /// A shared page had all the sharers it may have.
    pub retired: u32,
    /// A retired shared page had lost half of its sharers.
    pub reinstated: u32,
    /// The engine was told of a broken mapping.
    pub unmerged: u32,
    /// The engine failed to allocate memory.
    pub failures: u32,
    /// Like `failures`, with a table in use.
    pub full_index: u32,
    /// The counts were compared with those of the whole machine.
    pub exact_counts: u32,
}

/// A page that the engine wants merged.
#[derive(Clone, Copy)]
struct Candidate {
    frame: Frame,
    letter: Letter,
    /// The engine's key.
    key: Key,
    /// The model's key.
    what: What,
}

/// The machine, its scanner, and the model of the scanner.
pub struct World<'a> {
    setting: Setting,
    memory: Memory,
    engine: KsmScanner<Memory>,
    model: Reference,
    pages: BTreeMap<Frame, Page>,
    slots: [Option<Mapping>; SLOTS],
    flooded: u32,
    events: &'a RefCell<Events>,
}

impl<'a> World<'a> {
    /// Makes a machine without pages, which counts events in `events`.
    pub fn new(setting: Setting, events: &'a RefCell<Events>) -> Self {
        let memory = Memory::new(setting.plan.clone());
        let mut world = World {
            engine: KsmScanner::with(memory.clone(), setting.hash, setting.seed),
            model: Reference::new(3),
            setting,
            memory,
            pages: BTreeMap::new(),
            slots: [None; SLOTS],
            flooded: 0,
            events,
        };
        world.set_promote_after(world.setting.promote_after);
        world
    }

    /// Lets `op` happen.
    ///
    /// # Panics
    ///
    /// If the engine, its model and the machine disagree.
    pub fn step(&mut self, op: &Op) {
        match *op {
            Op::Map {
                first,
                count,
                domain,
                letter,
            } => (first..first + count).for_each(|slot| self.map(slot % SLOTS, domain, letter)),
            Op::Write {
                slot,
                letter,
                report,
            } => self.write(slot, letter, report),
            Op::Fork { from, to, domain } => self.fork(from, to, domain),
            Op::Unmap { slot } => self.unmap(slot),
            Op::Free { slot } => self.free(slot),
            Op::Scan { slot, outcome } => self.scan(slot, outcome),
            Op::Pass { outcome } => self.pass(outcome),
            Op::EndPass => self.end_pass(),
            Op::Recount => self.recount(),
            Op::ForgetContents => self.forget_contents(),
            Op::Init => self.init(),
            Op::PromoteAfter(sightings) => self.set_promote_after(sightings),
            Op::MaxPageSharing(mappings) => self.engine.set_max_page_sharing(mappings),
            Op::Interval {
                longest,
                remembered_for,
            } => self.set_interval(longest, remembered_for),
            Op::Flood(pages) => self.flood(pages),
            Op::Memory(ref plan) => self.memory.set_plan(plan.clone()),
        }
        assert_eq!(self.engine.get_stats(), self.model.stats());
        assert_eq!(self.engine.full_scans(), self.model.full_scans());
    }

    /// Number of entries that the engine could not remember.
    pub fn index_failures(&self) -> u64 {
        self.engine.index_failures()
    }

    /// Calls the engine; also returns whether all its allocations succeeded.
    fn ask<R>(&mut self, call: impl FnOnce(&mut KsmScanner<Memory>) -> R) -> (R, bool) {
        let counted = self.engine.index_failures();
        let refused = self.memory.failures();
        let answer = call(&mut self.engine);
        let failed = self.engine.index_failures() - counted;
        assert!(
            failed <= 1,
            "{failed} failures were counted in a single call"
        );
        if failed > 0 {
            assert!(self.memory.failures() > refused, "no memory was refused");
            self.events.borrow_mut().failures += 1;
            self.events.borrow_mut().full_index += u32::from(self.engine.index_bytes() >= 256 * 16);
        }
        (answer, failed == 0)
    }

    // Operations of processes.

    fn map(&mut self, slot: usize, domain: Domain, letter: Letter) {
        self.unmap(slot);
        let frame = self.allocate(letter);
        self.attach(slot, frame, domain);
    }

    fn write(&mut self, slot: usize, letter: Letter, report: bool) {
        let Some(Mapping { frame, domain, .. }) = self.slots[slot] else {
            return;
        };
        let shared = self.pages[&frame].shared;
        if shared && report {
            let known = self.engine.unmerge_page(frame.0);
            assert_eq!(known, self.model.unmerge_page(frame));
            self.events.borrow_mut().unmerged += 1;
        }
        if shared || self.mappings(frame) > 1 {
            self.map(slot, domain, letter);
        } else {
            self.pages.get_mut(&frame).unwrap().letter = letter;
        }
    }

    fn fork(&mut self, from: usize, to: usize, domain: Option<Domain>) {
        let Some(parent) = self.slots[from].filter(|_| from != to) else {
            return;
        };
        self.unmap(to);
        self.attach(to, parent.frame, domain.unwrap_or(parent.domain));
    }

    fn unmap(&mut self, slot: usize) {
        let Some(Mapping { frame, .. }) = self.slots[slot].take() else {
            return;
        };
        if self.mappings(frame) == 0 {
            self.pages.remove(&frame);
        }
    }

    fn free(&mut self, slot: usize) {
        if let Some(Mapping { frame, .. }) = self.slots[slot] {
            for slot in 0..SLOTS {
                if self.slots[slot].is_some_and(|mapping| mapping.frame == frame) {
                    self.unmap(slot);
                }
            }
        }
    }

    fn attach(&mut self, slot: usize, frame: Frame, domain: Domain) {
        self.slots[slot] = Some(Mapping { frame, domain });
    }

    /// Takes the lowest free frame.
    fn allocate(&mut self, letter: Letter) -> Frame {
        let is_free = |frame: &Frame| !self.pages.contains_key(frame);
        let frame = (FIRST_FRAME..).map(Frame).find(is_free).unwrap();
        let page = Page {
            letter,
            shared: false,
            home: None,
        };
        self.pages.insert(frame, page);
        frame
    }

    fn mappings_where(&self, predicate: impl Fn(&Mapping) -> bool) -> u32 {
        let mappings = self.slots.iter().flatten();
        mappings.filter(|mapping| predicate(mapping)).count() as u32
    }

    fn mappings(&self, frame: Frame) -> u32 {
        self.mappings_where(|mapping| mapping.frame == frame)
    }

    // Operations of the scanner.

    fn scan(&mut self, slot: usize, outcome: Outcome) {
        let Some(Mapping { frame, domain, .. }) = self.slots[slot] else {
            return;
        };
        let page = self.pages[&frame];
        if page.shared {
            self.engine.pass_by(1);
            return self.model.pass_by(1);
        }
        let look = self.look(domain, page.letter);
        let what = self.model.name(look);
        let (verdict, remembered) =
            self.ask(|engine| engine.scan(frame, domain, &page.letter.page()));
        let answer = match verdict {
            Verdict::Wait => Answer::Wait,
            Verdict::Promising => Answer::Promising,
            Verdict::Zero => Answer::Zero,
            Verdict::Merge(key) => {
                Answer::Merge(self.engine.target(key, domain).expect("a target"))
            }
        };
        assert_eq!(answer, self.model.scan(frame, look, remembered));
        match verdict {
            Verdict::Wait | Verdict::Promising => self.events.borrow_mut().waits += 1,
            Verdict::Zero => {
                self.events.borrow_mut().zeros += 1;
                if outcome == Outcome::Merge {
                    self.unmap(slot);
                }
            }
            Verdict::Merge(key) if outcome != Outcome::Fail => {
                let candidate = Candidate {
                    frame,
                    letter: page.letter,
                    key,
                    what,
                };
                self.merge(candidate, outcome);
            }
            Verdict::Merge(_) => {}
        }
    }

    fn look(&self, domain: Domain, letter: Letter) -> Look {
        let keys = self.engine.keys();
        Look {
            domain,
            letter,
            sample: keys.glimpse(keys.salt(domain), &letter.page()),
        }
    }

    /// Compares a page with its target, and merges it or returns why not. A page with many mappings is
    /// left alone; if it would exceed its target's limit, the target is retired.
    fn merge(&mut self, candidate: Candidate, outcome: Outcome) {
        let Candidate { frame, key, .. } = candidate;
        let most = self.engine.max_page_sharing();
        let is_small = |frame| self.mappings(frame) <= most / 2;
        if !is_small(frame) {
            return;
        }
        let Some(target) = self.engine.target(key, candidate.what.0) else {
            unreachable!("it was there a moment ago");
        };
        let content = match target {
            Target::Shared(shared) => self.content(shared, candidate.what.0, true),
            Target::Twin(twin) if is_small(twin) => self.content(twin, candidate.what.0, false),
            Target::Twin(_) => None,
        };
        match (content, target) {
            (None, _) => self.refute(candidate, target),
            (Some(content), _) if content != candidate.letter => self.differ(candidate, content),
            (_, Target::Shared(shared)) => self.join(candidate, shared, outcome),
            (_, Target::Twin(_)) if outcome == Outcome::KeptHuge => {
                self.engine.prefer_twin(key, frame);
                self.model.prefer_twin(candidate.what, frame);
            }
            (_, Target::Twin(twin)) => {
                self.events.borrow_mut().merged_twins += 1;
                self.merge_onto_fresh_frame(&[frame, twin], candidate);
            }
        }
    }

    fn join(&mut self, candidate: Candidate, shared: Frame, outcome: Outcome) {
        let Candidate {
            frame, key, what, ..
        } = candidate;
        let mappings = self.mappings(frame) + self.mappings(shared);
        if mappings > self.engine.max_page_sharing() {
            return self.retire(key, frame, what);
        }
        assert_eq!(
            self.pages[&shared].home,
            Some(what.0),
            "a target in another domain"
        );
        self.events.borrow_mut().merged_into_shared += 1;
        if outcome == Outcome::Fresh {
            return self.merge_onto_fresh_frame(&[frame], candidate);
        }
        self.remap(frame, shared, what.0);
        let mappings = self.mappings(shared);
        self.engine.merged(shared, mappings);
        self.model.merged(shared, mappings);
    }

    fn refute(&mut self, candidate: Candidate, target: Target) {
        let mut events = self.events.borrow_mut();
        match target {
            Target::Shared(_) => events.refuted_shared += 1,
            Target::Twin(_) => events.refuted_twins += 1,
        }
        drop(events);
        let Candidate {
            frame, key, what, ..
        } = candidate;
        let (_, remembered) = self.ask(|engine| engine.refuted(key, frame));
        assert!(remembered, "there is room where a content just was");
        self.model.refuted(what, frame);
    }

    fn differ(&mut self, candidate: Candidate, content: Letter) {
        let Candidate {
            frame, key, what, ..
        } = candidate;
        self.events.borrow_mut().differed += 1;
        let target = self.look(what.0, content);
        let ((), remembered) =
            self.ask(|engine| engine.differed(key, frame, what.0, &content.page()));
        self.model.differed(what, frame, target, remembered);
    }

    fn retire(&mut self, key: Key, frame: Frame, what: What) {
        let ((), remembered) = self.ask(|engine| engine.retire(key, frame));
        assert!(remembered, "there is room where a content just was");
        self.model.retire(what, frame);
        self.events.borrow_mut().retired += 1;
    }

    /// The content of `frame` if it is in use and as shared as asked for. An unshared frame must also
    /// be mapped by this domain only.
    fn content(&self, frame: Frame, domain: Domain, shared: bool) -> Option<Letter> {
        let foreign =
            |mapping: &Mapping| mapping.frame == frame && mapping.domain != domain && !shared;
        let page = self.pages.get(&frame)?;
        (self.mappings_where(foreign) == 0 && page.shared == shared).then_some(page.letter)
    }

    /// Makes a shared frame, unless the engine has no memory for its entry.
    fn merge_onto_fresh_frame(&mut self, frames: &[Frame], candidate: Candidate) {
        let Candidate {
            letter, key, what, ..
        } = candidate;
        let fresh = self.allocate(letter);
        let (is_announced, remembered) = self.ask(|engine| engine.announce(fresh, 1));
        assert_eq!(is_announced, remembered);
        self.model.announce(fresh, remembered);
        if !is_announced {
            self.pages.remove(&fresh);
            return;
        }
        let page = self.pages.get_mut(&fresh).unwrap();
        (page.shared, page.home) = (true, Some(what.0));
        for &frame in frames {
            self.remap(frame, fresh, what.0);
        }
        self.report_made(key, fresh, what);
    }

    /// Maps `to` wherever this domain maps `from`.
    fn remap(&mut self, from: Frame, to: Frame, domain: Domain) {
        for slot in 0..SLOTS {
            if self.slots[slot].is_some_and(|m| m.frame == from && m.domain == domain) {
                self.unmap(slot);
                self.attach(slot, to, domain);
            }
        }
    }

    fn report_made(&mut self, key: Key, frame: Frame, what: What) {
        let before = self.engine.target(key, what.0);
        let is_taken = matches!(before, Some(Target::Shared(_)));
        let pages = self.mappings(frame);
        let (is_stable, remembered) = self.ask(|engine| engine.made(key, frame, what.0, pages));
        assert_eq!(is_stable, remembered && !is_taken);
        self.model.made(what, frame, pages, remembered);
        let target = self.engine.target(key, what.0);
        if is_stable {
            assert_eq!(target, Some(Target::Shared(frame)));
        } else if is_taken {
            assert_eq!(target, before);
        }
    }

    fn pass(&mut self, outcome: Outcome) {
        for slot in 0..SLOTS {
            self.scan(slot, outcome);
        }
        self.end_pass();
    }

    /// Every shared frame is counted, even if changes to it were not reported.
    fn check_exact_counts(&self) {
        let is_known = |(_, page): &(&Frame, &Page)| page.shared && page.home.is_some();
        let shared = self.pages.iter().filter(is_known);
        let mappings: Vec<u32> = shared.map(|(&frame, _)| self.mappings(frame)).collect();
        let sharing: u32 = mappings.iter().map(|count| count - 1).sum();
        let stats = self.engine.get_stats();
        assert_eq!(stats.pages_shared, mappings.len() as u64);
        assert_eq!(stats.pages_sharing, u64::from(sharing));
        self.events.borrow_mut().exact_counts += 1;
    }

    fn end_pass(&mut self) {
        let (pages, slots) = (&self.pages, &self.slots);
        let counted = self.engine.index_failures();
        self.engine.end_pass(|frame| count(pages, slots, frame));
        let failures = self.engine.index_failures() - counted;
        self.model.end_pass(|frame| count(pages, slots, frame));
        let order: Vec<Frame> = self.engine.shared_frames_after(None).collect();
        let most = self.engine.max_page_sharing() / 2;
        let mut refused = 0;
        for frame in order {
            let Some(what) = self.model.is_to_return(frame, most) else {
                continue;
            };
            let key = self.key(what, pages[&frame].letter);
            if self.engine.target(key, what.0) == Some(Target::Shared(frame)) {
                self.model.reinstate(frame, what);
                self.events.borrow_mut().reinstated += 1;
            } else {
                refused += 1;
            }
        }
        assert_eq!(refused, failures, "only want of memory keeps a frame out");
        self.check_exact_counts();
    }

    /// The engine's key of a content.
    fn key(&self, what: What, letter: Letter) -> Key {
        let keys = self.engine.keys().inspect(what.0, &letter.page());
        let keys = keys.expect("a page of zeroes is not shared");
        match what.1 {
            Name::Sample(_) => keys.sample,
            Name::Whole(..) => keys.whole,
        }
    }

    fn recount(&mut self) {
        let (pages, slots) = (&self.pages, &self.slots);
        self.engine.recount(|frame| count(pages, slots, frame));
        self.model.recount(|frame| count(pages, slots, frame));
    }

    fn forget_contents(&mut self) {
        self.engine.forget_contents();
        self.model.forget_contents();
    }

    fn init(&mut self) {
        self.engine.init();
        self.model.init();
        assert_eq!(self.engine.index_bytes(), 0);
        for page in self.pages.values_mut() {
            page.home = None;
        }
    }

    fn set_promote_after(&mut self, sightings: u8) {
        self.engine.set_promote_after(sightings);
        self.model.set_promote_after(sightings);
    }

    fn set_interval(&mut self, longest: u8, remembered_for: u8) {
        self.engine.set_max_interval(longest);
        self.engine.remember_for(remembered_for);
        self.model.remember_for(remembered_for);
    }

    fn flood(&mut self, pages: u16) {
        for _ in 0..pages {
            self.flooded += 1;
            let letter = Letter(ALPHABET + self.flooded);
            let frame = Frame(FLOOD_FRAMES + u64::from(self.flooded));
            let domain = Domain(0);
            let look = self.look(domain, letter);
            let (verdict, remembered) =
                self.ask(|engine| engine.scan(frame, domain, &letter.page()));
            let answer = match verdict {
                Verdict::Merge(key) => {
                    Answer::Merge(self.engine.target(key, domain).expect("a target"))
                }
                Verdict::Promising => Answer::Promising,
                _ => Answer::Wait,
            };
            let what = self.model.name(look);
            assert_eq!(answer, self.model.scan(frame, look, remembered));
            if let Verdict::Merge(key) = verdict {
                // Flooded pages may have equal samples, but no two contents are equal.
                let content = Letter(letter.0 - 1);
                let shared = matches!(self.engine.target(key, domain), Some(Target::Shared(_)));
                if !shared {
                    let candidate = Candidate {
                        frame,
                        letter,
                        key,
                        what,
                    };
                    self.differ(candidate, content);
                }
            }
        }
    }
}

/// The count that [`KsmScanner::end_pass`] asks for. For a frame that is gone, both answers are used.
fn count(pages: &BTreeMap<Frame, Page>, slots: &[Option<Mapping>], frame: Frame) -> Option<u32> {
    let of_frame = |mapping: &&Mapping| mapping.frame == frame;
    match pages.get(&frame) {
        Some(page) if page.shared => Some(slots.iter().flatten().filter(of_frame).count() as u32),
        Some(_) => None,
        None => (frame.0 & 1 == 0).then_some(0),
    }
}
