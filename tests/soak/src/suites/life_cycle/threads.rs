// SPDX-License-Identifier: GPL-2.0

//! Tasks that share an address space.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use guest::memory::content::WORDS;
use guest::process::peer::memory;
use guest::process::peer::spawn::check;
use guest::Context;
use guest::Result;

use super::moment;
use super::Life;
use crate::child::Child;
use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

/// Stack pages of a process that shares memory.
const STACK_PAGES: u64 = 16;

/// Threads that write to parts of one region, and end.
pub(super) fn end(_: &mut Life, worker: &mut Worker) -> Result {
    let mut parts = vec![Region::map(32).context(|| "mmap")?];
    for _ in 0..3 {
        let rest = parts[0].len() - 8;
        let part = parts[0].split_off(rest);
        parts.push(part);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = parts
            .into_iter()
            .map(|part| {
                let mut worker = worker.fork();
                scope.spawn(move || fill_and_unmap(part, &mut worker))
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
}

fn fill_and_unmap(mut part: Region, worker: &mut Worker) -> Result {
    for index in 0..part.len() {
        part.fill(index, Content::letter(&mut worker.rng));
    }
    moment(&mut worker.rng);
    part.verify_all(&worker.tally)?;
    part.unmap().context(|| "munmap")
}

/// A process that exits while its threads work.
pub(super) fn exit_at_work(life: &mut Life, worker: &mut Worker) -> Result {
    let child = life.fork(worker, |life, worker| {
        for _ in 0..3 {
            let (mut region, mut worker) = (life.region.clone(), worker.fork());
            // It ends with the process. Each thread writes to all pages; nobody reads them.
            thread::spawn(move || loop {
                let index = worker.rng.below(region.len());
                region.fill(index, Content::letter(&mut worker.rng));
            });
        }
        moment(&mut worker.rng);
        Ok(())
    })?;
    child.wait()
}

/// A process ends, and another one that shares its memory stays: the memory has a new owner.
pub(super) fn outlive(life: &mut Life, worker: &mut Worker) -> Result {
    let (mut here, mut there) = UnixStream::pair().context(|| "socketpair")?;
    let child = life.fork(worker, |life, worker| {
        let pid = leave_memory(life.region.clone(), worker.rng.below(20))?;
        there
            .write_all(&pid.to_ne_bytes())
            .context(|| "telling of the process that stays")
    })?;
    child.wait()?;
    let mut pid = [0; 4];
    here.read_exact(&mut pid)
        .context(|| "hearing of the process that stays")?;
    Child::of(i32::from_ne_bytes(pid)).wait()
}

/// Starts a process that shares this process's memory, but is a child of its parent.
fn leave_memory(region: Region, milliseconds: u64) -> Result<i32> {
    let stack = memory::map_anywhere(STACK_PAGES).context(|| "mmap")?;
    let top = stack.range().end as *mut libc::c_void;
    let heir = Box::new(Heir {
        region,
        time: Duration::from_millis(milliseconds),
    });
    let heir: *mut Heir = Box::into_raw(heir);
    let flags = libc::CLONE_VM | libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: The stack is new and its own; `heir` is never freed. The new process only reads
    // memory and sleeps, which needs no state of the C library for each thread.
    let pid = unsafe { libc::clone(inherit, top, flags, heir.cast()) };
    check(pid.into()).context(|| "clone")?;
    Ok(pid)
}

/// The memory that the remaining process verifies, and the time until then.
struct Heir {
    region: Region,
    time: Duration,
}

/// Waits until the other process has most likely ended, and verifies the memory.
extern "C" fn inherit(heir: *mut libc::c_void) -> libc::c_int {
    // SAFETY: The pointer that was passed to clone().
    let Heir { region, time } = unsafe { &*heir.cast::<Heir>() };
    thread::sleep(*time);
    let is_right = |index: u64| {
        let is_right =
            |word| memory::peek(region.place(index, word)) == region.page(index).word(word);
        (0..WORDS).all(is_right)
    };
    i32::from(!(0..region.len()).all(is_right))
}
