// SPDX-License-Identifier: GPL-2.0

//! Memory blocks, which are taken offline and online as a whole.
//!
//! Reference: Documentation/admin-guide/mm/memory-hotplug.rst.

use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError::Timeout;
use std::thread;
use std::time::Duration;

use nix::libc::c_int;
use nix::sys::pthread::pthread_kill;
use nix::sys::pthread::pthread_self;
use nix::sys::signal::sigaction;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;

use crate::kernel::procfs;
use crate::memory::content::PAGE_SIZE;
use crate::memory::pagemap::Frame;
use crate::Context;
use crate::Result;

const DIRECTORY: &str = "/sys/devices/system/memory";
/// How long the kernel may try to take a block offline. It retries for ever if it mistakes a page in
/// use for a free one; its documentation recommends a signal to end this.
const PATIENCE: Duration = Duration::from_secs(20);

/// A memory block, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block(u64);

impl Block {
    /// The block that contains a physical address. The block need not exist.
    pub fn at(address: u64) -> Result<Self> {
        Ok(Block(address / Self::bytes()?))
    }

    /// The block that contains a frame.
    pub fn of(frame: Frame) -> Result<Self> {
        Self::at(frame.0 * PAGE_SIZE)
    }

    /// All blocks that are offline now.
    pub fn all_offline() -> Result<Vec<Self>> {
        let entries = fs::read_dir(DIRECTORY).context(|| DIRECTORY)?;
        let number = |entry: io::Result<fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_prefix("memory")?.parse().ok()
        };
        let mut blocks: Vec<Block> = entries.filter_map(number).map(Block).collect();
        blocks.sort_by_key(|block| block.0);
        blocks.retain(|block| block.is_online().is_ok_and(|online| !online));
        Ok(blocks)
    }

    /// The frame numbers of the block.
    pub fn frames(self) -> Result<Range<u64>> {
        let count = Self::bytes()? / PAGE_SIZE;
        Ok(self.0 * count..(self.0 + 1) * count)
    }

    /// The next block, which need not exist.
    pub fn next(self) -> Self {
        Block(self.0 + 1)
    }

    /// Returns whether the block exists.
    pub fn exists(self) -> bool {
        Path::new(&self.path()).exists()
    }

    /// Returns whether the block contains movable pages only. The block must be online.
    pub fn is_movable(self) -> Result<bool> {
        Ok(procfs::read(&format!("{}/valid_zones", self.path()))?.starts_with("Movable"))
    }

    /// Returns whether the block is online.
    pub fn is_online(self) -> Result<bool> {
        Ok(procfs::read(&format!("{}/state", self.path()))?.trim() == "online")
    }

    /// Writes to its state file: `online`, `online_kernel`, `online_movable` or `offline`.
    pub fn set_state(self, state: &str) -> io::Result<()> {
        // A single write: an interrupted write must not be retried.
        let mut file = File::options()
            .write(true)
            .open(format!("{}/state", self.path()))?;
        file.write(state.as_bytes()).map(drop)
    }

    /// Takes the block offline, or gives up after a while.
    pub fn take_offline(self) -> io::Result<()> {
        interrupted_after(PATIENCE, || self.set_state("offline"))
    }

    fn path(self) -> String {
        format!("{DIRECTORY}/memory{}", self.0)
    }

    /// The size of a block.
    fn bytes() -> Result<u64> {
        let hex = procfs::read(&format!("{DIRECTORY}/block_size_bytes"))?;
        u64::from_str_radix(hex.trim(), 16).context(|| format!("{hex:?} is no number"))
    }
}

/// Runs `act`, and interrupts it with a signal if it takes longer than `limit`.
fn interrupted_after(limit: Duration, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    extern "C" fn ignore(_: c_int) {}
    let handler = SigHandler::Handler(ignore);
    // Without SA_RESTART, so that the signal interrupts the system call.
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: The handler does nothing.
    unsafe { sigaction(Signal::SIGALRM, &action) }?;
    let (actor, (done, watched)) = (pthread_self(), mpsc::channel::<()>());
    thread::scope(|scope| {
        scope.spawn(move || {
            while watched.recv_timeout(limit) == Err(Timeout) {
                let _ = pthread_kill(actor, Signal::SIGALRM);
            }
        });
        let result = act();
        drop(done);
        result
    })
}

/// The block that contains the most of these frames; `None` if no frame is in a block that can go
/// offline. Block 0 is excluded: it spans two zones, and the kernel refuses to take it offline.
pub fn fullest(frames: &[Frame]) -> Result<Option<Block>> {
    let (bytes, mut counts) = (Block::bytes()?, HashMap::new());
    for frame in frames {
        let block = Block(frame.0 * PAGE_SIZE / bytes);
        *counts.entry(block).or_insert(0u64) += 1;
    }
    counts.remove(&Block(0));
    let fullest = counts.into_iter().max_by_key(|&(_, count)| count);
    Ok(fullest.map(|(block, _)| block))
}
