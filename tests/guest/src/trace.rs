// SPDX-License-Identifier: GPL-2.0

//! Writing to the memory of a process as debuggers do.

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::Context;
use crate::Result;

/// Stops a process and writes words from `addr` on with `PTRACE_POKEDATA`, which also writes to
/// memory that the process itself may only read.
pub fn write(pid: i32, addr: u64, words: &[u64]) -> Result {
    let pid = Pid::from_raw(pid);
    ptrace::attach(pid).context(|| "ptrace")?;
    waitpid(pid, None).context(|| "waiting for the traced process")?;
    let written = words.iter().enumerate().try_for_each(|(index, &word)| {
        let addr = (addr + index as u64 * 8) as ptrace::AddressType;
        ptrace::write(pid, addr, word as i64)
    });
    ptrace::detach(pid, None).context(|| "ptrace")?;
    written.context(|| "PTRACE_POKEDATA")
}
