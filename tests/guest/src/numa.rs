// SPDX-License-Identifier: GPL-2.0

//! NUMA nodes, and pages moved between them from outside.

use std::io;
use std::path::Path;

use crate::peer::spawn::check;

/// `MPOL_MF_MOVE_ALL` of include/uapi/linux/mempolicy.h.
const MPOL_MF_MOVE_ALL: i32 = 1 << 2;

/// Whether the machine has two nodes, 0 and 1.
pub fn are_two() -> bool {
    Path::new("/sys/devices/system/node/node1").exists()
}

/// The node of a CPU, as the scheduler takes it. With `numa=fake` sysfs shows each CPU on all nodes.
pub fn node_of_cpu(cpu: u64) -> io::Result<i32> {
    crate::task::pin(0, cpu)?;
    let mut node: libc::c_uint = 0;
    // SAFETY: The kernel writes one number to `node`; the other pointers may be null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            std::ptr::null_mut::<libc::c_uint>(),
            &raw mut node,
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    crate::task::unpin(0)?;
    check(result)?;
    Ok(node as i32)
}

/// Moves each page of a process to the node `targets` names, also pages it shares (`move_pages(2)`).
/// Returns for each page its node or, negative, an error number.
pub fn move_pages(pid: i32, addresses: &[u64], targets: &[i32]) -> io::Result<Vec<i32>> {
    assert_eq!(addresses.len(), targets.len());
    states(pid, addresses, Some(targets))
}

/// The nodes of pages of a process; negative: an error number.
pub fn nodes_of(pid: i32, addresses: &[u64]) -> io::Result<Vec<i32>> {
    states(pid, addresses, None)
}

/// Moves pages, if there are `targets`, which are as many, and returns what became of each.
fn states(pid: i32, addresses: &[u64], targets: Option<&[i32]>) -> io::Result<Vec<i32>> {
    // The kernel leaves the state of pages as it is that it did not reach.
    let mut states = vec![-libc::EAGAIN; addresses.len()];
    // SAFETY: The arrays have an element for each page, and live until the call ends; without targets
    // nothing is moved.
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

/// Moves all pages that a process has on one node to another (`migrate_pages(2)`). Returns how many
/// could not be moved.
pub fn migrate_pages(pid: i32, from: u64, to: u64) -> io::Result<u64> {
    let [from, to] = [from, to].map(|node| 1u64 << node);
    // SAFETY: The two masks have as many bits as is said.
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
