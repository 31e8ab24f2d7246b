// SPDX-License-Identifier: GPL-2.0

//! The operations of a peer whose fork or exec is held halfway: see [`crate::provoke::held_fork`] and
//! [`crate::provoke::held_exec`].

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use crate::memory::content::PAGE_SIZE;
use crate::process::task;
use crate::provoke::held_fork;

/// Maps a page of a file as shared memory, at `place` or at any address.
fn map_file(path: &str, place: Option<u64>) -> io::Result<*mut u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let place_flag = place.map_or(0, |_| libc::MAP_FIXED_NOREPLACE);
    // SAFETY: Nothing is mapped at `place` yet, and the mapping is never removed.
    let addr = unsafe {
        libc::mmap(
            place.unwrap_or(0) as *mut libc::c_void,
            PAGE_SIZE as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | place_flag,
            file.as_raw_fd(),
            0,
        )
    };
    if addr == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(addr.cast())
}

/// Maps the module's file at this address: a fork that reaches it is held.
pub(super) fn hold_forks(addr: u64) -> io::Result<()> {
    map_file(held_fork::FILE, Some(addr)).map(drop)
}

/// Starts a thread that repeatedly writes back the current value of the words at two addresses, so
/// that its CPU's TLB has writable entries for them. When it is told to, it writes
/// [`held_fork::WRITTEN`] to the first word and then to the second, reports it, and ends. Returns
/// once the thread writes.
pub(super) fn start_writer(first: u64, second: u64) -> io::Result<()> {
    let signals = map_file(held_fork::SIGNALS, None)? as u64;
    let (begun, begins) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = task::pin(0, held_fork::WRITERS_CPU);
        // SAFETY: The mapping is never removed, and the words are aligned.
        let word = |addr: u64| unsafe { AtomicU64::from_ptr(addr as *mut u64) };
        let mut begun = Some(begun);
        let (go, done, who) = (word(signals), word(signals + 8), word(signals + 16));
        done.store(0, Ordering::SeqCst);
        who.store(nix::unistd::gettid().as_raw() as u64, Ordering::SeqCst);
        while go.load(Ordering::SeqCst) == 0 {
            for addr in [first, second] {
                let page = word(addr);
                page.store(page.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            if let Some(begun) = begun.take() {
                let _ = begun.send(());
            }
        }
        word(first).store(held_fork::WRITTEN, Ordering::SeqCst);
        word(second).store(held_fork::WRITTEN, Ordering::SeqCst);
        done.store(1, Ordering::SeqCst);
    });
    begins.recv().map_err(io::Error::other)
}

/// The only variable in the environment of a program that `exec` starts. Its value, and the byte before,
/// are equal characters ...
pub const VARIABLE: &str = "EQUAL";
/// ... that fill this number of pages: nearly as many as the kernel allows for a variable (128 KiB).
pub const EQUAL_PAGES: u64 = 30;

/// Replaces the program by `program`, with equal pages in its environment, which exec copies to the stack.
/// Returns only on failure.
pub(super) fn exec(mut program: Command) -> io::Error {
    let bytes = (EQUAL_PAGES + 1) * PAGE_SIZE;
    program
        .env_clear()
        .env(VARIABLE, "=".repeat(bytes as usize))
        .exec()
}
