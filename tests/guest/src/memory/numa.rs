// SPDX-License-Identifier: GPL-2.0

//! NUMA nodes, and pages moved between them from outside.

use std::io;
use std::path::Path;

use crate::process::peer::spawn::check;
use crate::process::task;

/// `MPOL_MF_MOVE_ALL` of include/uapi/linux/mempolicy.h.
const MPOL_MF_MOVE_ALL: i32 = 1 << 2;

/// Returns whether the machine has the nodes 0 and 1.
pub fn are_two() -> bool {
    Path::new("/sys/devices/system/node/node1").exists()
}

/// The NUMA node of a CPU, as the scheduler sees it. With `numa=fake`, sysfs lists each CPU under all
/// nodes.
pub fn node_of_cpu(cpu: u64) -> io::Result<i32> {
    task::pin(0, cpu)?;
    let mut node: libc::c_uint = 0;
    // SAFETY: `node` has room for the number the kernel writes; the other pointers may be null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            std::ptr::null_mut::<libc::c_uint>(),
            &raw mut node,
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    task::unpin(0)?;
    check(result)?;
    Ok(node as i32)
}

/// Moves each page of a process to its node in `targets`, including pages that it shares
/// (`move_pages(2)`). Returns for each page its node or a negative error number.
pub fn move_pages(pid: i32, addresses: &[u64], targets: &[i32]) -> io::Result<Vec<i32>> {
    assert_eq!(addresses.len(), targets.len());
    states(pid, addresses, Some(targets))
}

/// The node of each page of a process, or a negative error number.
pub fn nodes_of(pid: i32, addresses: &[u64]) -> io::Result<Vec<i32>> {
    states(pid, addresses, None)
}

/// Moves pages if `targets` is given, one for each page, and returns the state of each page.
fn states(pid: i32, addresses: &[u64], targets: Option<&[i32]>) -> io::Result<Vec<i32>> {
    // The kernel does not write the states of pages that it did not reach.
    let mut states = vec![-libc::EAGAIN; addresses.len()];
    // SAFETY: Each array has one element per page and outlives the call; a null `targets` means that
    // no page moves.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            pid,
            addresses.len(),
            addresses.as_ptr(),
            targets.map_or(std::ptr::null(), <[i32]>::as_ptr),
            states.as_mut_ptr(),
            if targets.is_some() {
                MPOL_MF_MOVE_ALL
            } else {
                0
            },
        )
    })?;
    Ok(states)
}

/// Moves all pages of a process from one node to another (`migrate_pages(2)`). Returns how many pages
/// could not be moved.
pub fn migrate_pages(pid: i32, from: u64, to: u64) -> io::Result<u64> {
    let [from, to] = [from, to].map(|node| 1u64 << node);
    // SAFETY: Both masks have at least the number of bits passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_migrate_pages,
            pid,
            u64::from(u64::BITS),
            &from,
            &to,
        )
    })
}
