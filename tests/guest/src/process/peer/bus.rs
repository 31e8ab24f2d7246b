// SPDX-License-Identifier: GPL-2.0

//! A process that survives a failed page, like databases and virtual machine monitors: it maps a new
//! page in its place.
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
use crate::memory::content::PAGE_SIZE;

/// The process accessed the failed page (`BUS_MCEERR_AR`).
pub const NEEDED: u64 = 4;
/// The process has not accessed the failed page yet (`BUS_MCEERR_AO`).
pub const NOT_NEEDED: u64 = 5;

const PR_MCE_KILL: c_int = 33;
const PR_MCE_KILL_SET: c_int = 1;
const PR_MCE_KILL_LATE: c_int = 0;
const PR_MCE_KILL_EARLY: c_int = 1;

/// The number of signals so far, and the code and address of the last one.
static COUNT: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Counts `SIGBUS` from now on. With `early`, the kernel also sends it for pages not accessed yet.
pub(super) fn catch(early: bool) -> io::Result<()> {
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::SigAction(on_bus), flags, SigSet::empty());
    // SAFETY: The handler only makes system calls and uses atomics, so it is async-signal-safe.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    let when = match early {
        true => PR_MCE_KILL_EARLY,
        false => PR_MCE_KILL_LATE,
    };
    // SAFETY: The call takes numbers only.
    check(unsafe { libc::prctl(PR_MCE_KILL, PR_MCE_KILL_SET, when, 0, 0) }.into()).map(drop)
}

/// The number of signals (0), or the code (1) or address (2) of the last one.
pub(super) fn seen(what: u64) -> u64 {
    match what {
        0 => COUNT.load(Ordering::SeqCst),
        1 => CODE.load(Ordering::SeqCst) as u64,
        _ => ADDRESS.load(Ordering::SeqCst),
    }
}

extern "C" fn on_bus(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: The kernel passes a valid structure, and `SIGBUS` sets its address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as u64) };
    COUNT.fetch_add(1, Ordering::SeqCst);
    CODE.store(code, Ordering::SeqCst);
    ADDRESS.store(address, Ordering::SeqCst);
    if code as u64 == NEEDED {
        map_anew(address / PAGE_SIZE * PAGE_SIZE);
    }
}

fn map_anew(address: u64) {
    // SAFETY: The mapping replaces only the failed page, which is unusable.
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
        // SAFETY: Only ends the process, which would otherwise fault for ever.
        unsafe { libc::_exit(1) };
    }
}
