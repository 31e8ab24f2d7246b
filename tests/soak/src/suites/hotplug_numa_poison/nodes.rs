// SPDX-License-Identifier: GPL-2.0

//! Pages moved between nodes, on request and by the kernel's own balancing.

use std::path::Path;

use guest::peer::spawn::check;
use guest::procfs;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::worker::Worker;

/// Pages moved at once, at most.
const MOST: u64 = 32;
/// Of include/uapi/linux/mempolicy.h: pages that only this process has.
const MPOL_MF_MOVE: i32 = 1 << 1;
/// Nodes there may be.
const NODES: u64 = 8;

/// Has some pages moved to some node. Those that are merged can't be, or not while others have
/// them; their contents stay as they are in any case.
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

/// How many nodes the machine has.
fn nodes() -> u64 {
    let exists = |node: &u64| Path::new(&format!("/sys/devices/system/node/node{node}")).exists();
    (0..NODES).take_while(exists).count().max(1) as u64
}

/// Lets the kernel find out soon on which node pages are used, and move them there.
pub fn balance() {
    let debug = "/sys/kernel/debug/sched/numa_balancing";
    let settings = [
        ("/proc/sys/kernel/numa_balancing".to_owned(), "1"),
        (format!("{debug}/scan_delay_ms"), "10"),
        (format!("{debug}/scan_period_min_ms"), "10"),
        (format!("{debug}/scan_period_max_ms"), "100"),
    ];
    for (path, value) in settings {
        // Kernels and machines without nodes have none of this.
        let _ = procfs::write(&path, value);
    }
}
