// SPDX-License-Identifier: GPL-2.0

//! Blocks of memory that are taken offline with merged pages in them, and online again.
//!
//! Reference: Documentation/admin-guide/mm/memory-hotplug.rst.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use guest::content::PAGE_SIZE;
use guest::expect;
use guest::pagemap::Frame;
use guest::procfs;
use guest::task;
use guest::Context;
use guest::Result;

use crate::frames;
use crate::stage::Stage;

use super::nodes;

const DIRECTORY: &str = "/sys/devices/system/memory";
/// Where a memory module begins at the lowest.
const ABOVE: u64 = 4 << 30;
/// Within which the module has to give up a block that is to go offline, once it knows.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(60);
/// Between two attempts, in which pages are merged.
const PAUSE: Duration = Duration::from_millis(400);

/// A block of memory that can be taken offline.
struct Block {
    path: String,
    first: u64,
    frames: u64,
}

/// Why the suite can't be run here.
pub fn lacking() -> Option<String> {
    match all() {
        Ok(blocks) if blocks.is_empty() => {
            Some("no memory above 4 GiB that can be taken offline".to_owned())
        }
        Ok(_) => None,
        Err(failed) => Some(failed.message().unwrap_or("failed").to_owned()),
    }
}

/// Takes blocks offline and online again, until time is up: those of the memory module, which may
/// well go, and that with the most merged frames, from which those have to go at least.
pub fn off_and_on(stage: &Stage) -> Result {
    nodes::balance();
    let (blocks, mut rng) = (all()?, stage.rng());
    while stage.has_time() {
        std::thread::sleep(PAUSE);
        if let Some(block) = fullest()? {
            block.once(stage)?;
            block.ensure_online()?;
        }
        let block = rng.pick(&blocks);
        if !block.is_online()? {
            let how = *rng.pick(&["online_kernel", "online_kernel", "online_movable"]);
            if !block.online(how)? {
                stage.tally.count("block kept offline by failed memory");
                std::thread::sleep(PAUSE);
                continue;
            }
            stage.tally.count(how);
        }
        std::thread::sleep(PAUSE);
        block.once(stage)?;
    }
    blocks.iter().try_for_each(Block::ensure_online)
}

/// All blocks above the lowest 4 GiB.
fn all() -> Result<Vec<Block>> {
    let size = hex(&procfs::read(&format!("{DIRECTORY}/block_size_bytes"))?)?;
    let (mut number, mut blocks) = (ABOVE / size, Vec::new());
    loop {
        let block = Block::of(number, size);
        if !Path::new(&block.path).exists() {
            return Ok(blocks);
        }
        blocks.push(block);
        number += 1;
    }
}

/// The block with the most merged frames, if there is any. Not the first one, which belongs to two
/// zones, so that the kernel does not even try.
fn fullest() -> Result<Option<Block>> {
    let size = hex(&procfs::read(&format!("{DIRECTORY}/block_size_bytes"))?)?;
    let mut counts = HashMap::new();
    for frame in frames::merged()? {
        *counts.entry(frame.0 * PAGE_SIZE / size).or_insert(0u64) += 1;
    }
    counts.remove(&0);
    let fullest = counts.into_iter().max_by_key(|&(_, count)| count);
    Ok(fullest.map(|(number, _)| Block::of(number, size)))
}

fn hex(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim(), 16).context(|| format!("{text:?} is no number"))
}

impl Block {
    /// The block of this number, of so many bytes.
    fn of(number: u64, size: u64) -> Self {
        Block {
            path: format!("{DIRECTORY}/memory{number}"),
            first: number * size / PAGE_SIZE,
            frames: size / PAGE_SIZE,
        }
    }

    /// Takes it offline, which at first may fail.
    fn once(&self, stage: &Stage) -> Result {
        let merged = self.merged()?.len() as u64;
        stage
            .tally
            .add("merged frames in blocks to go offline", merged);
        stage.tally.peak("most merged frames in a block", merged);
        let mut attempts = 0;
        // Looked at between two attempts: later, pages may be merged there again.
        let given_up = task::wait_until(GIVEN_UP_WITHIN, || {
            attempts += 1;
            self.offline().is_ok() || self.is_left()
        });
        stage
            .tally
            .peak("most attempts to take a block offline", attempts);
        expect::that(given_up, || {
            format!(
                "merged frames of a block that is to go offline, after {attempts} attempts within \
                 {GIVEN_UP_WITHIN:?}: expected none, found {:?}",
                self.merged().map(|merged| merged.len())
            )
        })?;
        if !self.is_online()? {
            stage.tally.count("offline");
            return Ok(());
        }
        stage.tally.count("kept online by others");
        Ok(())
    }

    /// Whether a moment later no merged frame is in it.
    fn is_left(&self) -> bool {
        std::thread::sleep(PAUSE);
        self.merged().is_ok_and(|merged| merged.is_empty())
    }

    /// Merged frames in it. An offline block has none.
    fn merged(&self) -> Result<Vec<Frame>> {
        let range = self.first..self.first + self.frames;
        let mut merged = frames::merged()?;
        merged.retain(|frame| range.contains(&frame.0));
        Ok(merged)
    }

    fn offline(&self) -> std::io::Result<()> {
        fs::write(format!("{}/state", self.path), "offline")
    }

    fn is_online(&self) -> Result<bool> {
        let state = procfs::read(&format!("{}/state", self.path))?;
        Ok(state.trim() == "online")
    }

    /// Brings it online. False where memory in it has failed, which the kernel keeps offline then.
    fn online(&self, how: &str) -> Result<bool> {
        let path = format!("{}/state", self.path);
        match fs::write(&path, how) {
            Err(error) if error.raw_os_error() == Some(libc::EHWPOISON) => Ok(false),
            result => result
                .map(|()| true)
                .context(|| format!("writing {how:?} to {path}")),
        }
    }

    fn ensure_online(&self) -> Result {
        if !self.is_online()? {
            self.online("online")?;
        }
        Ok(())
    }
}
