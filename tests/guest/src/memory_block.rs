// SPDX-License-Identifier: GPL-2.0

//! Blocks of memory, which are taken offline and online as a whole.
//!
//! Reference: Documentation/admin-guide/mm/memory-hotplug.rst.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::content::PAGE_SIZE;
use crate::pagemap::Frame;
use crate::procfs;
use crate::Context;
use crate::Result;

const DIRECTORY: &str = "/sys/devices/system/memory";

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

    /// Whether it is online.
    pub fn is_online(self) -> Result<bool> {
        Ok(procfs::read(&format!("{}/state", self.path()))?.trim() == "online")
    }

    /// Writes its state: `online`, `offline`, `online_kernel`, `online_movable`.
    pub fn set_state(self, state: &str) -> std::io::Result<()> {
        fs::write(format!("{}/state", self.path()), state)
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
