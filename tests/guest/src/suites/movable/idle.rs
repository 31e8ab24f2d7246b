// SPDX-License-Identifier: GPL-2.0

//! Idle page tracking: the kernel checks the page tables of all sharers of a page.
//!
//! Reference: Documentation/admin-guide/mm/idle_page_tracking.rst.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use guest::expect;
use guest::kernel::procfs;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::tests;
use guest::Context;
use guest::Result;

use super::group::Group;
use super::group::Sharer;

pub(super) const TESTS: &[Test] = tests![used_pages_are_told_from_idle_ones];

pub(super) const BITMAP: &str = "/sys/kernel/mm/page_idle/bitmap";

const PAGES: u64 = 128;
/// Unmapping this many pages flushes the whole TLB.
const FLUSHED: u64 = 64;

/// The index of the bitmap word that contains a frame's bit, and the bit.
fn place(frame: Frame) -> (u64, u64) {
    (frame.0 / 64 * 8, 1 << (frame.0 % 64))
}

fn bitmap() -> Result<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).open(BITMAP);
    file.context(|| BITMAP)
}

fn mark_idle(frames: &[Frame]) -> Result {
    let file = bitmap()?;
    for &frame in frames {
        let (offset, bit) = place(frame);
        let written = file.write_all_at(&bit.to_ne_bytes(), offset);
        written.context(|| format!("marking {frame:?}"))?;
    }
    Ok(())
}

fn is_idle(frame: Frame) -> Result<bool> {
    let ((offset, bit), mut bytes) = (place(frame), [0; 8]);
    let read = bitmap()?.read_exact_at(&mut bytes, offset);
    read.context(|| format!("reading the mark of {frame:?}"))?;
    Ok(u64::from_ne_bytes(bytes) & bit != 0)
}

/// Flushes the TLB entries of the process: with a cached entry, the CPU would not set the accessed
/// bit again.
fn flush(sharer: &Sharer) -> Result {
    let span = sharer.peer.anon(FLUSHED, Ids::each(1 << 30))?;
    sharer.peer.unmap(span)
}

fn used_pages_are_told_from_idle_ones(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    // Pages wait in per-CPU batches before they are added to the LRU lists; this drains the batches.
    procfs::write("/proc/sys/vm/drop_caches", "1")?;
    let frames = group.expect_intact("at first")?;
    for who in 0..group.sharers.len() {
        let sharer = &group.sharers[who];
        mark_idle(&frames)?;
        flush(sharer)?;
        for &frame in &frames {
            expect::that(is_idle(frame)?, || {
                format!("{frame:?}: expected to be idle")
            })?;
        }
        let used = |index: u64| (index + who as u64) % 3 == 0;
        for index in (0..PAGES).filter(|&index| used(index)) {
            sharer.peer.peek(sharer.page(index).addr)?;
        }
        let mut wrong = Vec::new();
        for (index, &frame) in (0..).zip(&frames) {
            if is_idle(frame)? == used(index) {
                wrong.push(index);
            }
        }
        expect::eq(
            format!("idle state of the pages of process {who}"),
            Vec::new(),
            wrong,
        )?;
    }
    group.expect_in_place("at last", &frames)
}

/// Returns a reason if the kernel does not track idle pages.
pub(super) fn lacking() -> Option<String> {
    (!Path::new(BITMAP).exists()).then(|| "the kernel does not track idle pages".to_owned())
}
