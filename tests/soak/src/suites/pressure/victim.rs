// SPDX-License-Identifier: GPL-2.0

//! Processes that exceed the limit of their cgroup, and that the OOM killer kills.

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::Context;
use guest::Result;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::child;
use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

use super::limited::expect_nothing_charged;

/// Memory limit of a victim, in bytes.
const LIMIT: u64 = 2 << 20;
/// Number of pages that it fills: more than the limit, even if all equal pages are shared.
const PAGES: u64 = 1536;

/// Starts one process after the other that is killed; this process keeps its memory.
pub fn work(worker: &mut Worker) -> Result {
    let region = Region::filled(64, &mut worker.rng).context(|| "mmap")?;
    while worker.has_time() {
        one(worker)?;
        region.verify_all(&worker.tally)?;
    }
    worker.finish([&region])
}

fn one(worker: &mut Worker) -> Result {
    let cgroup = Cgroup::new("victim")?;
    cgroup.limit(LIMIT)?;
    cgroup.forbid_swap()?;
    let victim = child::fork(|| {
        cgroup.enter()?;
        take_too_much(worker)
    })?;
    match victim.wait_any()? {
        WaitStatus::Signaled(_, Signal::SIGKILL, _) => worker.tally.count("killed for memory"),
        other => return Err(format!("expected to be killed for memory, found {other:?}").into()),
    }
    expect::ne("oom_kill of the cgroup", 0, cgroup.killed()?)?;
    expect_nothing_charged(&cgroup)?;
    cgroup.remove()
}

/// Every other page has a content of its own.
fn take_too_much(worker: &mut Worker) -> Result {
    let mut region = Region::map(PAGES).context(|| "mmap")?;
    for index in 0..PAGES {
        let content = match index % 2 {
            0 => Content::unique(&mut worker.rng),
            _ => Content::letter(&mut worker.rng),
        };
        region.fill(index, content);
        region.verify(worker.rng.below(index + 1), &worker.tally)?;
    }
    Err("nobody killed this process".into())
}
