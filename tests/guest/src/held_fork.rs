// SPDX-License-Identifier: GPL-2.0

//! Forks that are held in the middle, by the module `ksm_v_hold_fork`
//! (`tests/provoke/ksm_v_hold_fork.c`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::content::PAGE_SIZE;
use crate::expect;
use crate::module;
use crate::procfs;
use crate::task;
use crate::Context;
use crate::Result;

/// The module's file. A mapping of it holds forks.
pub const FILE: &str = "/sys/kernel/debug/ksm_v_hold_fork";
/// Two words: the first tells a writer to write, the second says that it did.
pub const SIGNALS: &str = "/tmp/ksm_v_hold_fork";
/// What a writer writes: no page begins like that.
pub const WRITTEN: u64 = u64::MAX;
/// Where writers run, and nobody else.
pub const WRITERS_CPU: u64 = 1;
/// Where the rest runs, meanwhile.
const OTHER_CPU: u64 = 0;

/// How long a fork may take to come to where it is held.
const HELD_TIMEOUT: Duration = task::PATIENCE;
/// How long a writer gets for two words. It may come to wait for the fork.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Forks can be held, for as long as this exists.
pub struct Holder {
    signals: File,
}

impl Holder {
    /// Loads the module, and leaves a CPU to writers.
    pub fn new() -> Result<Self> {
        module::load_beside("ksm_v_hold_fork")?;
        let signals = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(SIGNALS)
            .context(|| SIGNALS)?;
        signals.set_len(PAGE_SIZE).context(|| SIGNALS)?;
        task::pin(0, OTHER_CPU).context(|| "leaving a CPU to writers")?;
        Ok(Holder { signals })
    }

    /// Waits until a fork is held.
    pub fn wait(&self) -> Result {
        let is_held = || procfs::number(FILE).is_ok_and(|held| held > 0);
        let held = task::wait_until(HELD_TIMEOUT, is_held);
        expect::that(held, || "expected a fork to be held, found none")
    }

    /// Lets it go on.
    pub fn release(&self) -> Result {
        procfs::write(FILE, "go")
    }

    /// Tells a writer to write. Returns whether it could, without waiting for the fork.
    pub fn write(&self) -> Result<bool> {
        let set = self.signals.write_all_at(&1u64.to_ne_bytes(), 0);
        set.context(|| SIGNALS)?;
        Ok(task::wait_until(WRITE_TIMEOUT, || {
            self.has_written().unwrap_or(false)
        }))
    }

    fn has_written(&self) -> io::Result<bool> {
        let mut word = [0; 8];
        self.signals.read_exact_at(&mut word, 8)?;
        Ok(u64::from_ne_bytes(word) != 0)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.release();
        let _ = std::fs::remove_file(SIGNALS);
        let _ = task::unpin(0);
    }
}
