// SPDX-License-Identifier: GPL-2.0

//! Blocks of memory, which are taken offline and online as a whole.
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

use crate::content::PAGE_SIZE;
use crate::pagemap::Frame;
use crate::procfs;
use crate::Context;
use crate::Result;

const DIRECTORY: &str = "/sys/devices/system/memory";
/// For how long the kernel may try to take a block offline. It would try for ever where it has taken a
/// page for free that is not; the document says to send it a signal.
const PATIENCE: Duration = Duration::from_secs(20);

/// A block of memory, as the kernel numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block(u64);

impl Block {
    /// The block that an address of physical memory, in bytes, lies in. There need not be one.
    pub fn at(address: u64) -> Result<Self> {
        Ok(Block(address / Self::bytes()?))
    }

    /// The block of a frame.
    pub fn of(frame: Frame) -> Result<Self> {
        Self::at(frame.0 * PAGE_SIZE)
    }

    /// All that are offline now.
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

    /// The numbers of its frames.
    pub fn frames(self) -> Result<Range<u64>> {
        let count = Self::bytes()? / PAGE_SIZE;
        Ok(self.0 * count..(self.0 + 1) * count)
    }

    /// The next one. There need not be one.
    pub fn next(self) -> Self {
        Block(self.0 + 1)
    }

    /// Whether there is such a block.
    pub fn exists(self) -> bool {
        Path::new(&self.path()).exists()
    }

    /// Whether it has movable pages only, while it is online.
    pub fn is_movable(self) -> Result<bool> {
        Ok(procfs::read(&format!("{}/valid_zones", self.path()))?.starts_with("Movable"))
    }

    /// Whether it is online.
    pub fn is_online(self) -> Result<bool> {
        Ok(procfs::read(&format!("{}/state", self.path()))?.trim() == "online")
    }

    /// Writes its state: `online`, `online_kernel`, `online_movable`.
    pub fn set_state(self, state: &str) -> io::Result<()> {
        // In one call: what is interrupted must not be tried again.
        let mut file = File::options()
            .write(true)
            .open(format!("{}/state", self.path()))?;
        file.write(state.as_bytes()).map(drop)
    }

    /// Takes it offline, or gives up.
    pub fn take_offline(self) -> io::Result<()> {
        interrupted_after(PATIENCE, || self.set_state("offline"))
    }

    fn path(self) -> String {
        format!("{DIRECTORY}/memory{}", self.0)
    }

    /// How large each of them is.
    fn bytes() -> Result<u64> {
        let hex = procfs::read(&format!("{DIRECTORY}/block_size_bytes"))?;
        u64::from_str_radix(hex.trim(), 16).context(|| format!("{hex:?} is no number"))
    }
}

/// Does what a signal interrupts if it takes longer than `limit`.
fn interrupted_after(limit: Duration, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    extern "C" fn ignore(_: c_int) {}
    let handler = SigHandler::Handler(ignore);
    // Without SA_RESTART.
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

/// The block with the most of these frames, if any are in one that can go offline. The first one
/// belongs to two zones, so that the kernel does not even try.
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
