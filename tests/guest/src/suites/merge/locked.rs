// SPDX-License-Identifier: GPL-2.0

//! VMAs that are write-locked when the scanner reaches them.

use guest::expect;
use guest::ksm_v::debugfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::process::fuse::Stuck;
use guest::process::task;
use guest::process::task::PATIENCE;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    a_locked_area_is_come_back_to_in_the_same_pass,
    a_locked_area_is_waited_for_seven_times_a_pass,
];

/// How often the VMA is unlocked while a pass waits for it. A guest that gets no CPU time for an
/// eighth of a second at that moment unlocks it too late for the pass.
const ATTEMPTS: usize = 40;
/// How often a pass returns to a place.
const TIMES: u64 = 7;

/// The number of VMAs that were skipped because they were locked.
fn left_out() -> Result<u64> {
    Ok(debugfs::refusals()?.remove("locked").unwrap_or(0))
}

/// Makes the scanner run one pass at a time.
fn settle() -> Result {
    scanner::stop()?;
    knob::set("sleep_ms", scanner::UNTIL_TOLD_MS)
}

/// Unlocks the VMA while a pass waits for it; returns the number of pages that the pass merged: the
/// pairs, and perhaps a page or two that the process inherited from its parent.
fn merged_as_it_is_let_go() -> Result<u64> {
    let mut stuck = Stuck::start_with_locked_pairs()?;
    let before = knob::number("pages_sharing")?;
    let pauses = scanner::record_pauses()?;
    let target = knob::number("full_scans")? + 1;
    scanner::start()?;
    let waits = || pauses.count().is_ok_and(|count| count > 0);
    let is_waiting = task::wait_until(PATIENCE, waits);
    stuck.release();
    scanner::wait_until_pass(target)?;
    scanner::stop()?;
    expect::that(is_waiting, || {
        "expected the scanner to wait for a locked VMA"
    })?;
    Ok(knob::number("pages_sharing")? - before)
}

fn a_locked_area_is_come_back_to_in_the_same_pass(_lab: &Lab) -> Result {
    settle()?;
    for _ in 0..ATTEMPTS {
        if merged_as_it_is_let_go()? >= Stuck::PAIRS as u64 {
            return Ok(());
        }
    }
    Err(format!("expected the pages to be merged in one of {ATTEMPTS} passes").into())
}

fn a_locked_area_is_waited_for_seven_times_a_pass(_lab: &Lab) -> Result {
    settle()?;
    let _stuck = Stuck::start_with_locked_pairs()?;
    for _ in 0..3 {
        let (before, sharing) = (left_out()?, knob::number("pages_sharing")?);
        let pauses = scanner::record_pauses()?;
        scanner::passes(1)?;
        let waits = scanner::ticks(&pauses)?;
        // The longest pause is the one at the end of the pass; later pauses belong to the stopped
        // scanner.
        let longest = waits.iter().max();
        let in_pass = waits.iter().position(|wait| Some(wait) == longest);
        expect::eq("pauses in a pass", Some(TIMES as usize), in_pass)?;
        expect::within("skipped VMAs", before + 1..=u64::MAX, left_out()?)?;
        let merged = knob::number("pages_sharing")? - sharing;
        expect::within("pages merged", 0..=Stuck::PAIRS as u64 - 1, merged)?;
    }
    Ok(())
}
