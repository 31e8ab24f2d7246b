// SPDX-License-Identifier: GPL-2.0

//! Shared pages that are swapped out and back in.

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap;
use guest::memory::pages;
use guest::memory::swap::Swap;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Result;

use super::group::Group;
use super::Kept;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    reclaim_swaps_shared_pages_out,
    reclaim_leaves_others_in_place,
    swapoff_brings_shared_pages_back,
    reclaim_leaves_locked_pages_in_place,
    page_out_spares_shared_pages_but_the_last,
    children_of_swapped_pages,
    used_pages_stay_longer_than_others,
    pages_that_are_swapped_again_and_again_are_merged_less_often,
];

const PAGES: u64 = 256;
/// Enough swap space for a test, in MiB.
pub(super) const SWAP_MIB: u64 = 64;
/// The number of bytes requested in each call of reclaim.
const CHUNK: u64 = 1 << 20;

/// Creates swap space; [`super::no_swap`] has checked that this is possible.
pub(super) fn swap() -> Result<Swap> {
    Ok(Swap::open(SWAP_MIB)??)
}

/// Creates a cgroup and a group of processes in it.
pub(super) fn in_cgroup(lab: &Lab, name: &str, pages: u64) -> Result<(Cgroup, Group)> {
    let cgroup = Cgroup::new(name)?;
    let peer = || lab.peer_in(User::Root, &cgroup);
    let group = Group::of(peer()?, peer()?, pages)?.mix()?;
    Ok((cgroup, group))
}

/// Reclaims until `entries` page table entries of the group are swapped.
pub(super) fn swap_out(group: &Group, cgroup: &Cgroup, entries: usize) -> Result {
    let out = || {
        // It fails if it reclaimed less, which is fine.
        let _ = cgroup.reclaim(CHUNK);
        group.swapped().is_ok_and(|swapped| swapped >= entries)
    };
    let done = task::wait_until(task::PATIENCE, out);
    expect::that(done, || {
        format!(
            "entries swapped: expected {entries}, found {:?}",
            group.swapped()
        )
    })
}

fn all_entries(group: &Group) -> usize {
    group.pages as usize * group.sharers.len()
}

/// Each page is swapped out once for all sharers, and the pages are merged again after they are
/// swapped in.
fn reclaim_swaps_shared_pages_out(lab: &Lab) -> Result {
    let _swap = swap()?;
    let (cgroup, group) = in_cgroup(lab, "reclaimed", PAGES)?;
    for round in 0..3 {
        swap_out(&group, &cgroup, all_entries(&group))?;
        scanner::expect_exact_counts("after swapping out")?;
        group.check("swapped in")?;
        group.merge()?;
        group.expect_intact(&format!("merged again in round {round}"))?;
        scanner::expect_exact_counts("after merging again")?;
    }
    expect::eq("processes killed", 0, cgroup.killed()?)
}

fn reclaim_leaves_others_in_place(lab: &Lab) -> Result {
    const ATTEMPTS: u32 = 8;
    let _kept = Kept::new()?;
    let _swap = swap()?;
    let (cgroup, group) = in_cgroup(lab, "kept", PAGES)?;
    let frames = group.expect_shared("at first")?;
    for _ in 0..ATTEMPTS {
        let _ = cgroup.reclaim(CHUNK);
    }
    expect::eq("entries swapped", 0, group.swapped()?)?;
    group.expect_in_place("after reclaim", &frames)
}

fn swapoff_brings_shared_pages_back(lab: &Lab) -> Result {
    let swap = swap()?;
    let (cgroup, group) = in_cgroup(lab, "swapped_off", PAGES)?;
    swap_out(&group, &cgroup, all_entries(&group))?;
    swap.off()?;
    for sharer in &group.sharers {
        let entries = sharer.entries()?;
        let present = entries.iter().filter(|entry| entry.frame().is_some());
        expect::eq("entries present", PAGES as usize, present.count())?;
    }
    group.check("after swapoff")?;
    group.merge()?;
    group.expect_intact("merged again")?;
    swap.on_again()?;
    swap_out(&group, &cgroup, all_entries(&group))?;
    group.check("once more")
}

/// A process that locks a page keeps it in memory for all sharers. Only read-only memory stays shared
/// after `mlock()`, which otherwise breaks the sharing.
fn reclaim_leaves_locked_pages_in_place(lab: &Lab) -> Result {
    let _swap = swap()?;
    let (cgroup, group) = in_cgroup(lab, "locked", PAGES)?;
    let frames = group.expect_shared("at first")?;
    let (first, count) = group.read_only();
    let holder = &group.sharers[1];
    holder.peer.lock(holder.parts[0].part(first, count))?;
    group.expect_in_place("locked", &frames)?;
    let others = all_entries(&group) - count as usize * group.sharers.len();
    swap_out(&group, &cgroup, others)?;
    for _ in 0..4 {
        let _ = cgroup.reclaim(CHUNK);
    }
    expect::eq("entries swapped", others, group.swapped()?)?;
    let kept = &frames[first as usize..(first + count) as usize];
    for sharer in &group.sharers {
        let part = sharer.parts[0].part(first, count);
        pages::expect_frames("locked", (&sharer.peer, part), kept)?;
    }
    holder.peer.unlock(holder.parts[0].part(first, count))?;
    swap_out(&group, &cgroup, all_entries(&group))?;
    group.check("swapped in")
}

/// Same as for every page that other processes map, too.
fn page_out_spares_shared_pages_but_the_last(lab: &Lab) -> Result {
    let _swap = swap()?;
    let mut group = Group::mixed(lab, PAGES)?;
    let frames = group.expect_shared("at first")?;
    let advise = |group: &Group, advice: i32| -> Result {
        let sharer = &group.sharers[0];
        sharer.peer.advise(sharer.parts[0], advice)
    };
    for advice in [libc::MADV_COLD, libc::MADV_PAGEOUT] {
        advise(&group, advice)?;
        group.expect_in_place("after advice", &frames)?;
    }
    while group.sharers.len() > 1 {
        group.sharers.remove(1).peer.exit()?;
    }
    let out = || {
        advise(&group, libc::MADV_PAGEOUT).is_ok()
            && group.swapped().is_ok_and(|n| n == PAGES as usize)
    };
    expect::that(task::wait_until(task::PATIENCE, out), || {
        format!("pages swapped: expected all, found {:?}", group.swapped())
    })?;
    group.check("swapped in")
}

/// A child inherits the swapped pages of its parent.
fn children_of_swapped_pages(lab: &Lab) -> Result {
    let _swap = swap()?;
    let (cgroup, mut group) = in_cgroup(lab, "forked", PAGES)?;
    swap_out(&group, &cgroup, all_entries(&group))?;
    group.fork()?;
    let writer = &group.sharers[0];
    writer
        .peer
        .fill(writer.parts[0].part(0, 16), Ids::each(5000))?;
    for sharer in &group.sharers[1..] {
        sharer.check()?;
    }
    writer.peer.fill(writer.parts[0].part(0, 16), IDS)?;
    group.check("after a fork")?;
    group.merge()?;
    group.expect_intact("merged again").map(drop)
}

/// Between two calls of reclaim, all shared pages are used, but none of the other pages.
fn used_pages_stay_longer_than_others(lab: &Lab) -> Result {
    /// The number of unused pages: more than reclaim is asked for in total.
    const UNUSED: u64 = 6144;
    const ROUNDS: u32 = 8;
    let _swap = swap()?;
    let (cgroup, group) = in_cgroup(lab, "used", PAGES)?;
    let idle = lab.peer_in(User::Root, &cgroup)?;
    let unused = idle.anon(UNUSED, Ids::each(1 << 20))?;
    // New pages wait in per-CPU batches before they are added to the LRU lists; this drains the
    // batches.
    procfs::write("/proc/sys/vm/drop_caches", "1")?;
    let before = pagemap::entries(idle.pid(), unused)?;
    expect::eq(
        "unused pages present",
        UNUSED as usize,
        before
            .iter()
            .filter(|entry| entry.frame().is_some())
            .count(),
    )?;
    for _ in 0..ROUNDS {
        for sharer in &group.sharers {
            sharer
                .parts
                .iter()
                .try_for_each(|&part| sharer.peer.read_touch(part))?;
        }
        let _ = cgroup.reclaim(CHUNK);
    }
    let swapped = group.swapped()?;
    expect::within(
        "entries of used pages swapped",
        0..=all_entries(&group) / 2,
        swapped,
    )?;
    let entries = pagemap::entries(idle.pid(), unused)?;
    let out = entries.iter().filter(|entry| entry.swapped()).count();
    expect::within("unused pages swapped", 256..=UNUSED as usize, out)?;
    group.check("after reclaim")?;
    idle.check(unused, Ids::each(1 << 20))
}

/// The number of passes, out of `count`, that merge pages of the group. Before each pass, all pages are
/// swapped out and read again.
fn merging_passes(count: u64, group: &Group, cgroup: &Cgroup) -> Result<u64> {
    let mut merging = 0;
    for _ in 0..count {
        swap_out(group, cgroup, all_entries(group))?;
        group.check("swapped in")?;
        expect::eq("pages_shared, swapped in", 0, knob::number("pages_shared")?)?;
        scanner::passes(1)?;
        merging += u64::from(knob::number("pages_shared")? > 0);
    }
    Ok(merging)
}

fn pages_that_are_swapped_again_and_again_are_merged_less_often(lab: &Lab) -> Result {
    const PASSES: u64 = 32;
    let _swap = swap()?;
    let cgroup = Cgroup::new("fought")?;
    let peer = || lab.peer_in(User::Root, &cgroup);
    let group = Group::of(peer()?, peer()?, PAGES)?;
    knob::set("scope", "registered")?;
    knob::set("sleep_ms", scanner::UNTIL_TOLD_MS)?;
    for sharer in &group.sharers {
        sharer.peer.register_all()?;
    }
    let mut merging = [0; 2];
    for (interval, merging) in [1, 8].into_iter().zip(&mut merging) {
        knob::set("max_interval", interval)?;
        *merging = merging_passes(PASSES, &group, &cgroup)?;
    }
    let [always, seldom] = merging;
    expect::that(always >= PASSES / 2 && seldom <= always / 2, || {
        format!(
            "of {PASSES} passes, those that merged: expected half as many with intervals, found {always} \
             and {seldom}"
        )
    })
}
