// SPDX-License-Identifier: GPL-2.0

//! Finds the family of a process that is not dumpable: the workers that one server forked.
//!
//! A server's master runs as root, forks its workers, and each worker changes its ids. That makes it
//! undumpable. Nobody outside may know what such a worker has. But all workers began with a copy of the
//! master's memory, so they may share pages with each other. `Documentation/security.md` has the rule.
//!
//! # How a family is found
//!
//! The master is the nearest ancestor that is dumpable. Two facts make a process its worker:
//!
//! - Its ids are not the master's effective ids: it became undumpable in `commit_creds()`. (A process whose
//!   ids are its master's has called `PR_SET_DUMPABLE`.)
//! - Both have their memory from one exec, by forks only. The tree of processes does not prove that: the first
//!   process of a container, or a subreaper, adopts orphans of any program, and `CLONE_PARENT` makes a process
//!   the child of its caller's parent. The rmap does prove it. `exec` makes a new stack, whose anon_vma is the
//!   root of a new tree. At fork, `anon_vma_fork()` adds the anon_vmas of the child's VMAs to the trees of its
//!   parent's, which is how the kernel finds the pages that the two share. So the stacks of two processes have
//!   one root exactly if neither has called exec since their common ancestor did. No process can forge that:
//!   `PR_SET_MM` changes only where we look for the stack, and no other VMA of a process has that root either,
//!   unless the process is a descendant by forks.
//!
//! Together they say that the worker is a copy of its master, or a copy of a copy. A process is created below
//! its creator in the tree, and later moves only up, to an ancestor that adopts it. So each ancestor in the tree
//! is one by fork. The exception are processes that someone creates from outside in the PID namespace of their
//! adopter (`setns()`), but these come from another exec, or are the server's own doing.
//!
//! What if, at this moment, …
//!
//! - the master executes another program? It gets another stack: the family ends. Until its new address
//!   space is in place, it is the master that it was.
//! - the worker executes a program? Its old address space is what it was. The new one has another root.
//! - the master exits? Its workers get another parent, with a stack of another root: the family ends.
//! - one of the two forks, or grows its stack? Then its stack can't be locked, and the worker has no family
//!   for the moment.
//! - an anon_vma is freed, and its address is used for another one? Each VMA keeps its anon_vma, and that its
//!   root. The VMAs are locked until the roots have been compared.
//! - the stack is the wrong VMA, which is just getting an anon_vma? That has another root.
//!
//! Locks are only tried: the callers hold RCU, and may hold the lock of an anon_vma.

use crate::mm::credentials::Credentials;
use crate::mm::process::Owner;
use crate::mm::task::Task;
use crate::mm::vma::NextArea;
use crate::mm::vma::VmaReadGuard;
use crate::shim;
use core::iter::successors;
use engine::hash::mix_all;
use engine::Domain;
use kernel::mm::Mm;
use kernel::mm::MmWithUser;
use kernel::mm::MmWithUserAsync;
use kernel::sync::aref::ARef;

/// Most generations from a worker up to its master. Servers have one or two.
const GENERATIONS: usize = 8;

/// The family of a worker: its master's address space, and what the worker may do. No other family has the
/// same, or had it before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Family(u64);

impl Family {
    /// Finds the family of `worker`, which is not dumpable and has these credentials. `None` if its ids are
    /// its master's, if its memory is no copy of its master's, or if that can't be told at the moment.
    pub(super) fn of(worker: &Owner<'_>, credentials: &Credentials<'_>) -> Option<Self> {
        let master = master_of(worker.task())?;
        if !credentials.have_changed_from(&Credentials::of(master)) {
            return None;
        }
        let mm = master.address_space()?;
        are_of_one_exec(worker.mm(), &mm)
            .then(|| Family(mix_all([master.id_of(&mm), credentials.identity()])))
    }

    /// The domain of the part of the family that is in `whole`. No other process is in it.
    pub(super) fn part_of(self, whole: Domain) -> Domain {
        Domain(mix_all([self.0, whole.0]))
    }
}

/// The main thread of the nearest ancestor that is dumpable.
fn master_of(worker: Task<'_>) -> Option<Task<'_>> {
    successors(worker.parent(), Task::parent)
        .take(GENERATIONS)
        .find(Task::is_dumpable)
}

/// Whether both address spaces come from one exec, by forks only.
fn are_of_one_exec(one: &Mm, other: &Mm) -> bool {
    let (Some(one), Some(other)) = (in_use(one), in_use(other)) else {
        return false;
    };
    let (Some(one), Some(other)) = (lock_stack(&one), lock_stack(&other)) else {
        return false;
    };
    let root = one.anon_vma_root();
    root.is_some() && root == other.anon_vma_root()
}

/// Keeps an address space in use. Nothing is torn down in this thread when the result is dropped.
fn in_use(mm: &Mm) -> Option<ARef<MmWithUserAsync>> {
    mm.mmget_not_zero().map(MmWithUser::into_mmput_async)
}

/// The stack that the program got from exec; `None` if it can't be locked at once.
fn lock_stack(mm: &MmWithUser) -> Option<VmaReadGuard<'_>> {
    // SAFETY: An `MmWithUser` is in use. The address may change at the same time (`PR_SET_MM`), and is read
    // once.
    let addr = unsafe { shim::ksm_v_mm_start_stack(mm.as_raw()) };
    match VmaReadGuard::next(mm, addr) {
        NextArea::Locked(vma) if vma.start() <= addr => Some(vma),
        _ => None,
    }
}
