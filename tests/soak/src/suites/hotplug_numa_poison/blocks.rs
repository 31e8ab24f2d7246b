// SPDX-License-Identifier: GPL-2.0

//! Blocks of memory that go offline with merged pages in them, and online again.
//!
//! Reference: Documentation/admin-guide/mm/memory-hotplug.rst.

use std::io::ErrorKind::Interrupted;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::knob;
use guest::memory::memory_block;
use guest::memory::memory_block::Block;
use guest::memory::pagemap::Frame;
use guest::process::task;
use guest::Context;
use guest::Result;

use crate::frames;
use crate::stage::Stage;

use super::nodes;

/// Lowest address of a memory module.
const ABOVE: u64 = 4 << 30;
/// How long the module may take to free a block that goes offline.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two attempts; pages are merged meanwhile.
const PAUSE: Duration = Duration::from_millis(400);

/// Why the suite cannot run here.
pub fn lacking() -> Option<String> {
    match all() {
        Ok(blocks) if blocks.is_empty() => {
            Some("no memory above 4 GiB that can be taken offline".to_owned())
        }
        Ok(_) => None,
        Err(failed) => Some(failed.message().unwrap_or("failed").to_owned()),
    }
}

/// Takes blocks offline and online again, until time is up: the blocks of the memory module, which
/// can go, and the block with the most merged frames, which those frames at least must leave.
pub fn off_and_on(stage: &Stage) -> Result {
    nodes::balance();
    let (blocks, mut rng) = (all()?, stage.rng());
    // The kernel moves movable pages, if it can take the block offline at all; the module breaks all others
    // apart in any case.
    let is_movable = rng.below(2) == 1;
    knob::set("movable", u8::from(is_movable))?;
    while stage.has_time() {
        std::thread::sleep(PAUSE);
        if let Some(block) = memory_block::fullest(&frames::merged()?)? {
            take_offline(stage, block, !is_movable)?;
            ensure_online(block)?;
        }
        let block = *rng.pick(&blocks);
        if !block.is_online()? {
            let how = *rng.pick(&["online_kernel", "online_kernel", "online_movable"]);
            if !bring_online(block, how)? {
                stage.tally.count("block kept offline by failed memory");
                std::thread::sleep(PAUSE);
                continue;
            }
            stage.tally.count(how);
        }
        std::thread::sleep(PAUSE);
        let has_to_go = !is_movable || block.is_movable()?;
        take_offline(stage, block, has_to_go)?;
    }
    blocks.into_iter().try_for_each(ensure_online)
}

/// All blocks above the lowest 4 GiB.
fn all() -> Result<Vec<Block>> {
    let first = Block::at(ABOVE)?;
    let blocks = std::iter::successors(Some(first), |block| Some(block.next()));
    Ok(blocks.take_while(|block| block.exists()).collect())
}

/// Takes a block offline. The first attempts may fail; the last one may fail only if merged pages may stay
/// in the block, like other users' pages.
fn take_offline(stage: &Stage, block: Block, have_to_go: bool) -> Result {
    let before = merged_in(block)?.len() as u64;
    stage
        .tally
        .add("merged frames in blocks to go offline", before);
    stage.tally.peak("most merged frames in a block", before);
    let mut attempts = 0;
    // Checked between two attempts: later, pages may be merged there again.
    let given_up = task::wait_until(GIVEN_UP_WITHIN, || {
        attempts += 1;
        let went = block.take_offline();
        if went
            .as_ref()
            .is_err_and(|error| error.kind() == Interrupted)
        {
            stage.tally.count("attempts that only a signal ended");
        }
        went.is_ok() || !have_to_go || is_left(block)
    });
    stage
        .tally
        .peak("most attempts to take a block offline", attempts);
    expect::that(given_up, || {
        format!(
            "merged frames of a block that is to go offline, after {attempts} attempts within \
             {GIVEN_UP_WITHIN:?}: expected none, found {:?}",
            merged_in(block).map(|merged| merged.len())
        )
    })?;
    stage.tally.count(match block.is_online()? {
        false => "offline",
        true => "kept online by others",
    });
    Ok(())
}

/// Waits a moment; returns whether the block has no merged frame.
fn is_left(block: Block) -> bool {
    std::thread::sleep(PAUSE);
    merged_in(block).is_ok_and(|merged| merged.is_empty())
}

/// Merged frames in a block; none if it is offline.
fn merged_in(block: Block) -> Result<Vec<Frame>> {
    let (range, mut merged) = (block.frames()?, frames::merged()?);
    merged.retain(|frame| range.contains(&frame.0));
    Ok(merged)
}

/// Brings a block online. Returns false if the kernel keeps it offline because memory failed.
fn bring_online(block: Block, how: &str) -> Result<bool> {
    match block.set_state(how) {
        Err(error) if error.raw_os_error() == Some(libc::EHWPOISON) => Ok(false),
        result => result.map(|()| true).context(|| format!("{block:?} {how}")),
    }
}

fn ensure_online(block: Block) -> Result {
    if !block.is_online()? {
        bring_online(block, "online")?;
    }
    Ok(())
}
