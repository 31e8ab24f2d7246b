// SPDX-License-Identifier: GPL-2.0

//! Pages that have other references than page tables: disks, pipes, rings and debuggers
//! read and write them while they are merged.
//!
//! The process, and nobody else, must see at once what a device writes to a page.

use guest::memory::content::WORDS;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod disk;
mod futex;
mod partner;
mod pipe;
mod ring;

use disk::Disk;
use partner::Partner;
use pipe::Pipe;
use ring::Ring;

/// The suite.
pub const SUITE: Suite = Suite {
    lacks: disk::make,
    direct: disk::forget_at_end,
    ..Suite::new(
        "pins",
        "O_DIRECT, vmsplice, io_uring buffers, process_vm, ptrace, futexes on merged pages",
        work,
    )
};

/// Pages of a worker for all these operations.
const PAGES: u64 = 192;

const STEPS: &[Step<State>] = &[
    ("fill a page", 16, fill),
    ("write a word", 8, poke),
    ("verify a page", 16, verify),
    ("O_DIRECT write", 6, |state, worker| {
        state.disk.write(&state.region, worker)
    }),
    ("O_DIRECT read", 10, |state, worker| {
        state.disk.read(&mut state.region, worker)
    }),
    ("vmsplice, or read the pipe", 8, |state, worker| {
        state.pipe.step(worker)
    }),
    ("pin, write by the ring, unpin", 24, |state, worker| {
        state.ring.step(&mut state.region, worker)
    }),
    ("process_vm_writev", 8, |state, worker| {
        state.partner.write(worker)
    }),
    ("process_vm_readv", 8, |state, worker| {
        state.partner.verify(worker)
    }),
    ("write to /proc/PID/mem", 6, |state, worker| {
        state.partner.write_file(worker)
    }),
    (
        "write to read-only memory as a debugger",
        3,
        |state, worker| state.partner.force(worker),
    ),
    ("wake a futex", 3, |state, worker| {
        futex::wait_and_wake(&mut state.region, worker)
    }),
    ("fork anew, pins and all", 1, |state, _| {
        state.partner.renew(&state.region)
    }),
];

/// The state of a worker.
struct State {
    region: Region,
    disk: Disk,
    pipe: Pipe,
    ring: Ring,
    partner: Partner,
}

impl State {
    fn new(worker: &mut Worker) -> Result<Self> {
        let region = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
        Ok(State {
            disk: Disk::open(worker.index)?,
            pipe: Pipe::new(worker)?,
            ring: Ring::default(),
            partner: Partner::new(&region, worker)?,
            region,
        })
    }

    fn verify_all(&self, worker: &Worker) -> Result {
        self.region.verify_all(&worker.tally)?;
        self.pipe.verify_all(worker)?;
        self.partner.verify_all(worker)
    }
}

fn work(worker: &mut Worker) -> Result {
    let mut state = State::new(worker)?;
    worker.work(&mut state, STEPS)?;
    worker.finish_by(|| state.verify_all(worker))?;
    state.partner.end()
}

fn fill(state: &mut State, worker: &mut Worker) -> Result {
    steps::fill(&mut state.region, worker)
}

fn poke(state: &mut State, worker: &mut Worker) -> Result {
    steps::poke(&mut state.region, worker)
}

fn verify(state: &mut State, worker: &mut Worker) -> Result {
    steps::verify(&mut state.region, worker)
}

fn any_word(worker: &mut Worker) -> usize {
    worker.rng.below(WORDS as u64) as usize
}
