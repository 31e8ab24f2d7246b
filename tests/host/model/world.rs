// SPDX-License-Identifier: GPL-2.0

//! Random stories of a machine: processes that map, write, fork and exit while the scanner works.
//!
//! The machine does what the module does around the engine: it asks, compares, merges onto fresh
//! frames, and reports. Frame numbers are used again as soon as they are free, so that what the
//! engine remembers of a frame is often out of date. After every step, what the engine said and
//! counts is compared with the [`Reference`]; what it wants merged is compared with the machine.

use crate::letters::Letter;
use crate::letters::ALPHABET;
use crate::letters::ZERO;
use crate::memory::Memory;
use crate::memory::Plan;
use crate::property;
use crate::reference::Answer;
use crate::reference::Reference;
use crate::reference::What;
use engine::Domain;
use engine::Frame;
use engine::HashKind;
use engine::Key;
use engine::KsmScanner;
use engine::Sight;
use engine::Target;
use engine::Verdict;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::prelude::Just;
use proptest::prelude::Strategy;
use proptest::prop_oneof;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Virtual pages of the machine.
const SLOTS: usize = 10;
/// First frame of the machine: the last ones that a physical address can have.
const FIRST_FRAME: u64 = (1 << 48) - 4096;
/// First frame of the pages of [`Op::Flood`].
const FLOOD_FRAMES: u64 = 1 << 40;

/// What becomes of a merge that the engine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The pages are merged where they are equal.
    Merge,
    /// The page is pinned, or a lock is held: nothing happens.
    Fail,
    /// As `Merge`, but onto a fresh frame even where there is a shared one.
    Fresh,
}

/// A step of a story.
#[derive(Clone, Debug)]
enum Op {
    /// Processes of `domain` have new pages of content `letter` in `count` slots from `first`.
    Map {
        first: usize,
        count: usize,
        domain: Domain,
        letter: Letter,
    },
    /// The process writes: the content becomes `letter`, in a private copy where need be. The
    /// engine hears of a broken mapping where `report` is true.
    Write {
        slot: usize,
        letter: Letter,
        report: bool,
    },
    /// The page in `from` is mapped in `to` too; the new process has changed to `domain`.
    Fork {
        from: usize,
        to: usize,
        domain: Option<Domain>,
    },
    /// The process exits.
    Unmap { slot: usize },
    /// All processes that map the page in `slot` exit.
    Free { slot: usize },
    /// The scanner looks at a page.
    Scan { slot: usize, outcome: Outcome },
    /// The scanner looks at all pages and ends its pass.
    Pass { outcome: Outcome },
    /// The scanner ends its pass early.
    EndPass,
    /// The counts are brought up to date.
    Recount,
    /// The module is unloaded and loaded again.
    Reload,
    /// The scanner forgets everything.
    Init,
    /// The knob is set.
    PromoteAfter(u8),
    /// The scanner looks at so many pages of contents that nobody else has.
    Flood(u16),
}

/// How a story begins.
#[derive(Clone, Debug)]
struct Setting {
    hash: HashKind,
    seed: u64,
    plan: Plan,
    promote_after: u8,
}

/// A page table entry.
#[derive(Clone, Copy)]
struct Mapping {
    frame: Frame,
    domain: Domain,
    /// Whether the scanner met it in this pass, as one of a shared frame.
    met: bool,
}

/// A page frame in use.
#[derive(Clone, Copy)]
struct Page {
    letter: Letter,
    shared: bool,
    /// The domain that it was merged or adopted for by this scanner.
    home: Option<Domain>,
    /// Whether a mapping came or went in this pass.
    changed: bool,
}

/// How often things happened, to see that the stories are about something.
#[derive(Default)]
struct Events {
    waits: u32,
    zeros: u32,
    merged_twins: u32,
    merged_into_shared: u32,
    refuted_twins: u32,
    refuted_shared: u32,
    adopted: u32,
    mixed: u32,
    unmerged: u32,
    failures: u32,
    full_index: u32,
    exact_counts: u32,
}

/// The machine, its scanner, and the model of that.
struct World<'a> {
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
    fn new(setting: Setting, events: &'a RefCell<Events>) -> Self {
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

    fn step(&mut self, op: &Op) {
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
            Op::Reload => self.reload(),
            Op::Init => self.init(),
            Op::PromoteAfter(sightings) => self.set_promote_after(sightings),
            Op::Flood(pages) => self.flood(pages),
        }
        assert_eq!(self.engine.get_stats(), self.model.stats());
        assert_eq!(self.engine.full_scans(), self.model.full_scans());
    }

    /// Calls the engine; also returns whether it had the memory that it needed.
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

    // What processes do.

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
        } else {
            self.pages.get_mut(&frame).unwrap().changed = true;
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
        self.slots[slot] = Some(Mapping {
            frame,
            domain,
            met: false,
        });
        self.pages.get_mut(&frame).unwrap().changed = true;
    }

    /// Takes the lowest free frame.
    fn allocate(&mut self, letter: Letter) -> Frame {
        let is_free = |frame: &Frame| !self.pages.contains_key(frame);
        let frame = (FIRST_FRAME..).map(Frame).find(is_free).unwrap();
        let page = Page {
            letter,
            shared: false,
            home: None,
            changed: true,
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

    // What the scanner does.

    fn scan(&mut self, slot: usize, outcome: Outcome) {
        let Some(Mapping { frame, domain, .. }) = self.slots[slot] else {
            return;
        };
        let page = self.pages[&frame];
        if page.shared {
            return self.sight(slot);
        }
        let what = (domain, page.letter);
        let (verdict, remembered) = self.ask(|engine| engine.scan(frame, domain, &page.letter));
        let answer = match verdict {
            Verdict::Wait => Answer::Wait,
            Verdict::Zero => Answer::Zero,
            Verdict::Merge(key) => Answer::Merge(self.engine.target(key).expect("a target")),
        };
        assert_eq!(answer, self.model.scan(frame, what, remembered));
        match verdict {
            Verdict::Wait => self.events.borrow_mut().waits += 1,
            Verdict::Zero => {
                self.events.borrow_mut().zeros += 1;
                if outcome == Outcome::Merge {
                    self.unmap(slot);
                }
            }
            Verdict::Merge(key) if outcome != Outcome::Fail => {
                self.merge(frame, what, key, outcome);
            }
            Verdict::Merge(_) => {}
        }
    }

    /// Compares a page with its target, and merges it or says that they differ.
    fn merge(&mut self, frame: Frame, what: What, key: Key, outcome: Outcome) {
        match self.engine.target(key) {
            Some(Target::Shared(shared)) if self.holds(shared, what, true) => {
                assert_eq!(
                    self.pages[&shared].home,
                    Some(what.0),
                    "a target in another domain"
                );
                self.events.borrow_mut().merged_into_shared += 1;
                if outcome == Outcome::Fresh {
                    return self.merge_onto_fresh_frame(&[frame], what, key);
                }
                self.remap(frame, shared, what.0);
                self.report_merged(key, shared, what);
            }
            Some(Target::Twin(twin)) if self.holds(twin, what, false) => {
                self.events.borrow_mut().merged_twins += 1;
                self.merge_onto_fresh_frame(&[frame, twin], what, key);
            }
            target => {
                let mut events = self.events.borrow_mut();
                match target {
                    Some(Target::Shared(_)) => events.refuted_shared += 1,
                    _ => events.refuted_twins += 1,
                }
                drop(events);
                let (_, remembered) = self.ask(|engine| engine.refuted(key, frame));
                assert!(remembered, "there is room where a content just was");
                self.model.refuted(what, frame);
            }
        }
    }

    /// Whether `frame` is in use, shared or not as asked for, and holds this content; also,
    /// where it is not shared, whether only this domain maps it.
    fn holds(&self, frame: Frame, what: What, shared: bool) -> bool {
        let foreign =
            |mapping: &Mapping| mapping.frame == frame && mapping.domain != what.0 && !shared;
        self.mappings_where(foreign) == 0
            && self
                .pages
                .get(&frame)
                .is_some_and(|page| page.shared == shared && page.letter == what.1)
    }

    fn merge_onto_fresh_frame(&mut self, frames: &[Frame], what: What, key: Key) {
        let fresh = self.allocate(what.1);
        self.pages.get_mut(&fresh).unwrap().shared = true;
        self.engine.forget_shared(fresh);
        self.model.forget_shared(fresh);
        for &frame in frames {
            self.remap(frame, fresh, what.0);
        }
        self.report_merged(key, fresh, what);
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

    fn report_merged(&mut self, key: Key, frame: Frame, what: What) {
        let mappings = self.mappings(frame);
        let (done, remembered) = self.ask(|engine| engine.merged(key, frame, what.0, mappings));
        assert_eq!(done, remembered);
        self.model.merged(what, frame, mappings, remembered);
        if remembered {
            self.pages.get_mut(&frame).unwrap().home = Some(what.0);
            assert_eq!(self.engine.target(key), Some(Target::Shared(frame)));
        }
    }

    /// Meets a mapping of a shared frame; each is met once in a pass.
    fn sight(&mut self, slot: usize) {
        let mapping = self.slots[slot].as_mut().unwrap();
        if std::mem::replace(&mut mapping.met, true) {
            return;
        }
        let Mapping { frame, domain, .. } = *mapping;
        let mappings = self.mappings(frame);
        let (sight, remembered) = self.ask(|e| e.sight_shared(frame, domain, mappings));
        let expected = self.model.sight_shared(frame, domain, mappings, remembered);
        assert_eq!(sight, expected);
        match sight {
            Sight::Adoptable => self.adopt(frame, domain),
            Sight::Known => {
                let foreign = |m: &Mapping| m.frame == frame && m.domain != domain;
                let mixed = self.mappings_where(foreign) > 0;
                self.events.borrow_mut().mixed += u32::from(mixed);
            }
        }
    }

    fn adopt(&mut self, frame: Frame, domain: Domain) {
        let page = self.pages[&frame];
        if !page.changed {
            let elsewhere = |m: &Mapping| m.frame == frame && (m.domain != domain || !m.met);
            assert_eq!(self.mappings_where(elsewhere), 0, "adopted too early");
        }
        let ((), remembered) = self.ask(|engine| engine.adopt(frame, domain, &page.letter));
        self.model.adopt(frame, (domain, page.letter), remembered);
        if remembered {
            self.pages.get_mut(&frame).unwrap().home = Some(domain);
            self.events.borrow_mut().adopted += 1;
        }
    }

    fn pass(&mut self, outcome: Outcome) {
        let whole = !self.slots.iter().flatten().any(|mapping| mapping.met);
        for slot in 0..SLOTS {
            self.scan(slot, outcome);
        }
        self.end_pass();
        // A whole pass has met every shared frame, so that all of them are counted: also one that
        // was forgotten when a write was reported, because a fork had gone unnoticed.
        if whole && matches!(self.setting.plan, Plan::Ample) {
            let shared = self.pages.iter().filter(|(_, page)| page.shared);
            let mappings: Vec<u32> = shared.map(|(&frame, _)| self.mappings(frame)).collect();
            let sharing: u32 = mappings.iter().map(|count| count - 1).sum();
            let stats = self.engine.get_stats();
            assert_eq!(stats.pages_shared, mappings.len() as u64);
            assert_eq!(stats.pages_sharing, u64::from(sharing));
            self.events.borrow_mut().exact_counts += 1;
        }
    }

    fn end_pass(&mut self) {
        let (pages, slots) = (&self.pages, &self.slots);
        self.engine.end_pass(|frame| count(pages, slots, frame));
        self.model.end_pass(|frame| count(pages, slots, frame));
        self.begin_pass();
    }

    fn recount(&mut self) {
        let (pages, slots) = (&self.pages, &self.slots);
        self.engine.recount(|frame| count(pages, slots, frame));
        self.model.recount(|frame| count(pages, slots, frame));
    }

    fn begin_pass(&mut self) {
        for mapping in self.slots.iter_mut().flatten() {
            mapping.met = false;
        }
        for page in self.pages.values_mut() {
            page.changed = false;
        }
    }

    fn reload(&mut self) {
        let Setting { hash, seed, .. } = self.setting;
        let promote_after = self.engine.promote_after();
        self.engine = KsmScanner::with(self.memory.clone(), hash, !seed);
        self.model = Reference::new(promote_after);
        self.set_promote_after(promote_after);
        self.forget_homes();
    }

    fn init(&mut self) {
        self.engine.init();
        self.model.init();
        assert_eq!(self.engine.index_bytes(), 0);
        self.forget_homes();
    }

    /// The scanner is at the beginning of a pass, and no shared frame is its own.
    fn forget_homes(&mut self) {
        self.begin_pass();
        for page in self.pages.values_mut() {
            page.home = None;
        }
    }

    fn set_promote_after(&mut self, sightings: u8) {
        self.engine.set_promote_after(sightings);
        self.model.set_promote_after(sightings);
    }

    fn flood(&mut self, pages: u16) {
        for _ in 0..pages {
            self.flooded += 1;
            let letter = Letter(ALPHABET + self.flooded);
            let frame = Frame(FLOOD_FRAMES + u64::from(self.flooded));
            let domain = Domain(0);
            let (verdict, remembered) = self.ask(|engine| engine.scan(frame, domain, &letter));
            assert_eq!(verdict, Verdict::Wait);
            self.model.scan(frame, (domain, letter), remembered);
        }
    }
}

/// The count that [`KsmScanner::end_pass`] asks for. Both answers for a frame that is gone are in
/// use.
fn count(pages: &BTreeMap<Frame, Page>, slots: &[Option<Mapping>], frame: Frame) -> Option<u32> {
    let of_frame = |mapping: &&Mapping| mapping.frame == frame;
    match pages.get(&frame) {
        Some(page) if page.shared => Some(slots.iter().flatten().filter(of_frame).count() as u32),
        Some(_) => None,
        None => (frame.0 & 1 == 0).then_some(0),
    }
}

fn domain() -> impl Strategy<Value = Domain> {
    prop_oneof![6 => Just(1), 2 => Just(2), 1 => Just(u64::MAX)].prop_map(Domain)
}

fn letter() -> impl Strategy<Value = Letter> {
    prop_oneof![5 => 2..4u32, 2 => 0..ALPHABET].prop_map(Letter)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![6 => Just(Outcome::Merge), 1 => Just(Outcome::Fail), 1 => Just(Outcome::Fresh)]
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    prop_oneof![
        14 => (slot(), 1..5usize, domain(), letter()).prop_map(|(first, count, domain, letter)| {
            Op::Map { first, count, domain, letter }
        }),
        10 => (slot(), letter(), any::<bool>()).prop_map(|(slot, letter, report)| Op::Write {
            slot,
            letter,
            report
        }),
        8 => (slot(), slot(), proptest::option::weighted(0.3, domain()))
            .prop_map(|(from, to, domain)| Op::Fork { from, to, domain }),
        4 => slot().prop_map(|slot| Op::Unmap { slot }),
        8 => slot().prop_map(|slot| Op::Free { slot }),
        40 => (slot(), outcome()).prop_map(|(slot, outcome)| Op::Scan { slot, outcome }),
        16 => outcome().prop_map(|outcome| Op::Pass { outcome }),
        3 => Just(Op::EndPass),
        3 => Just(Op::Recount),
        2 => Just(Op::Reload),
        1 => Just(Op::Init),
        1 => (0..6u8).prop_map(Op::PromoteAfter),
        1 => (1..300u16).prop_map(Op::Flood),
    ]
}

fn setting(plan: impl Strategy<Value = Plan>) -> impl Strategy<Value = Setting> {
    let hash = prop_oneof![15 => Just(HashKind::Wide), 1 => Just(HashKind::Bytewise)];
    (hash, any::<u64>(), plan, 1..5u8).prop_map(|(hash, seed, plan, promote_after)| Setting {
        hash,
        seed,
        plan,
        promote_after,
    })
}

/// Checks `cases` random stories on machines whose memory behaves as `plan` says, and returns
/// what happened in them.
fn tell(cases: u32, plan: impl Strategy<Value = Plan>) -> Events {
    let events = RefCell::new(Events::default());
    property::holds(
        cases,
        (setting(plan), vec(op(), 1..160)),
        |(setting, ops)| {
            let mut world = World::new(setting, &events);
            for op in &ops {
                world.step(op);
            }
        },
    );
    events.into_inner()
}

#[test]
fn engine_agrees_with_the_reference_and_the_machine() {
    let events = tell(200, Just(Plan::Ample));
    assert_eq!(events.failures, 0);
    for (name, count) in [
        ("waits", events.waits),
        ("zeros", events.zeros),
        ("merged twins", events.merged_twins),
        ("merged into shared", events.merged_into_shared),
        ("refuted twins", events.refuted_twins),
        ("refuted shared", events.refuted_shared),
        ("adopted", events.adopted),
        ("mixed", events.mixed),
        ("unmerged", events.unmerged),
        ("exact counts", events.exact_counts),
    ] {
        assert!(count >= 20, "{count} {name}: the stories say little");
    }
}

#[test]
fn engine_agrees_with_the_reference_while_memory_fails() {
    let plan = prop_oneof![
        2 => vec(any::<bool>(), 1..9).prop_map(Plan::Repeat),
        3 => (0..4usize).prop_map(Plan::Only),
    ];
    let events = tell(100, plan);
    assert!(events.failures >= 100, "{} failures", events.failures);
    assert!(events.full_index >= 100, "{} when full", events.full_index);
    assert!(events.merged_twins >= 20 && events.adopted >= 20);
}

#[test]
fn zero_pages_are_never_indexed() {
    let events = RefCell::default();
    let setting = Setting {
        hash: HashKind::Wide,
        seed: 0,
        plan: Plan::Only(0),
        promote_after: 1,
    };
    let mut world = World::new(setting, &events);
    for slot in 0..SLOTS {
        world.map(slot, Domain(1), ZERO);
    }
    world.step(&Op::Pass {
        outcome: Outcome::Fail,
    });
    assert_eq!(events.borrow().zeros, SLOTS as u32);
    assert_eq!(world.engine.index_failures(), 0);
}
