// SPDX-License-Identifier: GPL-2.0

//! The charges of memory cgroups, and the free memory of the system.

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pages;
use guest::process::peer::User;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    shared_pages_are_charged_to_one_of_their_cgroups,
    charges_end_with_the_last_sharer,
    merging_frees_memory,
];

/// Many pages, so that the kernel's batches of charges hardly matter.
const PAGES: u64 = 2048;
/// The largest error due to these batches, for two cgroups on few CPUs.
const SLACK: u64 = 400;

fn in_pages(bytes: u64) -> u64 {
    bytes / PAGE_SIZE
}

fn shared_pages_are_charged_to_one_of_their_cgroups(lab: &Lab) -> Result {
    let (one, other) = (Cgroup::new("one")?, Cgroup::new("other")?);
    let (a, b) = (
        lab.peer_in(User::Alice, &one)?,
        lab.peer_in(User::Alice, &other)?,
    );
    let ids = Ids::each(10_000);
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    let charged = || -> Result<_> {
        let current = in_pages(one.current_bytes()? + other.current_bytes()?);
        Ok((current, in_pages(one.anon_bytes()? + other.anon_bytes()?)))
    };
    let before = charged()?;
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let after = charged()?;
    let fall = |before: u64, after: u64| before as i64 - after as i64;
    let expected = (PAGES - SLACK) as i64..=(PAGES + SLACK) as i64;
    expect::within(
        "decrease of memory.current, in pages",
        expected.clone(),
        fall(before.0, after.0),
    )?;
    expect::within(
        "decrease of anon in memory.stat, in pages",
        expected,
        fall(before.1, after.1),
    )?;
    let members = [one.inode()?, other.inode()?];
    for frame in frames.iter().step_by(16) {
        let owner = frame.cgroup()?;
        expect::that(members.contains(&owner), || {
            format!("cgroup of {frame:?}: expected one of {members:?}, found {owner}")
        })?;
    }
    Ok(())
}

fn charges_end_with_the_last_sharer(lab: &Lab) -> Result {
    let (one, other) = (Cgroup::new("one")?, Cgroup::new("other")?);
    let (a, b) = (
        lab.peer_in(User::Alice, &one)?,
        lab.peer_in(User::Alice, &other)?,
    );
    let empty = in_pages(one.current_bytes()? + other.current_bytes()?);
    let (in_a, in_b) = (a.anon(PAGES, Ids::each(1))?, b.anon(PAGES, Ids::each(1))?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.unmap(in_a)?;
    b.unmap(in_b)?;
    let after = in_pages(one.current_bytes()? + other.current_bytes()?);
    expect::within(
        "memory.current without the pages, in pages",
        0..=empty + SLACK,
        after,
    )
}

fn merging_frees_memory(lab: &Lab) -> Result {
    let peers = lab.alices(4)?;
    let mut sets = Vec::new();
    for peer in &peers {
        sets.push((peer, peer.anon(PAGES, Ids::each(10_000))?));
    }
    let before = free_pages()?;
    scanner::merge()?;
    pages::expect_merged(&sets)?;
    let freed = free_pages()? as i64 - before as i64;
    let expected = (5 * PAGES / 2) as i64..=(7 * PAGES / 2) as i64;
    expect::within(
        "pages that became free, of four equal sets of 2048",
        expected,
        freed,
    )
}

/// The number of free pages, including the per-CPU lists, which may hold thousands.
fn free_pages() -> Result<u64> {
    let zones = procfs::read("/proc/zoneinfo")?;
    let on_lists: u64 = zones
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("count:")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .sum();
    Ok(procfs::number_in("/proc/meminfo", "MemFree")? / 4 + on_lists)
}
