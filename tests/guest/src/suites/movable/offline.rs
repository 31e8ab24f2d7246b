// SPDX-License-Identifier: GPL-2.0

//! Memory that goes offline: failing frames, and whole memory blocks.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::PAGE_SIZE;
use guest::memory::memory_block::Block;
use guest::memory::numa;
use guest::memory::pagemap::Frame;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

use super::group::changed;
use super::group::Group;
use super::Kept;

pub(super) const TESTS: &[Test] = tests![
    soft_offlining_moves_shared_pages,
    soft_offlining_breaks_others_apart,
];

pub(super) const BLOCKS: &[Test] = tests![shared_pages_leave_a_block_together];

const PAGES: u64 = 256;
const MADV_SOFT_OFFLINE: i32 = 101;

fn expect_poisoned(frame: Frame) -> Result {
    let flags = frame.flags()?;
    expect::that(flags.poisoned(), || {
        format!("{frame:?}: expected to be out of use, found {flags:?}")
    })
}

/// Works at the first attempt, whichever sharer makes it.
fn soft_offlining_moves_shared_pages(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    let mut frames = group.expect_shared("at first")?;
    for (who, index) in [(0, 5), (1, 70), (1, PAGES - 3), (2, 9)] {
        let sharer = &group.sharers[who];
        let before = frames[index as usize];
        sharer.peer.advise(sharer.page(index), MADV_SOFT_OFFLINE)?;
        expect_poisoned(before)?;
        let after = group.expect_intact("after MADV_SOFT_OFFLINE")?;
        expect::ne("frame", before, after[index as usize])?;
        expect::eq("pages that moved", 1, changed(&frames, &after))?;
        frames = after;
    }
    let address = frames[33].0 * PAGE_SIZE;
    let file = "/sys/devices/system/memory/soft_offline_page";
    procfs::write(file, &format!("{address:#x}"))?;
    expect_poisoned(frames[33])?;
    let after = group.expect_intact("after soft_offline_page")?;
    expect::eq("pages that moved", 1, changed(&frames, &after))?;
    scanner::expect_exact_counts("after frames were taken out of use").map(drop)
}

/// The module makes all sharers leave the frame; each gets its own copy.
fn soft_offlining_breaks_others_apart(lab: &Lab) -> Result {
    let _kept = Kept::new()?;
    let group = Group::mixed(lab, PAGES)?;
    let frames = group.expect_shared("at first")?;
    let frame_of = |who: usize| {
        let sharer = &group.sharers[who];
        sharer.peer.frame(sharer.page(5), 0)
    };
    let sharer = &group.sharers[0];
    // The kernel decides whether it succeeds at once.
    let _ = sharer.peer.advise(sharer.page(5), MADV_SOFT_OFFLINE);
    let left = || (0..3).all(|who| frame_of(who).is_ok_and(|frame| frame != frames[5]));
    expect::that(task::wait_until(task::PATIENCE, left), || {
        format!("{:?}: expected all sharers to leave it", frames[5])
    })?;
    let [a, b, c] = [frame_of(0)?, frame_of(1)?, frame_of(2)?];
    expect::that(a != b && b != c && a != c, || {
        format!("expected a separate frame for each sharer, found {a:?}, {b:?}, {c:?}")
    })?;
    group.check("after MADV_SOFT_OFFLINE")
}

/// The number of frames in a block.
fn in_block(frames: &[Frame], block: Block) -> Result<usize> {
    let range = block.frames()?;
    let inside = frames.iter().filter(|frame| range.contains(&frame.0));
    Ok(inside.count())
}

/// Makes the kernel move pages until some are in the block; returns their frames.
fn fill_block(group: &Group, block: Block) -> Result<Vec<Frame>> {
    let mut frames = group.expect_shared("at first")?;
    for node in [0, 1] {
        if in_block(&frames, block)? > 0 || !numa::are_two() {
            break;
        }
        group.move_all(0, 1 - node)?;
        group.move_all(0, node)?;
        frames = group.expect_shared("moved")?;
    }
    expect::that(in_block(&frames, block)? > 0, || {
        format!("shared pages in {block:?}: expected some, found none")
    })?;
    Ok(frames)
}

/// Takes a block offline, with several attempts in case the kernel holds a page for a moment.
fn take_offline(block: Block) -> Result {
    const ATTEMPTS: u32 = 5;
    let mut went = block.take_offline();
    for _ in 1..ATTEMPTS {
        if went.is_ok() {
            break;
        }
        went = block.take_offline();
    }
    went.context(|| format!("{block:?} offline"))
}

fn shared_pages_leave_a_block_together(lab: &Lab) -> Result {
    let blocks = Block::all_offline()?;
    let block = *blocks.first().ok_or("no block is offline")?;
    // The zone Movable holds only pages that can move away.
    let online = || block.set_state("online_movable");
    online().context(|| format!("{block:?} online"))?;
    let group = Group::mixed(lab, 4 * PAGES)?;
    let frames = fill_block(&group, block)?;
    let before = scanner::Counts::read()?;
    take_offline(block)?;
    let after = group.expect_intact("after a block went offline")?;
    expect::eq("shared pages in the block", 0, in_block(&after, block)?)?;
    for (before, after) in frames.iter().zip(&after) {
        if Block::of(*before)? != block {
            expect::eq("frame elsewhere", before, after)?;
        }
    }
    expect::eq("counts", before, scanner::Counts::read()?)?;
    scanner::expect_exact_counts("after a block went offline").map(drop)
}
