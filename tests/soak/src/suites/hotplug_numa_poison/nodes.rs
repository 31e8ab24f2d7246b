// SPDX-License-Identifier: GPL-2.0

//! Migration of pages between nodes, on request and by the kernel's NUMA balancing.

use std::path::Path;

use guest::kernel::procfs;
use guest::process::peer::spawn::check;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::worker::Worker;

/// Most pages that are moved at once.
const MOST: u64 = 32;
/// From include/uapi/linux/mempolicy.h: only pages of this process.
const MPOL_MF_MOVE: i32 = 1 << 1;
/// Most nodes.
const NODES: u64 = 8;

/// Moves some pages to a random node. The kernel does not move merged pages, or not while others
/// share them; contents stay the same in any case.
pub fn move_some(region: &mut Region, worker: &mut Worker) -> Result {
    let (first, count) = region.some(&mut worker.rng, MOST);
    let node = worker.rng.below(nodes()) as i32;
    let pages: Vec<u64> = (first..first + count)
        .map(|index| region.place(index, 0))
        .collect();
    let (targets, mut states) = (vec![node; pages.len()], vec![0; pages.len()]);
    // SAFETY: The three arrays have an element for each page, and live until the call ends.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            targets.as_ptr(),
            states.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    check(result).context(|| "move_pages")?;
    let moved = states.iter().filter(|&&state| state == node).count() as u64;
    worker.tally.add("pages on the wanted node", moved);
    worker
        .tally
        .add("pages that could not be moved", count - moved);
    region.verify_some(first, count, &worker.tally)
}

/// Number of nodes of the machine.
fn nodes() -> u64 {
    let exists = |node: &u64| Path::new(&format!("/sys/devices/system/node/node{node}")).exists();
    (0..NODES).take_while(exists).count().max(1) as u64
}

/// Speeds up NUMA balancing: the kernel samples accesses sooner and more often.
pub fn balance() {
    let debug = "/sys/kernel/debug/sched/numa_balancing";
    let settings = [
        ("/proc/sys/kernel/numa_balancing".to_owned(), "1"),
        (format!("{debug}/scan_delay_ms"), "10"),
        (format!("{debug}/scan_period_min_ms"), "10"),
        (format!("{debug}/scan_period_max_ms"), "100"),
    ];
    for (path, value) in settings {
        // Kernels and machines without nodes have no such files.
        let _ = procfs::write(&path, value);
    }
}
