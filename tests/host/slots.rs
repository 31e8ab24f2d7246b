// SPDX-License-Identifier: GPL-2.0

//! Tests of notes that are left while others are left or taken. Each access of a word is interrupted
//! once by everything that may come in between, so each order of the two is tried.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;

use engine::slots::Slots;
use engine::slots::Word;

const COUNT: usize = 3;
const FIRST: [usize; 2] = [11, 12];
const SECOND: [usize; 2] = [21, 22];

type Notes = Vec<[usize; 2]>;
type Interruption = Box<dyn FnOnce()>;

thread_local! {
    /// The number of accesses before an interruption, and what it does.
    static PENDING: RefCell<Option<(usize, Interruption)>> = const { RefCell::new(None) };
}

/// A word whose accesses are interrupted.
struct Interrupted(Cell<usize>);

impl Interrupted {
    /// Called before each access.
    fn access(&self) -> &Cell<usize> {
        let due = PENDING.with_borrow_mut(|pending| match pending {
            Some((0, _)) => pending.take().map(|(_, act)| act),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        });
        if let Some(act) = due {
            act();
        }
        &self.0
    }
}

impl Word for Interrupted {
    fn zero() -> Self {
        Interrupted(Cell::new(0))
    }

    fn load_acquire(&self) -> usize {
        self.access().get()
    }

    fn load_relaxed(&self) -> usize {
        self.access().get()
    }

    fn store_release(&self, value: usize) {
        self.access().set(value);
    }

    fn store_relaxed(&self, value: usize) {
        self.access().set(value);
    }

    fn exchange_acquire(&self, from: usize, to: usize) -> bool {
        let cell = self.access();
        let is_from = cell.get() == from;
        if is_from {
            cell.set(to);
        }
        is_from
    }
}

/// Slots that live as long as the tests.
fn slots() -> &'static Slots<Interrupted, COUNT> {
    Box::leak(Box::new(Slots::new()))
}

/// Runs `act` on new slots that hold `before`, interrupted by `other` at each access in turn. Returns
/// for each run all notes that were taken during it or left after it, sorted.
fn interrupt(
    before: &[[usize; 2]],
    act: fn(&Slots<Interrupted, COUNT>) -> Notes,
    other: fn(&Slots<Interrupted, COUNT>) -> Notes,
) -> Vec<Notes> {
    let mut runs = Vec::new();
    for accesses in 0.. {
        let slots = slots();
        for &note in before {
            assert!(slots.leave(note));
        }
        let taken: &RefCell<Notes> = Box::leak(Box::default());
        let interruption = move || taken.borrow_mut().extend(other(slots));
        PENDING.set(Some((accesses, Box::new(interruption))));
        let mut notes = act(slots);
        if PENDING.take().is_some() {
            return runs;
        }
        notes.append(&mut taken.borrow_mut());
        notes.extend(slots.take());
        notes.sort_unstable();
        runs.push(notes);
    }
    runs
}

fn leave_first(slots: &Slots<Interrupted, COUNT>) -> Notes {
    assert!(slots.leave(FIRST));
    Notes::new()
}

fn leave_second(slots: &Slots<Interrupted, COUNT>) -> Notes {
    assert!(slots.leave(SECOND));
    Notes::new()
}

fn take(slots: &Slots<Interrupted, COUNT>) -> Notes {
    slots.take().collect()
}

fn expect_each(runs: &[Notes], notes: &[[usize; 2]]) {
    // At least four: the state twice, and two words.
    assert!(runs.len() >= 4, "{} runs", runs.len());
    for (accesses, run) in runs.iter().enumerate() {
        assert_eq!(run, notes, "interrupted before access {accesses}");
    }
}

#[test]
fn a_note_that_is_left_while_another_is_keeps_its_own_words() {
    let runs = interrupt(&[], leave_first, leave_second);
    expect_each(&runs, &[FIRST, SECOND]);
}

#[test]
fn a_note_that_is_being_left_is_not_taken_yet() {
    let runs = interrupt(&[], leave_first, take);
    expect_each(&runs, &[FIRST]);
}

#[test]
fn a_note_that_is_left_while_another_is_taken_overwrites_none() {
    let runs = interrupt(&[FIRST], take, leave_second);
    expect_each(&runs, &[FIRST, SECOND]);
}

#[test]
fn notes_are_left_as_long_as_slots_are_free_and_taken_once() {
    let (slots, mut expected) = (slots(), VecDeque::new());
    for round in 0..3 {
        for index in 0..COUNT {
            let note = [round, index];
            assert!(slots.leave(note));
            expected.push_back(note);
        }
        assert!(!slots.leave([99, 99]));
        // The first slot is free, while the others wait.
        assert_eq!(slots.take().next(), expected.pop_front());
        assert!(slots.leave([round, COUNT]));
        assert!(!slots.leave([99, 99]));
        let mut taken: Notes = slots.take().collect();
        taken.sort_unstable();
        expected.push_back([round, COUNT]);
        assert_eq!(taken, expected.drain(..).collect::<Notes>());
        assert_eq!(slots.take().next(), None);
    }
}
