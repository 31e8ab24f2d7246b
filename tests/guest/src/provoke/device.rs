// SPDX-License-Identifier: GPL-2.0

//! A device with its own memory and its driver: the module `ksm_v_device`
//! (`tests/provoke/ksm_v_device.c`).
//!
//! Reference: [`Documentation/mm/hmm.rst`](https://docs.kernel.org/mm/hmm.html).

use std::path::Path;

use crate::kernel::procfs;
use crate::ksm_v::module;
use crate::process::peer::Peer;
use crate::Result;
use crate::Span;

const NAME: &str = "ksm_v_device";
const FILE: &str = "/sys/kernel/debug/ksm_v_device";

/// What the driver does with pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Unmaps them, then puts them back (`migrate_vma_setup()` without destinations).
    Offer,
    /// Moves them to other frames of system memory.
    Move,
    /// Moves them to memory that only the device can read (`MEMORY_DEVICE_PRIVATE`).
    Take,
}

impl Migration {
    fn word(self) -> &'static str {
        match self {
            Migration::Offer => "offer",
            Migration::Move => "move",
            Migration::Take => "take",
        }
    }
}

/// A device that exists until this is dropped. Dropping it returns its pages to system memory.
pub struct Device(());

impl Device {
    /// Returns whether the guest has the driver's module.
    pub fn exists() -> bool {
        Path::new(&format!("{NAME}.ko")).exists()
    }

    /// Loads the driver, which adds the device.
    pub fn new() -> Result<Self> {
        module::load_beside(NAME)?;
        Ok(Device(()))
    }

    /// Inserts an interval notifier in the address space of a process.
    pub fn watch(&self, peer: &Peer) -> Result {
        procfs::write(FILE, &format!("watch {}", peer.pid()))
    }

    /// Migrates pages of one VMA; returns how many pages the driver got.
    pub fn migrate(&self, migration: Migration, peer: &Peer, span: Span) -> Result<u64> {
        let word = migration.word();
        let line = format!("{word} {} {:x} {}", peer.pid(), span.addr, span.pages);
        procfs::write(FILE, &line)?;
        procfs::number(FILE)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        module::unload_beside(NAME);
    }
}
