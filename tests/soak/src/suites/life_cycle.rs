// SPDX-License-Identifier: GPL-2.0

//! Thousands of processes and threads that start and end at any moment of a scan.
//!
//! During the suite the system has few process numbers, so that they are soon reused.

use guest::kernel::procfs;
use guest::rng::Rng;
use guest::Context;
use guest::Result;

use crate::child;
use crate::child::Child;
use crate::region::Region;
use crate::shadow::Content;
use crate::stage::Stage;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod programs;
mod threads;

/// The suite.
pub const SUITE: Suite = Suite {
    direct,
    ..Suite::new(
        "life_cycle",
        "fork, exec, vfork, threads, exit while being scanned, zombies, process numbers reused",
        work,
    )
};

/// Pages of a worker.
const PAGES: u64 = 64;
/// Most processes that have ended and are not waited for yet.
const ZOMBIES: usize = 12;
/// Number of process numbers: enough for all live processes, and soon used up.
const PID_MAX: &str = "512";
/// The file that sets it.
const PID_MAX_FILE: &str = "/proc/sys/kernel/pid_max";

/// The state of a worker.
struct Life {
    region: Region,
    /// Children that have ended, or are about to.
    zombies: Vec<Child>,
    last_pid: i32,
}

const STEPS: &[Step<Life>] = &[
    ("fork, write in both, exit", 20, fork),
    ("fork 8 that exit at once", 20, fork_many),
    ("fork, exit while being scanned", 20, fork_and_exit),
    ("fork, be killed while being scanned", 10, fork_and_kill),
    ("fork a child that forks", 8, fork_twice),
    ("leave a zombie", 10, leave_zombie),
    ("wait for a zombie", 8, reap_zombie),
    ("vfork and exec", 5, programs::vfork),
    ("fork and exec", 5, programs::fork_and_exec),
    ("threads that end", 8, threads::end),
    ("exit with threads at work", 5, threads::exit_at_work),
    ("share memory with who outlives", 5, threads::outlive),
    ("fill a page", 20, fill),
    ("verify a page", 20, verify),
];

fn direct(stage: &Stage) -> Result {
    let before = procfs::read(PID_MAX_FILE)?;
    procfs::write(PID_MAX_FILE, PID_MAX)?;
    stage.wait();
    procfs::write(PID_MAX_FILE, before.trim_end())
}

fn work(worker: &mut Worker) -> Result {
    let mut life = Life {
        region: Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?,
        zombies: Vec::new(),
        last_pid: 0,
    };
    worker.work(&mut life, STEPS)?;
    life.zombies.drain(..).try_for_each(Child::wait)?;
    worker.finish([&life.region])
}

impl Life {
    /// Forks a child that runs `body`, with its own random choices.
    fn fork(
        &mut self,
        worker: &mut Worker,
        body: impl FnOnce(&mut Life, &mut Worker) -> Result,
    ) -> Result<Child> {
        let mut own = worker.fork();
        let child = child::fork(|| body(self, &mut own))?;
        if child.pid() < self.last_pid {
            worker.tally.add("process numbers began anew", 1);
        }
        self.last_pid = child.pid();
        Ok(child)
    }

    /// A child's life: verifies its parent's memory, changes it, and exits with new memory.
    fn live(&mut self, worker: &mut Worker) -> Result {
        let (first, count) = self.region.some(&mut worker.rng, 8);
        self.region.verify_some(first, count, &worker.tally)?;
        for index in first..first + count {
            self.region.fill(index, Content::any(&mut worker.rng));
        }
        self.region.verify_some(first, count, &worker.tally)
    }
}

/// Waits a moment, in which the scanner may reach the process.
fn moment(rng: &mut Rng) {
    std::thread::sleep(std::time::Duration::from_micros(rng.below(8_000)));
}

fn fork(life: &mut Life, worker: &mut Worker) -> Result {
    let child = life.fork(worker, Life::live)?;
    let (first, count) = life.region.some(&mut worker.rng, 4);
    for index in first..first + count {
        life.region.fill(index, Content::letter(&mut worker.rng));
    }
    child.wait()?;
    life.region.verify_some(first, count, &worker.tally)
}

/// Children that each write to a page that their parent and the others also have.
fn fork_many(life: &mut Life, worker: &mut Worker) -> Result {
    let children: Vec<Child> = (0..8)
        .map(|_| life.fork(worker, fill))
        .collect::<Result<_>>()?;
    children.into_iter().try_for_each(Child::wait)
}

fn fork_and_exit(life: &mut Life, worker: &mut Worker) -> Result {
    life.fork(worker, exit_while_scanned)?.wait()
}

/// Makes pages with widespread contents, and ends while they are being merged.
fn exit_while_scanned(_: &mut Life, worker: &mut Worker) -> Result {
    let pages = 1 + worker.rng.below(48);
    let mut own = Region::map(pages).context(|| "mmap")?;
    for index in 0..pages {
        own.fill(index, Content::letter(&mut worker.rng));
    }
    moment(&mut worker.rng);
    let (first, count) = own.some(&mut worker.rng, 8);
    own.verify_some(first, count, &worker.tally)
}

fn fork_and_kill(life: &mut Life, worker: &mut Worker) -> Result {
    let child = life.fork(worker, |life, worker| loop {
        exit_while_scanned(life, worker)?;
    })?;
    moment(&mut worker.rng);
    child.end()
}

fn fork_twice(life: &mut Life, worker: &mut Worker) -> Result {
    let child = life.fork(worker, |life, worker| {
        life.live(worker)?;
        let grandchild = life.fork(worker, Life::live)?;
        life.live(worker)?;
        grandchild.wait()
    })?;
    child.wait()
}

/// Keeps the process as a zombie: its memory is gone before its number.
fn leave_zombie(life: &mut Life, worker: &mut Worker) -> Result {
    if life.zombies.len() >= ZOMBIES {
        return reap_zombie(life, worker);
    }
    let child = life.fork(worker, exit_while_scanned)?;
    life.zombies.push(child);
    Ok(())
}

fn reap_zombie(life: &mut Life, worker: &mut Worker) -> Result {
    if life.zombies.is_empty() {
        return Ok(());
    }
    let index = worker.rng.below(life.zombies.len() as u64) as usize;
    life.zombies.swap_remove(index).wait()
}

fn fill(life: &mut Life, worker: &mut Worker) -> Result {
    steps::fill(&mut life.region, worker)
}

fn verify(life: &mut Life, worker: &mut Worker) -> Result {
    steps::verify(&mut life.region, worker)
}
