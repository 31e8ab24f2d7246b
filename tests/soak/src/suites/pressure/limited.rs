// SPDX-License-Identifier: GPL-2.0

//! Work in a cgroup that allows less memory than its process needs.

use std::time::Duration;

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::procfs;
use guest::memory::content::PAGE_SIZE;
use guest::memory::swap;
use guest::process::task;
use guest::Result;

use crate::child;
use crate::frames;
use crate::worker::Worker;

use super::PAGES;

const NAME: &str = "limited";
/// Memory limit of the process in bytes, including everything besides its region.
const LIMIT: u64 = PAGES * PAGE_SIZE * 3 / 4;
/// Most bytes that may stay charged when all processes are gone: the kernel charges in batches for
/// each CPU, and keeps some memory for the cgroup itself.
const REST: u64 = 1 << 20;
/// How long charges may take to go: the kernel returns batches one after the other.
const PATIENCE: Duration = task::PATIENCE;

/// Lets a child work in a cgroup, and verifies that nothing stays charged.
pub fn work(worker: &mut Worker) -> Result {
    // Without swap space the OOM killer would kill the process.
    task::wait_until(worker.time_left(), || swap::total() > 0);
    let cgroup = Cgroup::new(NAME)?;
    let child = child::fork(|| {
        cgroup.enter()?;
        super::work_on_memory(worker)
    })?;
    child.wait()?;
    expect_nothing_charged(&cgroup)?;
    cgroup.remove()
}

/// Limits the memory of this worker while there is swap space.
pub fn impose() {
    set_limit(&LIMIT.to_string());
}

/// Lifts the limit.
pub fn lift() {
    set_limit("max");
}

fn set_limit(limit: &str) {
    let path = format!("/sys/fs/cgroup/ksm_v_test_{NAME}/memory.max");
    // The cgroup may not exist yet, or no longer.
    let _ = procfs::write(&path, limit);
}

/// Expects that the charges of a cgroup without processes go, except for pages that others share.
pub fn expect_nothing_charged(cgroup: &Cgroup) -> Result {
    let mut left = Ok(());
    task::wait_until(PATIENCE, || {
        left = expect_others_pages_only(cgroup);
        left.is_ok()
    });
    left.during(|| format!("{PATIENCE:?} after the last process ended"))
}

/// Expects that processes outside map all charged pages: pages that they share, and pages that were
/// shared, swapped out, and swapped in by one of them. The kernel charges such a page to the cgroup that
/// was charged before (`mem_cgroup_swapin_charge_folio()`).
fn expect_others_pages_only(cgroup: &Cgroup) -> Result {
    let (mut mapped, mut charged) = (0, Vec::new());
    for frame in frames::charged_to(cgroup.inode()?)? {
        let (flags, mappings) = (frame.flags()?, frame.mappings()?);
        if flags.anonymous() {
            mapped += u64::from(mappings > 0) * PAGE_SIZE;
            charged.push((frame, flags, mappings));
        }
    }
    let what = "anonymous memory charged, that which others map";
    expect::eq(what, mapped, cgroup.anon_bytes()?).during(|| format!("{charged:?} charged"))?;
    expect::within(
        "memory charged, all in all",
        0..=mapped + REST,
        cgroup.current_bytes()?,
    )
}
