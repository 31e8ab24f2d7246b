// SPDX-License-Identifier: GPL-2.0

//! Tasks, as they are found under RCU.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use crate::shim;
use core::marker::PhantomData;
use core::ptr::NonNull;
use engine::hash::mix_all;
use kernel::bindings;
use kernel::mm::Mm;
use kernel::sync::aref::ARef;
use kernel::sync::rcu;

/// A task, as long as an RCU read lock is held.
///
/// # Invariants
///
/// `task` was found under the RCU read lock, which is held for `'a`.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    task: NonNull<bindings::task_struct>,
    _rcu: PhantomData<&'a rcu::Guard>,
}

impl<'a> Task<'a> {
    /// Wraps a task.
    ///
    /// # Safety
    ///
    /// `task` must have been found under the RCU read lock, which must be held for `'a`.
    pub(super) unsafe fn from_raw(task: NonNull<bindings::task_struct>) -> Self {
        // INVARIANT: The caller promises that the task was found under the RCU read lock, held for `'a`.
        Task {
            task,
            _rcu: PhantomData,
        }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::task_struct {
        self.task.as_ptr()
    }

    /// Whether users may inspect the process. They may not if it holds secrets of others (set-uid programs,
    /// ssh-agent).
    pub(super) fn is_dumpable(&self) -> bool {
        // SAFETY: By the type invariant the RCU read lock keeps the task from being freed.
        unsafe { shim::ksm_v_task_is_dumpable(self.as_ptr()) }
    }

    /// The process id in the initial namespace.
    pub(super) fn tgid(&self) -> i32 {
        // SAFETY: By the type invariant the RCU read lock keeps the task from being freed.
        unsafe { shim::ksm_v_task_tgid(self.as_ptr()) }
    }

    /// The time when the task was forked, in nanoseconds since boot.
    pub(super) fn start_time(&self) -> u64 {
        // SAFETY: By the type invariant the RCU read lock keeps the task from being freed.
        unsafe { shim::ksm_v_task_start_time(self.as_ptr()) }
    }

    /// The first thread of the parent: of the process that created this one, or that adopted it. A tracer is no
    /// parent. `None` if the task has been reaped.
    pub(super) fn parent(&self) -> Option<Self> {
        // SAFETY: By the type invariant the RCU read lock keeps the task from being freed. A task that has
        // not been reaped has a parent that has not been reaped, which is freed no sooner than RCU allows.
        let parent = NonNull::new(unsafe { shim::ksm_v_task_real_parent(self.as_ptr()) })?;
        // SAFETY: As above. A leader is reaped after its threads, or after another thread took its place
        // (`de_thread()`), and also freed no sooner than RCU allows.
        let leader = unsafe { shim::ksm_v_task_group_leader(parent.as_ptr()) };
        // SAFETY: The leader, which every task has, was found under the RCU read lock, which is held for
        // `'a`.
        Some(unsafe { Self::from_raw(NonNull::new(leader)?) })
    }

    /// The address space of the task; `None` for a kernel thread, and after the task has exited.
    pub(super) fn address_space(&self) -> Option<ARef<Mm>> {
        let task = self.as_ptr();
        // SAFETY: By the type invariant the RCU read lock keeps the task from being freed. The task lock
        // keeps `mm` in place until it is referenced.
        unsafe {
            if shim::ksm_v_task_is_kthread(task) {
                return None;
            }
            shim::ksm_v_task_lock(task);
            let mm = NonNull::new(shim::ksm_v_task_mm(task));
            // `ARef::from` takes a reference for the result.
            let mm = mm.map(|mm| ARef::from(Mm::from_raw(mm.as_ptr())));
            shim::ksm_v_task_unlock(task);
            mm
        }
    }

    /// An identifier of `mm`, an address space of this task, that no other address space has, or had before.
    ///
    /// An `mm_struct` has no id, and its memory is reused. Its address, together with its owner's id and
    /// start time, is unique in practice.
    pub(super) fn id_of(&self, mm: &Mm) -> u64 {
        let id = self.tgid().unsigned_abs();
        mix_all([mm.as_raw() as u64, id.into(), self.start_time()])
    }
}
