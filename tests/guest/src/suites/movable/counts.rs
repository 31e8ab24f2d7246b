// SPDX-License-Identifier: GPL-2.0

//! The kernel's counts of the pages of a process, a cgroup and the machine.

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::PAGE_SIZE;
use guest::tests;
use guest::Result;

use super::group::Group;
use super::reclaim;

pub(super) const TESTS: &[Test] = tests![
    counts_are_right_after_pages_moved,
    counts_do_not_drift_as_pages_move,
];

const PAGES: u64 = 256;
/// The largest error due to the kernel's batched counts and to other processes.
const SLACK: i64 = 1000;

/// Expects that `smaps` of each process shows all pages present and merged.
pub(super) fn expect_smaps(group: &Group, when: &str) -> Result {
    for sharer in &group.sharers {
        for name in ["Rss", "Anonymous", "KSM"] {
            let what = format!("{when}: {name} in smaps of process {}", sharer.pid());
            expect::eq(what, group.pages, sharer.smaps_pages(name)?)?;
        }
        expect::eq("swapped, in smaps", 0, sharer.smaps_pages("Swap")?)?;
    }
    Ok(())
}

fn counts_are_right_after_pages_moved(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    expect_smaps(&group, "at first")?;
    for node in [1, 0, 1] {
        group.move_all(0, node)?;
        expect_smaps(&group, "after pages were moved")?;
        scanner::expect_exact_counts("after pages were moved")?;
    }
    Ok(())
}

/// The counts of pages of a cgroup and of the machine; a wrong move loses or double-counts some.
fn totals(cgroup: &Cgroup) -> Result<[i64; 3]> {
    let vmstat = |name: &str| procfs::number_in("/proc/vmstat", name);
    let numbers = [
        cgroup.anon_bytes()? / PAGE_SIZE,
        cgroup.current_bytes()? / PAGE_SIZE,
        vmstat("nr_anon_pages")?,
    ];
    Ok(numbers.map(|number| number as i64))
}

fn counts_do_not_drift_as_pages_move(lab: &Lab) -> Result {
    /// Number of moves: if each move lost one page, the counts would be off by more than the slack.
    const MOVES: usize = 24;
    let (cgroup, group) = reclaim::in_cgroup(lab, "drift", PAGES)?;
    let before = totals(&cgroup)?;
    for round in 0..MOVES {
        group.move_all(round % 3, (round % 2) as i32)?;
    }
    let after = totals(&cgroup)?;
    for (name, (before, after)) in ["anon", "memory.current", "nr_anon_pages"]
        .into_iter()
        .zip(before.into_iter().zip(after))
    {
        let allowed = before - SLACK..=before + SLACK;
        expect::within(
            format!("{name} after {MOVES} moves, in pages"),
            allowed,
            after,
        )?;
    }
    group.expect_intact("after many moves")?;
    expect_smaps(&group, "after many moves")
}
