// SPDX-License-Identifier: GPL-2.0

//! Charges of shared pages: a page stays charged to one of the cgroups whose processes share it,
//! until its last mapping is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::cgroup::Cgroup;
use guest::memory::census;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pagemap;
use guest::memory::pagemap::Frame;
use guest::process::task;
use guest::Context;
use guest::Result;
use guest::Span;
use nix::sys::signal::raise;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use crate::child;
use crate::child::Child;
use crate::region::Region;
use crate::shadow::Content;
use crate::tally::Tally;
use crate::worker::Worker;

use super::limited::expect_nothing_charged;

/// Number of pages that two processes share, with contents of their own.
const PAGES: u64 = 128;
/// How long merging most of them may take, while memory is short and all processes work.
const MERGED_WITHIN: Duration = task::PATIENCE;
/// How long the kernel's statistics may lag behind.
const PATIENCE: Duration = task::PATIENCE;
/// Pages charged to a cgroup that only others map: others shared some of its stack, and it has
/// written to those pages since.
const STRAY: u64 = 16;

/// Audits, round after round; this process keeps its memory.
pub fn work(worker: &mut Worker) -> Result {
    let region = Region::filled(16, &mut worker.rng).context(|| "mmap")?;
    while worker.has_time() {
        audit(worker).during(|| "charges")?;
        worker.tally.count("audit of charges");
    }
    worker.finish([&region])
}

/// Two processes in two cgroups share pages. One ends, with its cgroup, then the other.
fn audit(worker: &mut Worker) -> Result {
    let first_id = worker.rng.number() | (1 << 63);
    let parent = Cgroup::new("books")?;
    let payers = [parent.child("a")?, parent.child("b")?];
    let sharers = [
        Sharer::start(&payers[0], first_id, worker)?,
        Sharer::start(&payers[1], first_id, worker)?,
    ];
    wait_merged(&sharers)?;
    expect_paid(&payers, &sharers)?;

    let ([one, other], [first, second]) = (sharers, payers);
    one.end()?;
    first.remove()?;
    expect_inherited(&other, [second.inode()?, parent.inode()?])?;
    let let_go = task::wait_until(PATIENCE, || parent.dying().is_ok_and(|dying| dying == 0));
    expect::that(let_go, || {
        "a removed cgroup whose pages others share is kept"
    })?;

    other.end()?;
    expect_nothing_charged(&second)?;
    second.remove()?;
    expect_nothing_charged(&parent)?;
    parent.remove()
}

/// A process in a cgroup, and the address of the common pages.
///
/// Dropping it kills the process, so that its cgroup can be removed even after failures.
struct Sharer {
    /// `None` once it has ended.
    child: Option<Child>,
    pid: i32,
    span: Span,
}

impl Sharer {
    /// Starts a process, and waits until it has filled its pages.
    fn start(cgroup: &Cgroup, first_id: u64, worker: &Worker) -> Result<Self> {
        // Mapped here: the address is known. Filled by the child: charged to its cgroup.
        let region = Region::map(PAGES).context(|| "mmap")?;
        let (span, tally) = (region.span(), worker.tally);
        let child = child::fork(|| {
            cgroup.enter()?;
            share(region.clone(), first_id, &tally)
        })?;
        region.unmap().context(|| "munmap")?;
        let pid = child.pid();
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Stopped(..)) => Ok(Sharer {
                child: Some(child),
                pid,
                span,
            }),
            other => Err(format!("a process that is to stop: {other:?}").into()),
        }
    }

    /// Frames of its common pages that are in memory.
    fn frames(&self) -> Result<BTreeSet<Frame>> {
        let entries = pagemap::entries(self.pid, self.span)?;
        Ok(entries.iter().filter_map(|entry| entry.frame()).collect())
    }

    /// Lets it verify its pages, and waits for its end.
    fn end(mut self) -> Result {
        let child = self.child.take().ok_or("it has ended already")?;
        child.signal(Signal::SIGCONT)?;
        child.wait()
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // The OOM killer may have killed it.
            let _ = child.end();
        }
    }
}

/// A sharer's work: fills its pages, stops, and verifies them when it continues.
fn share(mut region: Region, first_id: u64, tally: &Tally) -> Result {
    for index in 0..PAGES {
        region.fill(index, Content::Unique(first_id.wrapping_add(index)));
    }
    raise(Signal::SIGSTOP).context(|| "stopping")?;
    region.verify_all(tally)
}

/// Waits until the two share most of their pages. Some pages may have been swapped out before.
fn wait_merged(sharers: &[Sharer; 2]) -> Result {
    let mut common = 0;
    let merged = task::wait_until(MERGED_WITHIN, || {
        let frames = sharers
            .each_ref()
            .map(|sharer| sharer.frames().unwrap_or_default());
        common = frames[0].intersection(&frames[1]).count() as u64;
        common >= PAGES / 2
    });
    expect::that(merged, || {
        format!("common frames of two processes: expected {PAGES} or half of it, found {common}")
    })
}

/// Expects that in the end each page of `heir` is charged to one of two cgroups: a removed cgroup
/// keeps its charges until a kernel worker takes it offline.
fn expect_inherited(heir: &Sharer, inodes: [u64; 2]) -> Result {
    eventually(|| expect_payers(&heir.frames()?, &inodes))
}

/// Expects that each common frame is charged to one of the two cgroups, and that the kernel's sum
/// of each cgroup equals the charges of its frames.
fn expect_paid(payers: &[Cgroup; 2], sharers: &[Sharer; 2]) -> Result {
    let inodes = [payers[0].inode()?, payers[1].inode()?];
    eventually(|| compare(payers, inodes, sharers))
}

/// Repeats `check` until it succeeds; returns its last result after a while.
fn eventually(check: impl Fn() -> Result) -> Result {
    let mut checked = Ok(());
    task::wait_until(PATIENCE, || {
        checked = check();
        checked.is_ok()
    });
    checked
}

fn compare(payers: &[Cgroup; 2], inodes: [u64; 2], sharers: &[Sharer; 2]) -> Result {
    let mut charged = [0, 0];
    for frame in all_frames(sharers) {
        let payer = frame.cgroup()?;
        if let Some(index) = inodes.iter().position(|&inode| inode == payer) {
            charged[index] += PAGE_SIZE;
        }
    }
    for sharer in sharers {
        expect_payers(&sharer.frames()?, &inodes)?;
    }
    for (payer, bytes) in payers.iter().zip(charged) {
        expect::within(
            "anonymous memory charged to a cgroup, by its frames",
            bytes..=bytes + STRAY * PAGE_SIZE,
            payer.anon_bytes()?,
        )?;
    }
    Ok(())
}

/// All private frames of the processes, including their stacks.
fn all_frames(sharers: &[Sharer; 2]) -> BTreeSet<Frame> {
    let pages = sharers
        .iter()
        .flat_map(|sharer| census::private_pages(sharer.pid));
    pages.map(|(frame, _)| frame).collect()
}

/// Expects that each frame is charged to one of these cgroups.
fn expect_payers(frames: &BTreeSet<Frame>, inodes: &[u64]) -> Result {
    for frame in frames {
        let payer = frame.cgroup()?;
        expect::that(inodes.contains(&payer), || {
            format!("{frame:?} is charged to cgroup {payer}, expected one of {inodes:?}")
        })?;
    }
    Ok(())
}
