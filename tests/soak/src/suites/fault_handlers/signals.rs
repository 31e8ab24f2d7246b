// SPDX-License-Identifier: GPL-2.0

//! Protected pages: the first forbidden access to each raises SIGSEGV, whose handler allows it.
//! Merging must neither allow nor forbid an access.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use guest::expect;
use guest::memory::content::PAGE_SIZE;
use guest::process::peer::memory;
use guest::Context;
use guest::Result;
use guest::Span;
use nix::sys::signal::sigaction;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;

use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

use super::any_word;

/// Pages that are protected from time to time.
const PAGES: u64 = 64;
/// Most pages that are protected at once.
const RUN: u64 = 8;

/// Number of handled signals.
static HANDLED: AtomicU64 = AtomicU64::new(0);
/// The page that the handler may unprotect; 0 if no page may fault.
static EXPECTED: AtomicU64 = AtomicU64::new(0);

/// Pages with a handler for faults on them.
pub struct Protected(Region);

impl Protected {
    /// Maps the pages and sets the handler.
    pub fn new(worker: &mut Worker) -> Result<Self> {
        let action = SigAction::new(
            SigHandler::SigAction(handle),
            SaFlags::SA_SIGINFO,
            SigSet::empty(),
        );
        // SAFETY: The handler uses only atomics and one system call.
        unsafe { sigaction(Signal::SIGSEGV, &action) }.context(|| "sigaction")?;
        let region = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
        Ok(Protected(region))
    }

    /// The pages.
    pub fn region(&self) -> &Region {
        &self.0
    }

    /// Protects some pages, gives them time to be merged, and reads or writes each.
    pub fn step(&mut self, worker: &mut Worker) -> Result {
        let (first, count) = self.0.some(&mut worker.rng, RUN);
        for index in first..first + count {
            if worker.rng.below(2) == 0 {
                self.0.fill(index, Content::letter(&mut worker.rng));
            }
        }
        let span = self.0.span().part(first, count);
        let protection = *worker.rng.pick(&[libc::PROT_NONE, libc::PROT_READ]);
        memory::protect(span, protection as u64).context(|| "mprotect")?;
        thread::sleep(Duration::from_millis(worker.rng.below(20)));
        for index in first..first + count {
            if worker.rng.below(2) == 0 {
                self.read(index, protection, worker)?;
            } else {
                self.write(index, worker)?;
            }
        }
        let open = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        memory::protect(span, open).context(|| "mprotect")?;
        self.0.verify_some(first, count, &worker.tally)
    }

    /// Reads a page: faults if the protection allows nothing.
    fn read(&self, index: u64, protection: i32, worker: &Worker) -> Result {
        let due = u64::from(protection == libc::PROT_NONE);
        faults(self.0.span().page(index), due, || {
            self.0.verify(index, &worker.tally)
        })
    }

    /// Writes to a page: faults with each of the protections.
    fn write(&mut self, index: u64, worker: &mut Worker) -> Result {
        let (word, value) = (any_word(worker), worker.rng.number());
        faults(self.0.span().page(index), 1, || {
            self.0.poke(index, word, value);
            Ok(())
        })
    }
}

/// Does an access that must raise `due` signals on `page`.
fn faults(page: Span, due: u64, access: impl FnOnce() -> Result) -> Result {
    let before = HANDLED.load(SeqCst);
    EXPECTED.store(page.addr, SeqCst);
    let done = access();
    EXPECTED.store(0, SeqCst);
    done?;
    expect::eq(
        "signals on a protected page",
        due,
        HANDLED.load(SeqCst) - before,
    )
}

/// Unprotects the expected page; ends the process at any other address.
extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The kernel passes valid information about the fault.
    let addr = unsafe { (*info).si_addr() } as u64;
    let page = EXPECTED.load(SeqCst);
    if page == 0 || addr & !(PAGE_SIZE - 1) != page {
        // SAFETY: Ends this process.
        unsafe { libc::abort() };
    }
    HANDLED.fetch_add(1, SeqCst);
    let open = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: A page of the region; the access that faulted is about to use it.
    unsafe { libc::mprotect(page as *mut libc::c_void, PAGE_SIZE as usize, open) };
}
