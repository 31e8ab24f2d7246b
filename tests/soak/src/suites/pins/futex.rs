// SPDX-License-Identifier: GPL-2.0

//! Futexes in merged pages: a wake must find its waiter even if the page changed in between.

use std::io;
use std::thread;
use std::time::Duration;

use guest::expect;
use guest::process::peer::spawn::check;
use guest::process::task;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

use super::any_word;

/// How long a wake may take to find the waiter.
const PATIENCE: Duration = task::PATIENCE;

/// Private futexes are found by address alone, shared ones by the page.
#[derive(Clone, Copy)]
enum Scope {
    Private,
    Shared,
}

impl Scope {
    fn flag(self) -> i32 {
        match self {
            Scope::Private => libc::FUTEX_PRIVATE_FLAG,
            Scope::Shared => 0,
        }
    }
}

/// A thread waits in a page that can be merged; merges or breaks the page, and wakes it.
pub fn wait_and_wake(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    region.fill(index, Content::letter(&mut worker.rng));
    let (place, waits_for) = word_of(region, index, worker);
    let scope = *worker.rng.pick(&[Scope::Private, Scope::Shared]);
    thread::scope(|threads| {
        let waiter = threads.spawn(move || wait(place, waits_for, scope));
        thread::sleep(Duration::from_millis(worker.rng.below(12)));
        if worker.rng.below(2) == 0 {
            // Writes another word: the page breaks, the futex's word stays.
            let other = (place / 8 % 512 + 1) % 512;
            region.poke(index, other as usize, worker.rng.number());
        }
        let woken = task::wait_until(PATIENCE, || matches!(wake(place, scope), Ok(1)));
        let waited = waiter.join().map_err(|_| "the one who waits panicked")?;
        waited.context(|| "waiting at a futex")?;
        expect::that(woken, || "a wake found nobody at the futex")
    })?;
    region.verify(index, &worker.tally)
}

/// Address of a word, and the half of it that is the futex.
fn word_of(region: &Region, index: u64, worker: &mut Worker) -> (u64, u32) {
    let word = any_word(worker);
    (
        region.place(index, word),
        region.page(index).word(word) as u32,
    )
}

fn wait(place: u64, value: u32, scope: Scope) -> io::Result<()> {
    let timeout = libc::timespec {
        tv_sec: PATIENCE.as_secs() as i64 + 1,
        tv_nsec: 0,
    };
    let operation = libc::FUTEX_WAIT | scope.flag();
    // SAFETY: The word is mapped; the time lives until the call ends.
    let result =
        unsafe { libc::syscall(libc::SYS_futex, place, operation, value, &raw const timeout) };
    check(result).map(drop)
}

/// Wakes one waiter; returns the number of woken waiters.
fn wake(place: u64, scope: Scope) -> io::Result<u64> {
    let operation = libc::FUTEX_WAKE | scope.flag();
    // SAFETY: Takes only an address and numbers.
    check(unsafe { libc::syscall(libc::SYS_futex, place, operation, 1) })
}
