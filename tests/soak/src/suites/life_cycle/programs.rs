// SPDX-License-Identifier: GPL-2.0

//! Children that run another program: this same program, which prints its version and ends.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::Stdio;

use guest::expect;
use guest::process::peer::spawn::SELF;
use guest::Context;
use guest::Result;

use super::Life;
use crate::worker::Worker;

fn program() -> Command {
    let mut command = Command::new(SELF);
    command.arg("--version").stdout(Stdio::null());
    command
}

/// The C library uses `CLONE_VM | CLONE_VFORK`: the child shares this memory until its `exec`.
pub(super) fn vfork(_: &mut Life, _: &mut Worker) -> Result {
    let status = program().status().context(|| "starting a program")?;
    expect::that(status.success(), || {
        format!("a program ended with {status}")
    })
}

/// `exec` replaces the memory of the forked child.
pub(super) fn fork_and_exec(life: &mut Life, worker: &mut Worker) -> Result {
    let child = life.fork(worker, |life, worker| {
        life.live(worker)?;
        Err(program().exec()).context(|| "exec")
    })?;
    child.wait()
}
