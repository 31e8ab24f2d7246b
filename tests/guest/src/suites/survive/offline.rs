// SPDX-License-Identifier: GPL-2.0

//! Memory that goes offline: merged pages have to leave it.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::memory_block;
use guest::memory::memory_block::Block;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task::PATIENCE;
use guest::tests;
use guest::Context;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    merged_pages_leave_memory_that_goes_offline,
    a_merged_page_leaves_a_frame_that_goes_offline,
];

const PAGES: u64 = 8000;
const IDS: Ids = Ids::each(100);
/// The time for which the module does not use frames of a block that was to go offline.
const BARRED_FOR: Duration = Duration::from_secs(10);

fn in_block(peer: &Peer, span: Span, block: Block) -> Result<usize> {
    let (range, mut count) = (block.frames()?, 0);
    for frame in peer.frames(span)? {
        count += usize::from(range.contains(&frame.0) && frame.flags()?.ksm());
    }
    Ok(count)
}

/// Whether the block can go offline depends on all its users. The module must not block it for longer
/// than it takes to unmerge its unmovable pages.
fn merged_pages_leave_memory_that_goes_offline(lab: &Lab) -> Result {
    knob::set("movable", 0)?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let block = memory_block::fullest(&frames)?
        .ok_or("expected frames outside of the first block, found none")?;
    let went = block.take_offline().is_ok();
    let start = Instant::now();
    loop {
        let left = in_block(&a, in_a, block)? + in_block(&b, in_b, block)?;
        if left == 0 {
            break;
        }
        expect::that(start.elapsed() < PATIENCE, || {
            format!("merged pages of {block:?}, that is to go offline: expected 0, found {left}")
        })?;
    }
    for (&before, after) in frames.iter().zip(a.frames(in_a)?) {
        if Block::of(before)? != block {
            expect::eq("frame elsewhere", before, after)?;
        }
    }
    scanner::expect_exact_counts("after a block was left")?;
    // If the block stays online, the module uses it again after this time.
    thread::sleep(BARRED_FOR);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)?;
    if went {
        block
            .set_state("online")
            .context(|| format!("{block:?} online again"))?;
    }
    Ok(())
}

/// Soft-offlining takes a frame out of use, at the second attempt at the latest.
fn a_merged_page_leaves_a_frame_that_goes_offline(lab: &Lab) -> Result {
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
    let frame = format!("{:#x}", frames[3].0 * PAGE_SIZE);
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
