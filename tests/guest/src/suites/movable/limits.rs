// SPDX-License-Identifier: GPL-2.0

//! Cgroup limits below the size of the merged memory: pages are swapped out, and no process is killed.

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::PAGE_SIZE;
use guest::tests;
use guest::Result;

use super::group::Group;
use super::reclaim;

pub(super) const TESTS: &[Test] = tests![
    a_limit_below_what_is_merged_kills_nobody,
    merging_beside_a_limit_kills_nobody,
];

const PAGES: u64 = 1024;

/// Sets a limit that forces half of the merged memory to be swapped out.
fn limit(cgroup: &Cgroup) -> Result {
    cgroup.limit(cgroup.current_bytes()? - PAGES / 2 * PAGE_SIZE)
}

fn expect_alive(group: &Group, cgroup: &Cgroup) -> Result {
    expect::eq("processes killed", 0, cgroup.killed()?)?;
    group.check("within the limit")?;
    expect::eq("processes killed", 0, cgroup.killed()?)
}

fn a_limit_below_what_is_merged_kills_nobody(lab: &Lab) -> Result {
    let _swap = reclaim::swap()?;
    let (cgroup, group) = reclaim::in_cgroup(lab, "lowered", PAGES)?;
    limit(&cgroup)?;
    expect::ne("entries swapped", 0, group.swapped()?)?;
    expect_alive(&group, &cgroup)?;
    cgroup.unlimit()?;
    group.check("without a limit")?;
    group.merge()?;
    group.expect_intact("merged again")?;
    scanner::expect_exact_counts("at last").map(drop)
}

/// Pages are swapped out and in while the module merges.
fn merging_beside_a_limit_kills_nobody(lab: &Lab) -> Result {
    const ROUNDS: u32 = 3;
    let _swap = reclaim::swap()?;
    let (cgroup, group) = reclaim::in_cgroup(lab, "beside", PAGES)?;
    limit(&cgroup)?;
    scanner::start()?;
    for _ in 0..ROUNDS {
        expect_alive(&group, &cgroup)?;
        scanner::wait_passes(1)?;
    }
    scanner::stop()?;
    expect_alive(&group, &cgroup)?;
    cgroup.unlimit()?;
    scanner::expect_exact_counts("at last").map(drop)
}
