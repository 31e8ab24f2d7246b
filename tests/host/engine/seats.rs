// SPDX-License-Identifier: GPL-2.0

//! Tests of the number of entries of one shared frame that an address space can have, whatever is
//! merged, forked, executed and unmapped: see `engine::seats`.

use crate::property::holds;
use engine::seats::COMMON;
use engine::seats::OWN;
use engine::seats::PER_SPACE;
use engine::Domain;
use engine::Frame;
use engine::HashKind;
use engine::Key;
use engine::KsmScanner;
use engine::Seat;
use engine::Space;
use engine::Verdict;
use engine::PAGE_SIZE;
use model::memory::Memory;
use model::memory::Plan;
use proptest::prelude::*;

const D: Domain = Domain(1000);
const CONTENT: [u8; PAGE_SIZE] = [1; PAGE_SIZE];
const SHARED: Frame = Frame(10);

fn executed(id: u64) -> Option<Space> {
    Some(Space {
        id,
        forked_at: None,
    })
}

fn forked(id: u64, at: u64) -> Option<Space> {
    Some(Space {
        id,
        forked_at: Some(at),
    })
}

fn scanner(memory: &Memory) -> KsmScanner<Memory> {
    let mut scanner = KsmScanner::with(memory.clone(), HashKind::Wide, 42);
    scanner.set_promote_after(1);
    scanner
}

/// Makes the shared frame at `made_at`, from this number of pages.
fn make(scanner: &mut KsmScanner<Memory>, key: Key, made_at: u64, pages: u32) {
    assert!(scanner.announce(SHARED, made_at));
    assert!(scanner.made(key, SHARED, D, pages));
}

/// A scanner with one shared frame, made at time 1000 from two pages.
fn with_shared_in(memory: &Memory) -> (KsmScanner<Memory>, Key) {
    let mut scanner = scanner(memory);
    scanner.scan(Frame(1), D, &CONTENT);
    let Verdict::Merge(key) = scanner.scan(Frame(2), D, &CONTENT) else {
        panic!("two equal pages are not to be merged");
    };
    make(&mut scanner, key, 1000, 2);
    (scanner, key)
}

fn with_shared() -> (KsmScanner<Memory>, Key) {
    with_shared_in(&Memory::default())
}

/// Takes seats until none is left; returns their number.
fn take_all(scanner: &mut KsmScanner<Memory>, space: Option<Space>) -> u32 {
    let mut taken = 0;
    while scanner.take_seat(SHARED, space).is_some() {
        taken += 1;
        assert!(taken <= PER_SPACE);
    }
    taken
}

#[test]
fn pages_of_several_processes_take_common_seats_only() {
    let (mut scanner, _) = with_shared();
    assert_eq!(take_all(&mut scanner, None), COMMON - 2);
}

#[test]
fn each_process_that_inherited_nothing_has_seats_of_its_own() {
    let (mut scanner, _) = with_shared();
    assert_eq!(take_all(&mut scanner, None), COMMON - 2);
    assert_eq!(take_all(&mut scanner, executed(1)), OWN);
    assert_eq!(take_all(&mut scanner, executed(2)), OWN);
    assert_eq!(take_all(&mut scanner, executed(1)), 0);
    assert_eq!(take_all(&mut scanner, forked(3, 999)), OWN);
}

#[test]
fn a_process_that_may_have_inherited_has_none_of_its_own() {
    let (mut scanner, _) = with_shared();
    take_all(&mut scanner, None);
    assert_eq!(take_all(&mut scanner, forked(1, 1000)), 0);
    assert_eq!(take_all(&mut scanner, forked(1, 2000)), 0);
}

#[test]
fn a_frame_of_which_no_time_is_told_has_common_seats_only() {
    let (mut scanner, key) = with_shared();
    make(&mut scanner, key, 0, 100);
    assert_eq!(take_all(&mut scanner, executed(1)), COMMON - 100);
    assert_eq!(take_all(&mut scanner, forked(1, 0)), 0);
}

#[test]
fn a_seat_of_a_page_that_was_not_merged_is_given_back() {
    let (mut scanner, _) = with_shared();
    for _ in 0..2 * COMMON {
        let seat = scanner.take_seat(SHARED, None).expect("a seat");
        scanner.give_back(seat);
    }
    take_all(&mut scanner, None);
    for _ in 0..2 * OWN {
        let seat = scanner.take_seat(SHARED, executed(1)).expect("a seat");
        scanner.give_back(seat);
    }
    assert_eq!(take_all(&mut scanner, executed(1)), OWN);
}

#[test]
fn a_seat_is_not_given_back_to_another_page_on_the_same_frame() {
    let (mut scanner, key) = with_shared();
    let old: Vec<Seat> = (0..10)
        .map(|_| scanner.take_seat(SHARED, None).expect("a seat"))
        .collect();
    make(&mut scanner, key, 5000, 2);
    old.into_iter().for_each(|seat| scanner.give_back(seat));
    assert_eq!(take_all(&mut scanner, None), COMMON - 2);
}

/// Nothing distinguishes such a frame from the next one of its number, so seats of one are not returned
/// to the other.
#[test]
fn a_seat_of_a_frame_of_no_known_time_is_given_back_by_the_end_of_the_pass_only() {
    let (mut scanner, key) = with_shared();
    make(&mut scanner, key, 0, 100);
    let seats: Vec<Seat> = (0..10)
        .map(|_| scanner.take_seat(SHARED, None).expect("a seat"))
        .collect();
    make(&mut scanner, key, 0, 100);
    seats.into_iter().for_each(|seat| scanner.give_back(seat));
    assert_eq!(take_all(&mut scanner, None), COMMON - 100);
    scanner.end_pass(|_| Some(100));
    assert_eq!(take_all(&mut scanner, None), COMMON - 100);
}

#[test]
fn seats_of_pages_that_left_are_free_in_the_next_pass() {
    let (mut scanner, _) = with_shared();
    take_all(&mut scanner, None);
    scanner.recount(|_| Some(5));
    assert_eq!(take_all(&mut scanner, None), 0);
    scanner.end_pass(|_| Some(5));
    assert_eq!(take_all(&mut scanner, None), COMMON - 5);
}

#[test]
fn without_memory_nobody_has_seats_of_his_own() {
    let memory = Memory::default();
    let (mut scanner, _) = with_shared_in(&memory);
    take_all(&mut scanner, None);
    memory.set_plan(Plan::Only(0));
    assert_eq!(take_all(&mut scanner, executed(1)), 0);
    memory.set_plan(Plan::Ample);
    assert_eq!(take_all(&mut scanner, executed(1)), OWN);
}

// The assumptions behind the arithmetic of the module.

/// Operations on address spaces and on the shared frame.
#[derive(Clone, Debug)]
enum Op {
    /// Pages of a process are merged if there are seats, or found to differ after all.
    Merge {
        process: usize,
        pages: u32,
        fails: bool,
    },
    /// Pages that some processes share by fork are merged.
    MergeForked {
        processes: Vec<usize>,
        pages: u32,
    },
    /// A process is replaced by a child of another.
    Fork {
        parent: usize,
        child: usize,
    },
    /// A process calls exec, and gets an `mm_struct` at the same address.
    Exec {
        process: usize,
    },
    /// A thread that was started later than the process becomes the owner.
    NewOwner {
        process: usize,
    },
    /// Entries of a process are unmapped or written to.
    Break {
        process: usize,
        pages: u32,
    },
    EndPass,
}

const PROCESSES: usize = 5;

fn op() -> impl Strategy<Value = Op> {
    let process = 0..PROCESSES;
    prop_oneof![
        6 => (process.clone(), 1..300u32, any::<bool>())
            .prop_map(|(process, pages, fails)| Op::Merge { process, pages, fails }),
        2 => (prop::collection::vec(process.clone(), 1..4), 1..100u32)
            .prop_map(|(processes, pages)| Op::MergeForked { processes, pages }),
        4 => (process.clone(), process.clone())
            .prop_map(|(parent, child)| Op::Fork { parent, child }),
        1 => process.clone().prop_map(|process| Op::Exec { process }),
        1 => process.clone().prop_map(|process| Op::NewOwner { process }),
        2 => (process, 1..300u32).prop_map(|(process, pages)| Op::Break { process, pages }),
        2 => Just(Op::EndPass),
    ]
}

/// A process, reduced to its use of the shared frame.
#[derive(Clone, Copy)]
struct Process {
    /// Address of its `mm_struct`.
    mm: u64,
    /// The start time of its owner.
    started: u64,
    is_forked: bool,
    /// Entries that map the frame.
    entries: u32,
}

impl Process {
    /// See `Owner::space()` of the module.
    fn space(&self) -> Space {
        Space {
            id: if self.is_forked {
                self.mm
            } else {
                self.mm ^ (self.started << 32)
            },
            forked_at: self.is_forked.then_some(self.started),
        }
    }
}

/// Some processes, and one frame that all of their equal pages are merged into.
struct Machine {
    scanner: KsmScanner<Memory>,
    key: Key,
    clock: u64,
    processes: [Process; PROCESSES],
}

impl Machine {
    fn new() -> Self {
        let (scanner, key) = with_shared();
        let process = |index| Process {
            mm: index as u64,
            started: 500,
            is_forked: false,
            entries: 0,
        };
        Machine {
            scanner,
            key,
            clock: 2000,
            processes: std::array::from_fn(process),
        }
    }

    fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn mappings(&self) -> u32 {
        self.processes.iter().map(|process| process.entries).sum()
    }

    fn happen(&mut self, op: &Op) {
        match *op {
            Op::Merge {
                process,
                pages,
                fails,
            } => self.merge(process, pages, fails),
            Op::MergeForked {
                ref processes,
                pages,
            } => self.merge_forked(processes, pages),
            Op::Fork { parent, child } => self.fork(parent, child),
            Op::Exec { process } => {
                self.processes[process] = Process {
                    is_forked: false,
                    entries: 0,
                    ..self.processes[process]
                };
            }
            Op::NewOwner { process } => {
                let started = self.now();
                let process = &mut self.processes[process];
                process.started = started;
                process.is_forked = true;
            }
            Op::Break { process, pages } => {
                let entries = &mut self.processes[process].entries;
                *entries = entries.saturating_sub(pages);
            }
            Op::EndPass => self.end_pass(),
        }
    }

    fn merge(&mut self, process: usize, pages: u32, fails: bool) {
        let space = self.processes[process].space();
        for _ in 0..pages {
            let Some(seat) = self.scanner.take_seat(SHARED, Some(space)) else {
                return;
            };
            if fails {
                self.scanner.give_back(seat);
            } else {
                self.processes[process].entries += 1;
            }
        }
    }

    fn merge_forked(&mut self, processes: &[usize], pages: u32) {
        for _ in 0..pages {
            if self.scanner.take_seat(SHARED, None).is_none() {
                return;
            }
            let mut those = processes.to_vec();
            those.sort_unstable();
            those.dedup();
            those
                .into_iter()
                .for_each(|process| self.processes[process].entries += 1);
        }
    }

    /// The child may get the `mm_struct` of the process that it replaces.
    fn fork(&mut self, parent: usize, child: usize) {
        let started = self.now();
        if parent != child {
            self.processes[child] = Process {
                mm: self.processes[child].mm,
                started,
                is_forked: true,
                ..self.processes[parent]
            };
        }
    }

    /// A frame without mappings is free; the next shared frame of the content is made on the same
    /// frame.
    fn end_pass(&mut self) {
        let mappings = self.mappings();
        self.scanner.end_pass(|_| Some(mappings));
        if mappings == 0 {
            let made_at = self.now();
            make(&mut self.scanner, self.key, made_at, 0);
        }
    }
}

/// The number of entries of one address space on one frame, times the number of possible address
/// spaces, is the limit of what forks can make of them.
#[test]
fn no_history_gives_a_process_more_entries_than_it_may_have() {
    holds(2000, prop::collection::vec(op(), 1..100), |ops| {
        let mut machine = Machine::new();
        for op in &ops {
            machine.happen(op);
            let entries = machine.processes.iter().map(|process| process.entries);
            let most = entries.max().unwrap_or(0);
            assert!(most <= PER_SPACE, "{most} entries after {op:?}");
        }
    });
}
