// SPDX-License-Identifier: GPL-2.0

//! Memory that is to go offline: what is merged there has to leave it.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use guest::content::Ids;
use guest::expect;
use guest::lab::Lab;
use guest::lab::Test;
use guest::pagemap::Frame;
use guest::pages;
use guest::peer::Peer;
use guest::peer::User;
use guest::procfs;
use guest::scanner;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = &[
    ("merged_pages_leave_memory_that_goes_offline", leave),
    (
        "a_merged_page_leaves_a_frame_that_goes_offline",
        leave_frame,
    ),
];

const PAGES: u64 = 8000;
const IDS: Ids = Ids::each(100);
const PATIENCE: Duration = Duration::from_secs(20);
/// For so long the module takes no frames of a block that was to go offline.
const BARRED_FOR: Duration = Duration::from_secs(10);

/// A block of memory, as `/sys/devices/system/memory` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Block(u64);

impl Block {
    fn of(frame: Frame) -> Result<Self> {
        let hex = procfs::read("/sys/devices/system/memory/block_size_bytes")?;
        let bytes = u64::from_str_radix(hex.trim(), 16).map_err(|error| error.to_string())?;
        Ok(Block(frame.0 * guest::content::PAGE_SIZE / bytes))
    }

    fn set_state(self, state: &str) -> Result {
        let path = format!("/sys/devices/system/memory/memory{}/state", self.0);
        procfs::write(&path, state)
    }
}

/// The block in which most of the frames are, and how many those are. Not the first one, which
/// belongs to two zones, so that the kernel does not even try.
fn fullest(frames: &[Frame]) -> Result<(Block, usize)> {
    let mut counts = HashMap::new();
    for &frame in frames {
        *counts.entry(Block::of(frame)?).or_insert(0) += 1;
    }
    counts.remove(&Block(0));
    let fullest = counts.into_iter().max_by_key(|&(_, count)| count);
    fullest.ok_or_else(|| "expected frames outside of the first block, found none".into())
}

fn in_block(peer: &Peer, span: Span, block: Block) -> Result<usize> {
    let mut count = 0;
    for frame in peer.frames(span)? {
        let merged = frame.flags()?.ksm();
        count += usize::from(merged && Block::of(frame)? == block);
    }
    Ok(count)
}

/// Whether the block can go offline is for all its users to say. The module must not be in the
/// way for longer than it takes to break what is merged there.
fn leave(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let (block, count) = fullest(&frames)?;
    let went = block.set_state("offline").is_ok();
    let start = Instant::now();
    while in_block(&a, in_a, block)? > 0 || in_block(&b, in_b, block)? > 0 {
        expect::that(start.elapsed() < PATIENCE, || {
            format!("{block:?}: expected its {count} merged pages to leave it, found some")
        })?;
    }
    for (&before, after) in frames.iter().zip(a.frames(in_a)?) {
        if Block::of(before)? != block {
            expect::eq("frame elsewhere", before, after)?;
        }
    }
    scanner::expect_exact_counts("after a block was left")?;
    // Where the block stays online after all, it is as good as any again.
    thread::sleep(BARRED_FOR);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)?;
    if went {
        block.set_state("online")?;
    }
    Ok(())
}

/// A frame that has begun to fail is taken out of use, at the second attempt if not at the first.
fn leave_frame(lab: &Lab) -> Result {
    const MADV_SOFT_OFFLINE: i32 = 101;
    let (a, b) = (lab.peer(User::Root)?, lab.peer(User::Root)?);
    let (in_a, in_b) = (a.anon(8, IDS)?, b.anon(8, IDS)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let went = a.advise(in_a.page(3), MADV_SOFT_OFFLINE).is_ok();
    let start = Instant::now();
    while a.frame(in_a, 3)? == frames[3] || b.frame(in_b, 3)? == frames[3] {
        expect::that(start.elapsed() < PATIENCE, || {
            format!(
                "{:?}: expected its sharers to leave it, found some",
                frames[3]
            )
        })?;
    }
    pages::expect_frames("beside", (&b, in_b.part(4, 4)), &frames[4..])?;
    let frame = format!("{:#x}", frames[3].0 * guest::content::PAGE_SIZE);
    if !went {
        procfs::write("/sys/devices/system/memory/soft_offline_page", &frame)?;
    }
    let flags = frames[3].flags()?;
    expect::that(flags.poisoned(), || {
        format!(
            "{:?}: expected to be out of use, found {flags:?}",
            frames[3]
        )
    })?;
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)?;
    scanner::expect_exact_counts("after a frame was left").map(drop)
}
