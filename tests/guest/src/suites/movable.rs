// SPDX-License-Identifier: GPL-2.0

//! Movable merged pages: the kernel can move them, swap them out, track whether they are used, and
//! find their mappings when memory fails.
//!
//! In each test, several processes share pages in different ways. After the kernel's operation they
//! must have the same contents, byte for byte, and share the pages unless the operation ends sharing.
//! With the knob `movable` at 0, the kernel can do none of this.

use guest::kernel::feature::Feature;
use guest::ksm_v::knob;
use guest::lab;
use guest::memory::content::Ids;
use guest::memory::memory_block::Block;
use guest::memory::numa;
use guest::memory::swap::Swap;
use guest::provoke::device::Device;
use guest::provoke::livepatch::Livepatch;
use guest::Context;
use guest::Result;
use libtest_mimic::Trial;

mod balancing;
mod compaction;
mod counts;
mod damon;
mod device;
mod group;
mod hibernation;
mod huge;
mod idle;
mod lazy;
mod limits;
mod livepatch;
mod migrate;
mod offline;
mod poison;
mod reclaim;
mod settings;
mod sharers;
mod storm;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let mut trials = lab::trials("movable", settings::TESTS);
    for (lacking, tests) in [
        (kept as Lacking, settings::MOVABLE_TESTS),
        (kept, compaction::TESTS),
        (kept, offline::TESTS),
        (kept, poison::TESTS),
        (no_balancing, balancing::TESTS),
        (no_device, device::TESTS),
        (no_livepatch, livepatch::TESTS),
        (no_nodes, migrate::TESTS),
        (no_nodes, sharers::TESTS),
        (no_nodes, counts::TESTS),
        (no_block, offline::BLOCKS),
        (no_disk, hibernation::TESTS),
        (no_swap, reclaim::TESTS),
        (no_swap, limits::TESTS),
        (no_swap, lazy::TESTS),
        (no_swap, storm::TESTS),
        (no_huge_pages, huge::TESTS),
        (no_marks, idle::TESTS),
        (no_damon, damon::TESTS),
    ] {
        trials.extend(lab::trials_unless(lacking, "movable", tests));
    }
    trials
}

/// Returns why tests cannot run here; `None` if they can.
type Lacking = fn() -> Result<Option<String>>;

/// The name of the knob.
const MOVABLE: &str = "movable";
/// The contents of shared pages.
const IDS: Ids = Ids::each(100);

/// Skips tests if the kernel cannot move merged pages. Otherwise makes new merged pages movable.
fn kept() -> Result<Option<String>> {
    match knob::try_write(MOVABLE, b"1\n") {
        Ok(()) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Ok(Some("this kernel cannot move merged pages".to_owned()))
        }
        Err(error) => Err(error).context(|| "writing 1 to movable"),
    }
}

/// Like [`kept`], but also checks for what `lacking` says is missing.
fn or_else(lacking: impl FnOnce() -> Option<String>) -> Result<Option<String>> {
    Ok(kept()?.or_else(lacking))
}

fn no_nodes() -> Result<Option<String>> {
    or_else(|| (!numa::are_two()).then(|| "the machine has only one node".to_owned()))
}

fn no_device() -> Result<Option<String>> {
    or_else(|| (!Device::exists()).then(|| "the guest has no device driver".to_owned()))
}

fn no_livepatch() -> Result<Option<String>> {
    or_else(|| (!Livepatch::exists()).then(|| "the guest has no livepatch".to_owned()))
}

fn no_balancing() -> Result<Option<String>> {
    Ok(no_nodes()?.or_else(balancing::lacking))
}

fn no_block() -> Result<Option<String>> {
    let blocks = Block::all_offline();
    or_else(|| match blocks {
        Ok(blocks) if !blocks.is_empty() => None,
        _ => Some("no memory is offline".to_owned()),
    })
}

fn no_swap() -> Result<Option<String>> {
    or_else(|| Swap::load_driver().err())
}

fn no_disk() -> Result<Option<String>> {
    Ok(no_nodes()?.or_else(hibernation::lacking))
}

fn no_huge_pages() -> Result<Option<String>> {
    or_else(|| Feature::HugePages.missing().map(str::to_owned))
}

fn no_marks() -> Result<Option<String>> {
    or_else(idle::lacking)
}

fn no_damon() -> Result<Option<String>> {
    or_else(damon::lacking)
}

/// Makes merged pages that are created while this exists unmovable.
struct Kept;

impl Kept {
    fn new() -> Result<Self> {
        knob::set(MOVABLE, 0)?;
        Ok(Kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if knob::set(MOVABLE, 1).is_err() {
            eprintln!("movable could not be restored");
        }
    }
}
