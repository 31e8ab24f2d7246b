// SPDX-License-Identifier: GPL-2.0

//! An exec that the module `ksm_v_hold_exec` (`tests/provoke/ksm_v_hold_exec.c`) stops halfway: the process
//! has a new address space, with nothing but a temporary stack.

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::module;
use crate::memory::content::PAGE_SIZE;
use crate::process::peer::Peer;
use crate::process::task;
use crate::Result;
use crate::Span;

const FILE: &str = "/sys/kernel/debug/ksm_v_hold_exec";

/// Holds the next exec of a process while it exists.
pub struct Holder {
    pid: i32,
}

impl Holder {
    /// Loads the module, and begins to hold execs of `peer`.
    pub fn new(peer: &Peer) -> Result<Self> {
        module::load_beside("ksm_v_hold_exec")?;
        procfs::write(FILE, &peer.pid().to_string())?;
        Ok(Holder { pid: peer.pid() })
    }

    /// Waits until the exec is held, and returns the temporary stack: all memory of the process.
    pub fn wait(&self) -> Result<Span> {
        let is_held = || procfs::number(FILE).is_ok_and(|held| held > 0);
        let held = task::wait_until(task::PATIENCE, is_held);
        expect::that(held, || "expected an exec to be held, found none")?;
        let maps = procfs::read(&format!("/proc/{}/maps", self.pid))?;
        // Some kernels show a page of their own in each process.
        let own = maps.lines().filter(|line| !line.ends_with("[vsyscall]"));
        let mut ranges = own.filter_map(procfs::mapping);
        match (ranges.next(), ranges.next()) {
            (Some(stack), None) => Ok(Span::new(
                stack.start,
                (stack.end - stack.start) / PAGE_SIZE,
            )),
            _ => Err(format!("a held exec: expected one mapping, found:\n{maps}").into()),
        }
    }

    /// Lets the exec go on.
    pub fn release(self) {}
}

impl Drop for Holder {
    fn drop(&mut self) {
        if procfs::write(FILE, "0").is_err() {
            eprintln!("the exec of process {} cannot be released", self.pid);
        }
    }
}
