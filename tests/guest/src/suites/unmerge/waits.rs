// SPDX-License-Identifier: GPL-2.0

//! What an unmerge does not wait for.

use std::process::ExitStatus;
use std::time::Duration;

use guest::expect;
use guest::kernel::probe;
use guest::kernel::probe::CallCount;
use guest::ksm_v::debugfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::ksm_v::scanner::Counts;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::pages;
use guest::process::fuse::Discarder;
use guest::process::fuse::Stuck;
use guest::process::task;
use guest::tests;
use guest::Result;

use super::expect_nothing_merged;
use super::expect_unmerged;
use super::merged_pair;
use super::writer::Writer;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    waits_for_no_process_that_waits_itself,
    waits_for_no_file_system,
];

/// A process waits for a file system that does not answer, and holds its mmap lock meanwhile.
fn waits_for_no_process_that_waits_itself(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    let stuck = Stuck::start()?;
    let refused = || -> Result<u64> { Ok(debugfs::refusals()?.remove("locked").unwrap_or(0)) };
    let (before, sharing) = (refused()?, knob::number("pages_sharing")?);
    scanner::passes(scanner::ENOUGH_PASSES)?;
    expect::within("locked VMAs", before + 1..=u64::MAX, refused()?)?;
    // A locked VMA does not hide other VMAs. A page or two that the process inherited from its parent
    // may be merged, too.
    let pairs = Stuck::PAIRS as u64;
    expect::within(
        "pages_sharing",
        sharing + pairs..=sharing + pairs + 2,
        knob::number("pages_sharing")?,
    )?;
    let now = knob::try_write(knob::WRITE_ONLY, stuck.pid().to_string().as_bytes());
    expect::errno("merge_now", libc::EAGAIN, now)?;
    let mut first = Writer::start("2")?;
    let begun = task::wait_until(task::PATIENCE, || {
        pages::expect_not_merged((&a, in_a)).is_ok()
    });
    expect::that(begun, || "run=2: expected to go on with other processes")?;
    // Other writers wait for this one meanwhile, and can be killed.
    let mut second = Writer::start("0")?;
    task::wait_until(Duration::from_secs(1), || second.sleeps());
    second.kill()?;
    let killed = second.wait()?;
    expect::that(killed.is_some(), || "run=0: expected to end when killed")?;
    let first_ended = first.ended()?;
    expect::that(first_ended.is_none(), || {
        "run=2: expected to try again for a while"
    })?;
    expect_success(first.wait()?)?;
    expect_nothing_merged_but(&stuck)?;
    drop(stuck);
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

/// Like [`expect_nothing_merged`], but checks only the counts: the page tables of a blocked process
/// cannot be read.
fn expect_nothing_merged_but(_stuck: &Stuck) -> Result {
    let zero = Counts {
        shared: 0,
        sharing: 0,
        zero: 0,
    };
    expect::eq("counts after run=2", zero, Counts::read()?)
}

/// A process discards merged pages of a private mapping while they are unmerged. The unmerge must not
/// read the mapped file, since the file system does not answer.
fn waits_for_no_file_system(_lab: &Lab) -> Result {
    let discarder = Discarder::start()?;
    scanner::merge()?;
    let sharing = knob::number("pages_sharing")?;
    expect::within(
        "pages_sharing",
        Discarder::PAIRS as u64 * 9 / 10..=u64::MAX,
        sharing,
    )?;
    // Slow down page faults, so that a page can be discarded before the fault that would unmerge it.
    let faults = probe::is_possible()
        .then(|| CallCount::start("handle_mm_fault"))
        .transpose()?;
    faults.as_ref().map_or(Ok(()), CallCount::slow_down)?;
    discarder.lie_in_wait()?;
    let mut writer = Writer::start("2")?;
    let status = writer.wait()?;
    // The daemon answers now at the latest.
    drop(discarder);
    writer.wait()?;
    expect::that(status.is_some(), || {
        "run=2: expected not to wait for a file system"
    })?;
    expect_success(status)?;
    expect_nothing_merged()
}

/// Expects that a writer of `run` has succeeded.
fn expect_success(status: Option<ExitStatus>) -> Result {
    let is_success = status.is_some_and(|status| status.success());
    expect::that(is_success, || {
        format!("run=2: expected success, found {status:?}")
    })
}
