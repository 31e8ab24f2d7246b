// SPDX-License-Identifier: GPL-2.0

//! Compaction: pages move away from the low end of memory, so that whole blocks become free.

use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pagemap::Frame;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::tests;
use guest::Result;
use guest::Span;

use super::group::changed;
use super::group::Group;
use super::Kept;

pub(super) const TESTS: &[Test] = tests![
    compaction_moves_shared_pages,
    compaction_leaves_others_in_place,
];

/// More pages than the module has spare frames, so that some frames come from holes.
const PAGES: u64 = 1024;
/// Attempts until a page moves: all shared pages may happen to be where compaction moves pages to.
const ATTEMPTS: u32 = 4;
/// The fraction of free memory (one in `PART`) that is filled to create holes.
const PART: u64 = 4;

fn compact() -> Result {
    procfs::write("/proc/sys/vm/compact_memory", "1")
}

/// A process with unmerged memory that leaves holes between its frames.
fn holes(lab: &Lab) -> Result<(Peer, Span)> {
    let peer = lab.alice()?;
    peer.set_dumpable(false)?;
    let free = procfs::number_in("/proc/meminfo", "MemFree")? * 1024 / PAGE_SIZE;
    let span = peer.map(Kind::Anon, free / PART)?;
    peer.keep_small(span)?;
    peer.touch(span)?;
    peer.perforate(span)?;
    Ok((peer, span))
}

/// Compacts memory with holes, and the memory that the holes leave.
fn compact_holes(lab: &Lab) -> Result {
    let (peer, span) = holes(lab)?;
    compact()?;
    peer.unmap(span)?;
    compact()
}

/// A group whose frames are in former holes, and these frames.
fn group_in_holes(lab: &Lab) -> Result<(Group, Vec<Frame>)> {
    let (_peer, _) = holes(lab)?;
    let group = Group::mixed(lab, PAGES)?;
    let frames = group.expect_shared("at first")?;
    Ok((group, frames))
}

fn compaction_moves_shared_pages(lab: &Lab) -> Result {
    for _ in 0..ATTEMPTS {
        let (group, frames) = group_in_holes(lab)?;
        compact_holes(lab)?;
        let after = group.expect_intact("after compaction")?;
        scanner::expect_exact_counts("after compaction")?;
        if changed(&frames, &after) > 0 {
            return Ok(());
        }
    }
    Err("pages that moved: expected some, found none".into())
}

fn compaction_leaves_others_in_place(lab: &Lab) -> Result {
    let _kept = Kept::new()?;
    let (group, frames) = group_in_holes(lab)?;
    compact_holes(lab)?;
    group.expect_in_place("after compaction", &frames)
}
