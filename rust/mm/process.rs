// SPDX-License-Identifier: GPL-2.0

//! The processes of the system, one after the other, and who owns an address space.
//!
//! C headers: [`include/linux/pid.h`](srctree/include/linux/pid.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use crate::mm::credentials::Credentials;
use crate::shim;
use core::marker::PhantomData;
use core::ptr::NonNull;
use engine::hash::mix;
use engine::Space;
use kernel::bindings;
use kernel::mm::Mm;
use kernel::sync::aref::ARef;
use kernel::sync::rcu;

/// Bytes of a task's name, with a zero at its end.
pub(crate) const COMM_LEN: usize = 16;

/// A place in the table of process ids (of the initial namespace).
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    last: i32,
    /// Ids that were passed since somebody asked.
    passed: u32,
}

impl Cursor {
    /// Finds the next process that has an address space; `None` at the end of the table, after
    /// which the cursor is at its beginning again.
    ///
    /// Needs no list of processes that could go stale: those that come and go meanwhile are found
    /// or not, as the ids happen to lie.
    pub(crate) fn next(&mut self) -> Option<ARef<Mm>> {
        let rcu = rcu::read_lock();
        loop {
            let Some(pid) = self.next_pid(&rcu) else {
                self.last = 0;
                return None;
            };
            // An address space that several processes share (vfork) is met at its owner only.
            if let Some(mm) = address_space(pid, &rcu).filter(|mm| self.is_at_owner(mm, &rcu)) {
                return Some(mm);
            }
        }
    }

    /// How many ids of processes and threads were passed since this was asked last.
    pub(crate) fn take_passed(&mut self) -> u32 {
        core::mem::take(&mut self.passed)
    }

    fn is_at_owner(&self, mm: &Mm, rcu: &rcu::Guard) -> bool {
        Owner::even_in_fork(mm, rcu).is_some_and(|owner| owner.tgid() == self.last)
    }

    /// Moves to the next process or thread id in use.
    fn next_pid(&mut self, _rcu: &rcu::Guard) -> Option<NonNull<bindings::pid>> {
        // SAFETY: The RCU read lock is held.
        let pid = NonNull::new(unsafe { shim::ksm_v_find_ge_pid(self.last.checked_add(1)?) })?;
        // SAFETY: As above, so the pid is not freed yet.
        self.last = unsafe { shim::ksm_v_pid_nr(pid.as_ptr()) };
        self.passed = self.passed.saturating_add(1);
        Some(pid)
    }
}

/// The address space of the process that the caller knows by the id `pid`; `None` as for
/// [`address_space`], and where there is no such process.
pub(crate) fn find(pid: i32) -> Option<ARef<Mm>> {
    let rcu = rcu::read_lock();
    // SAFETY: The RCU read lock is held.
    let pid = NonNull::new(unsafe { shim::find_vpid(pid) })?;
    address_space(pid, &rcu)
}

/// Whether mainline KSM knows `mm`: some of its memory is registered, or was.
pub(crate) fn is_registered(mm: &Mm) -> bool {
    // SAFETY: The mm is referenced.
    unsafe { shim::ksm_v_mm_is_ksm_mergeable(mm.as_raw()) }
}

/// The address space of the process whose id is `pid`; `None` for ids of mere threads, for kernel
/// threads and for processes that have exited.
fn address_space(pid: NonNull<bindings::pid>, _rcu: &rcu::Guard) -> Option<ARef<Mm>> {
    // SAFETY: The RCU read lock is held, also by the callers of the closure below.
    let leader = unsafe { shim::pid_task(pid.as_ptr(), bindings::pid_type_PIDTYPE_TGID) };
    let mut thread = NonNull::new(leader)?;
    // SAFETY: As above: tasks found under RCU are not freed before the lock is dropped.
    if unsafe { shim::ksm_v_task_is_kthread(thread.as_ptr()) } {
        return None;
    }
    loop {
        // A leader that has exited leaves its address space to its threads.
        if let Some(mm) = address_space_of_task(thread) {
            return Some(mm);
        }
        // SAFETY: As above.
        thread = NonNull::new(unsafe { shim::ksm_v_next_thread(thread.as_ptr()) })?;
    }
}

/// The address space of a task that was found under RCU.
fn address_space_of_task(task: NonNull<bindings::task_struct>) -> Option<ARef<Mm>> {
    let task = task.as_ptr();
    // SAFETY: The task is not freed, by the caller's RCU lock. The task lock keeps `mm` in place
    // until it is referenced.
    unsafe {
        shim::ksm_v_task_lock(task);
        let mm = NonNull::new(shim::ksm_v_task_mm(task));
        // `ARef::from` takes a reference of its own.
        let mm = mm.map(|mm| ARef::from(Mm::from_raw(mm.as_ptr())));
        shim::ksm_v_task_unlock(task);
        mm
    }
}

/// The task that owns an address space, for as long as an RCU read lock is held.
///
/// # Invariants
///
/// `task` was found under the RCU read lock that lives for `'a`.
pub(crate) struct Owner<'a> {
    task: NonNull<bindings::task_struct>,
    mm: &'a Mm,
    _rcu: PhantomData<&'a rcu::Guard>,
}

impl<'a> Owner<'a> {
    /// Finds the owner of `mm`; `None` while the last one exits, and until fork has finished it.
    ///
    /// Memory of a child in the middle of fork is nobody's: see [`crate::mm::merge`].
    pub(crate) fn of(mm: &'a Mm, rcu: &'a rcu::Guard) -> Option<Self> {
        Self::even_in_fork(mm, rcu).filter(|owner| !owner.is_new())
    }

    /// As [`Self::of`], but a child that fork has not finished is an owner, too.
    fn even_in_fork(mm: &'a Mm, _rcu: &'a rcu::Guard) -> Option<Self> {
        // SAFETY: The mm is referenced, and the RCU read lock is held.
        let task = NonNull::new(unsafe { shim::ksm_v_mm_owner(mm.as_raw()) })?;
        // INVARIANT: Found under the lock.
        Some(Owner {
            task,
            mm,
            _rcu: PhantomData,
        })
    }

    /// Whether fork has not finished the task yet.
    fn is_new(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_task_is_new(self.task.as_ptr()) }
    }

    /// The address space that it owns.
    pub(super) fn mm(&self) -> &'a Mm {
        self.mm
    }

    /// The objective credentials.
    pub(super) fn credentials(&self) -> Credentials<'a> {
        // SAFETY: By the type invariant, the task is not freed, and has credentials.
        let cred = unsafe { shim::ksm_v_task_cred(self.task.as_ptr()) };
        // SAFETY: As above: not null, and read under RCU.
        unsafe { Credentials::from_raw(NonNull::new_unchecked(cred.cast_mut())) }
    }

    /// The id of the cgroup in the unified hierarchy.
    pub(crate) fn cgroup_id(&self) -> u64 {
        // SAFETY: By the type invariant; RCU also protects the cgroup.
        unsafe { shim::ksm_v_task_cgroup_id(self.task.as_ptr()) }
    }

    /// A number that no other address space has or had, as far as anyone can tell.
    ///
    /// An `mm_struct` has no id, and its memory is used again. Together with who owns it, and
    /// since when, its address is as good as one.
    pub(crate) fn address_space_id(&self) -> u64 {
        let id = self.tgid().unsigned_abs();
        identity([self.mm.as_raw() as u64, id.into(), self.start_time()])
    }

    /// What the address space is known by where it takes seats of shared frames.
    ///
    /// `PF_FORKNOEXEC` says that the owner was forked, and has not called exec since. A task without
    /// that flag got its address space by exec: nothing was inherited, and no other task that could
    /// become its owner later lacks the flag, so that [`Self::address_space_id`] stays what it is. Of
    /// others the owner may change, but not to one that was started before the address space was
    /// copied (`copy_process()` notes the time after that); they are known by their address alone.
    pub(crate) fn space(&self) -> Space {
        let task = self.task.as_ptr();
        // SAFETY: By the type invariant. An exec clears the flag after it has exchanged `mm` under the
        // task lock, and is a moment later no more the owner of the old address space.
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
                forked_at: Some(self.start_time()),
            }
        } else {
            Space {
                id: self.address_space_id(),
                forked_at: None,
            }
        }
    }

    /// When the owner was forked, in nanoseconds since boot.
    fn start_time(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_task_start_time(self.task.as_ptr()) }
    }

    /// The name, for the kernel's log: what is not printable is replaced.
    pub(crate) fn comm(&self) -> [u8; COMM_LEN] {
        let mut comm = [0; COMM_LEN];
        // SAFETY: By the type invariant; the buffer is as long as a name.
        unsafe { shim::ksm_v_get_task_comm(comm.as_mut_ptr().cast(), self.task.as_ptr()) };
        comm.map(|byte| match byte {
            0 | b' '..=b'~' => byte,
            _ => b'?',
        })
    }

    /// The process id, in the initial namespace.
    pub(crate) fn tgid(&self) -> i32 {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_task_tgid(self.task.as_ptr()) }
    }

    /// Whether users may look into the process: not so for those which hold secrets of others
    /// (set-uid programs, ssh-agent).
    pub(crate) fn is_dumpable(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { shim::ksm_v_task_is_dumpable(self.task.as_ptr()) }
    }
}

/// Mixes the parts of an identity.
pub(super) fn identity(parts: [u64; 3]) -> u64 {
    parts.into_iter().fold(0, |id, part| mix(id ^ part))
}
