// SPDX-License-Identifier: GPL-2.0

//! A process that goes on after a page of it has failed, as databases and virtual machines do: it
//! maps a new page there.
//!
//! Reference: `PR_MCE_KILL` in prctl(2), `SIGBUS` in sigaction(2).

use std::io;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use nix::libc::c_int;
use nix::libc::c_void;
use nix::libc::siginfo_t;
use nix::sys::signal::sigaction;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;

use super::spawn::check;
use crate::content::PAGE_SIZE;

/// The page was needed (`BUS_MCEERR_AR`).
pub const NEEDED: u64 = 4;
/// The page was not needed so far (`BUS_MCEERR_AO`).
pub const NOT_NEEDED: u64 = 5;

const PR_MCE_KILL: c_int = 33;
const PR_MCE_KILL_SET: c_int = 1;
const PR_MCE_KILL_LATE: c_int = 0;
const PR_MCE_KILL_EARLY: c_int = 1;

/// Signals so far, and code and address of the last one.
static COUNT: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Counts `SIGBUS` from now on. With `early` the kernel sends it for pages that are not needed, too.
pub(super) fn catch(early: bool) -> io::Result<()> {
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::SigAction(on_bus), flags, SigSet::empty());
    // SAFETY: The handler makes system calls only.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    let when = match early {
        true => PR_MCE_KILL_EARLY,
        false => PR_MCE_KILL_LATE,
    };
    // SAFETY: Takes numbers only.
    check(unsafe { libc::prctl(PR_MCE_KILL, PR_MCE_KILL_SET, when, 0, 0) }.into()).map(drop)
}

/// Number of signals (0), code (1) and address (2) of the last one.
pub(super) fn seen(what: u64) -> u64 {
    match what {
        0 => COUNT.load(Ordering::SeqCst),
        1 => CODE.load(Ordering::SeqCst) as u64,
        _ => ADDRESS.load(Ordering::SeqCst),
    }
}

extern "C" fn on_bus(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: The kernel passes a valid structure, of a fault or of a failed page.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as u64) };
    COUNT.fetch_add(1, Ordering::SeqCst);
    CODE.store(code, Ordering::SeqCst);
    ADDRESS.store(address, Ordering::SeqCst);
    if code as u64 == NEEDED {
        map_anew(address / PAGE_SIZE * PAGE_SIZE);
    }
}

fn map_anew(address: u64) {
    // SAFETY: Replaces a page that can't be used any more.
    let mapped = unsafe {
        libc::mmap(
            address as *mut c_void,
            PAGE_SIZE as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        // SAFETY: Ends the process at once: it would fault for ever.
        unsafe { libc::_exit(1) };
    }
}
