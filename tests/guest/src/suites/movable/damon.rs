// SPDX-License-Identifier: GPL-2.0

//! DAMON samples whether physical pages are used, and must see each use of a shared page:
//! `DAMON_RECLAIM` chooses the pages to swap out by these samples.
//!
//! Reference: Documentation/admin-guide/mm/damon/usage.rst.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use guest::expect;
use guest::kernel::procfs;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pagemap::Frame;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

use super::group::Group;

pub(super) const TESTS: &[Test] = tests![damon_sees_who_uses_shared_pages];

pub(super) const DIRECTORY: &str = "/sys/kernel/mm/damon/admin/kdamonds";
/// The knob of the kernel's own monitor, which excludes others while it runs.
const STAT: &str = "/sys/module/damon_stat/parameters/enabled";

const PAGES: u64 = 64;
/// One in this number of pages is used by one of the sharers.
const USED_EVERY: usize = 4;
/// Unmapping this many pages flushes the whole TLB.
const FLUSHED: u64 = 64;

/// DAMON monitors some frames while this exists.
struct Monitor;

impl Monitor {
    fn start(frames: &[Frame]) -> Result<Self> {
        if Path::new(STAT).exists() {
            procfs::write(STAT, "N")?;
        }
        write("nr_kdamonds", "1")?;
        let monitor = Monitor;
        write("0/contexts/nr_contexts", "1")?;
        context("operations", "paddr")?;
        context("monitoring_attrs/intervals/sample_us", "50000")?;
        context("monitoring_attrs/intervals/aggr_us", "1000000")?;
        context("monitoring_attrs/nr_regions/max", "1000")?;
        context("targets/nr_targets", "1")?;
        let count = frames.len().to_string();
        context("targets/0/regions/nr_regions", &count)?;
        for (index, frame) in frames.iter().enumerate() {
            let start = frame.0 * PAGE_SIZE;
            let end = start + PAGE_SIZE;
            context(
                &format!("targets/0/regions/{index}/start"),
                &start.to_string(),
            )?;
            context(&format!("targets/0/regions/{index}/end"), &end.to_string())?;
        }
        context("schemes/nr_schemes", "1")?;
        context("schemes/0/action", "stat")?;
        for of in ["sz", "nr_accesses", "age"] {
            let most = u32::MAX.to_string();
            context(&format!("schemes/0/access_pattern/{of}/max"), &most)?;
        }
        write("0/state", "on")?;
        Ok(monitor)
    }

    /// The number of accesses that DAMON saw on each frame in the last aggregation interval.
    fn accesses(&self) -> Result<BTreeMap<Frame, u64>> {
        write("0/state", "update_schemes_tried_regions")?;
        let regions = format!("{DIRECTORY}/0/contexts/0/schemes/0/tried_regions");
        let mut accesses = BTreeMap::new();
        for entry in std::fs::read_dir(&regions).context(|| regions.clone())? {
            let path = entry.context(|| regions.clone())?.path();
            if !path.is_dir() {
                continue;
            }
            let number = |name: &str| procfs::number(&format!("{}/{name}", path.display()));
            accesses.insert(Frame(number("start")? / PAGE_SIZE), number("nr_accesses")?);
        }
        Ok(accesses)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = write("0/state", "off");
        if write("nr_kdamonds", "0").is_err() {
            eprintln!("DAMON could not be stopped");
        }
    }
}

fn write(file: &str, text: &str) -> Result {
    procfs::write(&format!("{DIRECTORY}/{file}"), text)
}

fn context(file: &str, text: &str) -> Result {
    write(&format!("0/contexts/0/{file}"), text)
}

/// Each sharer uses some pages all the time; nobody uses the others.
fn damon_sees_who_uses_shared_pages(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    // Pages wait in per-CPU batches before they are added to the LRU lists; this drains the batches.
    procfs::write("/proc/sys/vm/drop_caches", "1")?;
    let frames = group.expect_intact("at first")?;
    let watched = apart(&frames);
    let monitor = Monitor::start(&watched)?;
    let mut wrong: Result<Vec<usize>> = Err("DAMON reported nothing".into());
    let seen = task::wait_until(task::PATIENCE, || {
        wrong = accesses_while_used(&group, &monitor).and_then(|accesses| {
            expect::eq("frames seen", watched.len(), accesses.len())?;
            Ok(misjudged(&frames, &accesses))
        });
        wrong.as_ref().is_ok_and(Vec::is_empty)
    });
    expect::that(seen, || {
        format!("pages wrongly reported as used or unused: {wrong:?} of {PAGES}")
    })?;
    drop(monitor);
    group.expect_in_place("at last", &frames)
}

fn is_used(index: usize) -> bool {
    index % USED_EVERY == 0
}

/// Sorted frames without neighbours: DAMON would join two adjacent frames with equal accesses.
fn apart(frames: &[Frame]) -> Vec<Frame> {
    let sorted: BTreeSet<Frame> = frames.iter().copied().collect();
    let mut apart: Vec<Frame> = Vec::new();
    for frame in sorted {
        if apart.last().is_none_or(|last| frame.0 > last.0 + 1) {
            apart.push(frame);
        }
    }
    apart
}

/// The pages reported as used that are not, and the other way round.
fn misjudged(frames: &[Frame], accesses: &BTreeMap<Frame, u64>) -> Vec<usize> {
    let is_wrong = |&(index, frame): &(usize, &Frame)| {
        let count = accesses.get(frame);
        count.is_some_and(|&count| (count > 0) != is_used(index))
    };
    let wrong = frames.iter().enumerate().filter(is_wrong);
    wrong.map(|(index, _)| index).collect()
}

/// The accesses that DAMON reports while each of these pages is used all the time by one sharer.
fn accesses_while_used(group: &Group, monitor: &Monitor) -> Result<BTreeMap<Frame, u64>> {
    thread::scope(|scope| {
        let seen = scope.spawn(|| monitor.accesses());
        while !seen.is_finished() {
            use_once(group)?;
        }
        seen.join()
            .map_err(|_| "the thread of the monitor panicked")?
    })
}

fn use_once(group: &Group) -> Result {
    for (who, sharer) in group.sharers.iter().enumerate() {
        // Flush the TLB: with a cached entry, the CPU would not set the accessed bit again.
        let span = sharer.peer.anon(FLUSHED, Ids::each(1 << 30))?;
        sharer.peer.unmap(span)?;
        let used = (0..PAGES as usize).filter(|&index| is_used(index));
        for index in used.skip(who).step_by(group.sharers.len()) {
            sharer.peer.peek(sharer.page(index as u64).addr)?;
        }
    }
    Ok(())
}

/// Returns a reason if the kernel has no DAMON, or none that monitors physical memory.
pub(super) fn lacking() -> Option<String> {
    (!Path::new(DIRECTORY).exists()).then(|| "the kernel has no DAMON".to_owned())
}
