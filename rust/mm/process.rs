// SPDX-License-Identifier: GPL-2.0

//! Iterates over the processes of the system, and finds the owner of an address space.
//!
//! C headers: [`include/linux/pid.h`](srctree/include/linux/pid.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use crate::mm::task::Task;
use crate::shim;
use core::ptr::NonNull;
use engine::hash::mix;
use engine::Space;
use kernel::bindings;
use kernel::mm::Mm;
use kernel::sync::aref::ARef;
use kernel::sync::rcu;

/// Size of a task's name, including the zero at its end.
pub(crate) const COMM_LEN: usize = 16;

/// A position in the table of process ids of the initial namespace.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    last: i32,
    /// Number of ids passed since [`Self::take_passed`] was called.
    passed: u32,
}

impl Cursor {
    /// Returns the address space of the next process that has one; `None` at the end of the table, and then
    /// the cursor starts again.
    ///
    /// Needs no list of processes, which could be out of date. A process that starts or exits during the
    /// iteration may be found or not.
    pub(crate) fn next(&mut self) -> Option<ARef<Mm>> {
        let rcu = rcu::read_lock();
        loop {
            let Some(pid) = self.next_pid(&rcu) else {
                self.last = 0;
                return None;
            };
            // An address space that several processes share (vfork) is returned for its owner only.
            if let Some(mm) = address_space(pid, &rcu).filter(|mm| self.is_at_owner(mm, &rcu)) {
                return Some(mm);
            }
        }
    }

    /// The number of process and thread ids that were passed since the last call.
    pub(crate) fn take_passed(&mut self) -> u32 {
        core::mem::take(&mut self.passed)
    }

    /// Whether the cursor is at the process that owns `mm`.
    fn is_at_owner(&self, mm: &Mm, rcu: &rcu::Guard) -> bool {
        Owner::even_in_fork(mm, rcu).is_some_and(|owner| owner.tgid() == self.last)
    }

    /// Moves to the next process or thread id in use.
    fn next_pid(&mut self, _rcu: &rcu::Guard) -> Option<NonNull<bindings::pid>> {
        // SAFETY: The RCU read lock is held, as `_rcu` shows.
        let pid = NonNull::new(unsafe { shim::ksm_v_find_ge_pid(self.last.checked_add(1)?) })?;
        // SAFETY: The pid was found under the RCU read lock, which is still held, so it is not freed.
        self.last = unsafe { shim::ksm_v_pid_nr(pid.as_ptr()) };
        self.passed = self.passed.saturating_add(1);
        Some(pid)
    }
}

/// The address space of the process whose id is `pid` in the caller's namespace; `None` if there is no such
/// process, or as for [`address_space`].
pub(crate) fn find(pid: i32) -> Option<ARef<Mm>> {
    let rcu = rcu::read_lock();
    // SAFETY: The RCU read lock is held, as `find_vpid()` requires.
    let pid = NonNull::new(unsafe { shim::find_vpid(pid) })?;
    address_space(pid, &rcu)
}

/// The ID of an address space; `None` while its last owner exits.
pub(crate) fn address_space_id(mm: &Mm) -> Option<u64> {
    let rcu = rcu::read_lock();
    Owner::of(mm, &rcu).map(|owner| owner.address_space_id())
}

/// Whether mainline KSM knows `mm`: some of its memory is registered, or was registered.
pub(crate) fn is_registered(mm: &Mm) -> bool {
    // SAFETY: The reference to an `Mm` shows that the mm is referenced.
    unsafe { shim::ksm_v_mm_is_ksm_mergeable(mm.as_raw()) }
}

/// The address space of the process whose id is `pid`; `None` if the id is that of a thread only, of a
/// kernel thread, or of a process that has exited.
fn address_space(pid: NonNull<bindings::pid>, _rcu: &rcu::Guard) -> Option<ARef<Mm>> {
    // SAFETY: The RCU read lock is held, as `_rcu` shows, and `pid` was found under it.
    let leader = unsafe { shim::pid_task(pid.as_ptr(), bindings::pid_type_PIDTYPE_TGID) };
    let mut thread = NonNull::new(leader)?;
    loop {
        // SAFETY: The task was found under the RCU read lock, which is still held.
        let task = unsafe { Task::from_raw(thread) };
        // A leader that has exited may have threads that still use the address space.
        if let Some(mm) = task.address_space() {
            return Some(mm);
        }
        // SAFETY: The task was found under the RCU read lock, which is still held, so it is not freed.
        thread = NonNull::new(unsafe { shim::ksm_v_next_thread(thread.as_ptr()) })?;
    }
}

/// The task that owns an address space, as long as an RCU read lock is held.
pub(crate) struct Owner<'a> {
    task: Task<'a>,
    mm: &'a Mm,
}

impl<'a> Owner<'a> {
    /// Finds the owner of `mm`; `None` while the last owner exits, and while fork is still making the
    /// address space.
    ///
    /// The memory of a child in the middle of fork has no owner: see [`crate::mm::merge`].
    pub(crate) fn of(mm: &'a Mm, rcu: &'a rcu::Guard) -> Option<Self> {
        Self::even_in_fork(mm, rcu).filter(|owner| !owner.is_new())
    }

    /// As [`Self::of`], but a child in the middle of fork is an owner, too.
    fn even_in_fork(mm: &'a Mm, _rcu: &'a rcu::Guard) -> Option<Self> {
        // SAFETY: The mm is referenced, and the RCU read lock is held, as `_rcu` shows.
        let task = NonNull::new(unsafe { shim::ksm_v_mm_owner(mm.as_raw()) })?;
        // SAFETY: The task was found under the RCU read lock, which is held for `'a`.
        let task = unsafe { Task::from_raw(task) };
        Some(Owner { task, mm })
    }

    /// Whether fork is still making the task.
    fn is_new(&self) -> bool {
        // SAFETY: By the invariant of `Task` the RCU read lock keeps the task from being freed.
        unsafe { shim::ksm_v_task_is_new(self.task.as_ptr()) }
    }

    /// The task itself.
    pub(super) fn task(&self) -> Task<'a> {
        self.task
    }

    /// The address space that the task owns.
    pub(super) fn mm(&self) -> &'a Mm {
        self.mm
    }

    /// The id of the task's cgroup in the unified hierarchy.
    pub(crate) fn cgroup_id(&self) -> u64 {
        // SAFETY: By the invariant of `Task` the RCU read lock keeps the task from being freed. It also
        // protects the cgroup.
        unsafe { shim::ksm_v_task_cgroup_id(self.task.as_ptr()) }
    }

    /// An identifier that no other address space has, or had before.
    pub(crate) fn address_space_id(&self) -> u64 {
        self.task.id_of(self.mm)
    }

    /// The identity of the address space in the seats of shared frames.
    ///
    /// `PF_FORKNOEXEC` means that the owner was forked and has not called exec since. A task without that flag
    /// got its address space by exec, so nothing was inherited. Every other task that could become the owner
    /// later has the flag, so [`Self::address_space_id`] is used with this owner only, and does not change. If
    /// the owner has the flag, it may be replaced, but only by a task that was started after the address space
    /// was copied (`copy_process()` records the start time after that). Such address spaces are identified by
    /// their address alone.
    pub(crate) fn space(&self) -> Space {
        let task = self.task.as_ptr();
        // SAFETY: By the invariant of `Task` the RCU read lock keeps the task from being freed. An exec
        // replaces `mm` under the task lock, then clears the flag, and soon is no longer the owner of the
        // old address space.
        let is_forked = unsafe {
            shim::ksm_v_task_lock(task);
            let is_forked =
                shim::ksm_v_task_is_forked(task) || shim::ksm_v_task_mm(task) != self.mm.as_raw();
            shim::ksm_v_task_unlock(task);
            is_forked
        };
        if is_forked {
            Space {
                id: mix(self.mm.as_raw() as u64),
                forked_at: Some(self.task.start_time()),
            }
        } else {
            Space {
                id: self.address_space_id(),
                forked_at: None,
            }
        }
    }

    /// The name of the task for the kernel log, in which unprintable characters are replaced.
    pub(crate) fn comm(&self) -> [u8; COMM_LEN] {
        let mut comm = [0; COMM_LEN];
        // SAFETY: By the invariant of `Task` the RCU read lock keeps the task from being freed. The buffer
        // is as long as a name.
        unsafe { shim::ksm_v_get_task_comm(comm.as_mut_ptr().cast(), self.task.as_ptr()) };
        comm.map(|byte| match byte {
            0 | b' '..=b'~' => byte,
            _ => b'?',
        })
    }

    /// The process id in the initial namespace.
    pub(crate) fn tgid(&self) -> i32 {
        self.task.tgid()
    }
}
