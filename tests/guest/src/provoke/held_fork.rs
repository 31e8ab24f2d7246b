// SPDX-License-Identifier: GPL-2.0

//! Forks that the module `ksm_v_hold_fork` (`tests/provoke/ksm_v_hold_fork.c`) stops halfway.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::module;
use crate::memory::content::PAGE_SIZE;
use crate::process::task;
use crate::Context;
use crate::Result;

/// The module's file. A fork stops when it copies a mapping of this file.
pub const FILE: &str = "/sys/kernel/debug/ksm_v_hold_fork";
/// Three words: the first tells the writer to write, the second is set once it wrote, the third is
/// its thread ID.
pub const SIGNALS: &str = "/tmp/ksm_v_hold_fork";
/// The word that a writer writes; no page begins with it.
pub const WRITTEN: u64 = u64::MAX;
/// The CPU reserved for writers.
pub const WRITERS_CPU: u64 = 1;
/// The CPU for all other tasks meanwhile.
const OTHER_CPU: u64 = 0;

/// Allows forks to be held while it exists.
pub struct Holder {
    signals: File,
}

impl Holder {
    /// Loads the module and reserves a CPU for writers.
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
        let held = task::wait_until(task::PATIENCE, is_held);
        expect::that(held, || "expected a fork to be held, found none")
    }

    /// Releases the held fork.
    pub fn release(&self) -> Result {
        procfs::write(FILE, "go")
    }

    /// Tells the writer to write, and waits until it either wrote or blocks on the fork. Returns
    /// whether it wrote.
    pub fn write(&self) -> Result<bool> {
        let set = self.signals.write_all_at(&1u64.to_ne_bytes(), 0);
        set.context(|| SIGNALS)?;
        let writer = self.word(2).context(|| SIGNALS)? as i32;
        let has_written = || self.word(1).is_ok_and(|word| word != 0);
        // The writer blocks if it sleeps in a fault and was not woken since the previous check.
        let mut before = None;
        let mut waits = || {
            let asleep = task::stat(writer, 3).is_ok_and(|state| state == "D");
            let now = asleep.then(|| task::switches(writer).ok()).flatten();
            now.is_some() && now == core::mem::replace(&mut before, now)
        };
        let mut wrote = false;
        let decided = task::wait_until(task::PATIENCE, || {
            wrote = has_written();
            wrote || waits()
        });
        expect::that(decided, || {
            "the writer: expected to write or to wait for the fork, found neither"
        })?;
        Ok(wrote)
    }

    fn word(&self, index: u64) -> io::Result<u64> {
        let mut word = [0; 8];
        self.signals.read_exact_at(&mut word, 8 * index)?;
        Ok(u64::from_ne_bytes(word))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.release();
        let _ = std::fs::remove_file(SIGNALS);
        let _ = task::unpin(0);
    }
}
