// SPDX-License-Identifier: GPL-2.0

//! Faults that programs handle themselves, on merged memory: userfaultfd, and signals on
//! protected pages. Every expected fault happens, and no other.

use guest::memory::content::WORDS;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod signals;
mod watched;

use signals::Protected;
use watched::Watched;

/// The suite.
pub const SUITE: Suite = Suite {
    lacks: watched::lacking,
    ..Suite::new(
        "fault_handlers",
        "userfaultfd missing, write-protect, move; SIGSEGV on PROT_NONE and PROT_READ",
        work,
    )
};

const STEPS: &[Step<State>] = &[
    ("fill a page", 12, fill),
    ("write a word", 8, poke),
    ("verify a page", 12, verify),
    ("watch, or end the watch", 2, |state, worker| {
        state.watched.toggle(worker)
    }),
    ("UFFDIO_COPY, UFFDIO_ZEROPAGE", 6, |state, worker| {
        state.watched.provide(worker)
    }),
    ("UFFDIO_WRITEPROTECT", 8, |state, worker| {
        state.watched.protect(worker)
    }),
    ("UFFDIO_MOVE", 6, |state, worker| {
        state.watched.move_in(&mut state.plain, worker)
    }),
    ("mprotect, fault and handle", 10, |state, worker| {
        state.protected.step(worker)
    }),
];

/// Pages without special operations, except that they are moved away.
const PLAIN: u64 = 96;

/// The state of a worker.
struct State {
    plain: Region,
    watched: Watched,
    protected: Protected,
}

fn work(worker: &mut Worker) -> Result {
    let mut state = State {
        plain: Region::filled(PLAIN, &mut worker.rng).context(|| "mmap")?,
        watched: Watched::new(worker)?,
        protected: Protected::new(worker)?,
    };
    worker.work(&mut state, STEPS)?;
    state.watched.end()?;
    let regions = [
        &state.plain,
        state.watched.region(),
        state.protected.region(),
    ];
    worker.finish(regions)
}

fn fill(state: &mut State, worker: &mut Worker) -> Result {
    steps::fill(&mut state.plain, worker)
}

fn poke(state: &mut State, worker: &mut Worker) -> Result {
    steps::poke(&mut state.plain, worker)
}

fn verify(state: &mut State, worker: &mut Worker) -> Result {
    steps::verify(&mut state.plain, worker)
}

fn any_word(worker: &mut Worker) -> usize {
    worker.rng.below(WORDS as u64) as usize
}
