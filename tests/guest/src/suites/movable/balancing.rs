// SPDX-License-Identifier: GPL-2.0

//! Automatic NUMA balancing moves pages to the node of the CPU that uses them. It skips merged pages,
//! also those of ksmd (`folio_can_map_prot_numa()` in `mm/mempolicy.c`).

use std::path::Path;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::numa;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

use super::group::Group;

pub(super) const TESTS: &[Test] = tests![numa_balancing_leaves_shared_pages_in_place];

const KNOB: &str = "/proc/sys/kernel/numa_balancing";

/// Returns what the machine lacks for this test, if anything.
pub(super) fn lacking() -> Option<String> {
    (!Path::new(KNOB).exists()).then(|| "the kernel has no NUMA balancing".to_owned())
}

/// Enables balancing while it exists.
struct Balancing {
    before: String,
}

impl Balancing {
    fn begin() -> Result<Self> {
        let before = procfs::read(KNOB)?;
        procfs::write(KNOB, "1")?;
        Ok(Balancing { before })
    }
}

impl Drop for Balancing {
    fn drop(&mut self) {
        if procfs::write(KNOB, self.before.trim()).is_err() {
            eprintln!("numa_balancing could not be restored");
        }
    }
}

/// A process on one node uses private and shared pages, all on the other node. Its private pages
/// move, which tells the test that the kernel has examined all pages.
fn numa_balancing_leaves_shared_pages_in_place(lab: &Lab) -> Result {
    const SHARED: u64 = 256;
    const OWN: u64 = 512;
    const CPU: u64 = 0;
    let own_ids = Ids::each(1_000_000);
    let near = numa::node_of_cpu(CPU).context(|| "node of a CPU")?;
    let group = Group::mixed(lab, SHARED)?;
    let user = &group.sharers[0];
    let own = user.peer.anon(OWN, own_ids)?;
    user.peer.keep_small(own)?;
    task::pin(user.pid(), CPU).context(|| "pinning a process")?;
    group.move_all(0, 1 - near)?;
    let addresses: Vec<u64> = (0..OWN).map(|page| own.page(page).addr).collect();
    let targets = vec![1 - near; OWN as usize];
    numa::move_pages(user.pid(), &addresses, &targets).context(|| "move_pages")?;
    let own_near = || -> Result<usize> {
        let nodes = numa::nodes_of(user.pid(), &addresses).context(|| "nodes")?;
        Ok(nodes.iter().filter(|&&node| node == near).count())
    };
    expect::eq("private pages on the near node, at first", 0, own_near()?)?;
    let frames = group.expect_intact("at first")?;
    let faults = || procfs::number_in("/proc/vmstat", "numa_hint_faults");
    let before = faults()?;

    let balancing = Balancing::begin()?;
    let mut failed = None;
    let are_moved = task::wait_until(task::PATIENCE, || {
        let used = (user.check())
            .and_then(|()| user.peer.check(own, own_ids))
            .and_then(|()| own_near());
        match used {
            Ok(count) => count >= OWN as usize / 2,
            Err(error) => {
                failed = Some(error);
                true
            }
        }
    });
    drop(balancing);
    failed.map_or(Ok(()), Err)?;
    expect::that(are_moved, || {
        "private pages: expected half of them on the near node"
    })?;
    expect::ne("numa_hint_faults", before, faults()?)?;
    group.expect_in_place("after balancing", &frames)?;
    group.expect_on(1 - near, "after balancing")?;
    user.peer.check(own, own_ids)?;
    scanner::expect_exact_counts("after balancing").map(drop)
}
