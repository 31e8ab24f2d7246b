// SPDX-License-Identifier: GPL-2.0

//! Writes to the memory of a process through ptrace, as debuggers do.

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::Context;
use crate::Result;

/// Attaches to a process, which stops it, runs `body`, and detaches.
pub fn attached<T>(pid: i32, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let pid = Pid::from_raw(pid);
    ptrace::attach(pid).context(|| "ptrace")?;
    waitpid(pid, None).context(|| "waiting for the traced process")?;
    let result = body();
    ptrace::detach(pid, None).context(|| "ptrace")?;
    result
}

/// Writes words from `addr` on with `PTRACE_POKEDATA`, which also writes to memory that is read-only
/// for the process. The caller must be [`attached`] to the process.
pub fn poke(pid: i32, addr: u64, words: &[u64]) -> Result {
    let write = |(index, &word): (usize, &u64)| {
        let addr = (addr + index as u64 * 8) as ptrace::AddressType;
        ptrace::write(Pid::from_raw(pid), addr, word as i64)
    };
    let written = words.iter().enumerate().try_for_each(write);
    written.context(|| "PTRACE_POKEDATA")
}

/// Attaches to a process and writes like [`poke`].
pub fn write(pid: i32, addr: u64, words: &[u64]) -> Result {
    attached(pid, || poke(pid, addr, words))
}
