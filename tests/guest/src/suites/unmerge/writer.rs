// SPDX-License-Identifier: GPL-2.0

//! A process that writes to `run`. The write returns when the module is done, so the test does not make it itself.

use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;

use guest::ksm_v::knob;
use guest::process::task;
use guest::Context;
use guest::Result;

/// The process.
pub(super) struct Writer(Child);

impl Writer {
    /// Starts to write `text`.
    pub(super) fn start(text: &str) -> Result<Self> {
        let line = format!("exec printf {text} >{}", knob::path("run"));
        let shell = Command::new("sh").args(["-c", &line]).spawn();
        shell.map(Writer).context(|| "starting a shell")
    }

    /// How it has ended; `None` if it still writes.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context(|| "a writer of run")
    }

    /// Waits until it ends. Returns how; `None` if it still writes after [`task::PATIENCE`].
    pub(super) fn wait(&mut self) -> Result<Option<ExitStatus>> {
        task::wait_until(task::PATIENCE, || !matches!(self.0.try_wait(), Ok(None)));
        self.ended()
    }

    /// Sends it SIGKILL.
    pub(super) fn kill(&mut self) -> Result {
        self.0.kill().context(|| "killing a writer of run")
    }

    /// Whether it sleeps, as it does while it waits for another writer.
    pub(super) fn sleeps(&self) -> bool {
        task::sleeps(self.0.id() as i32)
    }
}
