// SPDX-License-Identifier: GPL-2.0

//! Pages whose content a process no longer needs (`MADV_FREE`): the kernel may drop them instead of
//! swapping them out, but only if no other process maps them.

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::process::peer::User;
use guest::tests;
use guest::Result;

use super::group::Group;
use super::reclaim;
use super::reclaim::swap;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    lazy_free_spares_shared_pages,
    lazily_freed_pages_are_kept_for_newcomers,
    lazily_freed_pages_are_what_they_were_or_zeros,
];

const PAGES: u64 = 128;
const ROUNDS: u32 = 8;

fn free(group: &Group) -> Result {
    let sharer = &group.sharers[0];
    sharer.peer.advise(sharer.parts[0], libc::MADV_FREE)
}

fn lazy_free_spares_shared_pages(lab: &Lab) -> Result {
    let _swap = swap()?;
    let (cgroup, group) = reclaim::in_cgroup(lab, "shared", PAGES)?;
    free(&group)?;
    for _ in 0..ROUNDS {
        let _ = cgroup.reclaim(1 << 20);
    }
    group.check("after MADV_FREE of one of them")
}

/// The only owner of a page frees it lazily. Another process joins the page and must keep its content.
fn lazily_freed_pages_are_kept_for_newcomers(lab: &Lab) -> Result {
    let _swap = swap()?;
    let (cgroup, mut group) = reclaim::in_cgroup(lab, "newcomer", PAGES)?;
    while group.sharers.len() > 1 {
        group.sharers.remove(1).peer.exit()?;
    }
    free(&group)?;
    group.join(lab.peer_in(User::Root, &cgroup)?)?;
    for _ in 0..ROUNDS {
        let _ = cgroup.reclaim(1 << 20);
    }
    group.sharers[1].check()?;
    scanner::expect_exact_counts("after MADV_FREE").map(drop)
}

fn lazily_freed_pages_are_what_they_were_or_zeros(lab: &Lab) -> Result {
    let _swap = swap()?;
    let (cgroup, mut group) = reclaim::in_cgroup(lab, "last", PAGES)?;
    while group.sharers.len() > 1 {
        group.sharers.remove(1).peer.exit()?;
    }
    free(&group)?;
    for _ in 0..ROUNDS {
        let _ = cgroup.reclaim(1 << 20);
    }
    let sharer = &group.sharers[0];
    let (peer, span) = (&sharer.peer, sharer.parts[0]);
    for index in 0..PAGES {
        let page = span.page(index);
        let held = peer.check(page, Ids::same(IDS.of(index)));
        held.or_else(|_| peer.check(page, Ids::ZERO))?;
    }
    scanner::expect_exact_counts("after MADV_FREE of the last mapping")?;
    peer.fill(span, IDS)?;
    expect::eq("processes killed", 0, cgroup.killed()?)?;
    sharer.check()
}
