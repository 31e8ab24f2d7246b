// SPDX-License-Identifier: GPL-2.0

//! Kernel threads that belong to an owner.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)

use crate::shim;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::c_int;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::task::Task;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// The work of a thread.
pub(crate) trait Body: Send + Sync {
    /// Runs until [`should_stop`] returns true, and then returns soon.
    fn run(&self);

    /// Wakes [`Body::run`] permanently from anything it waits for. Called before the thread is asked to
    /// stop.
    fn interrupt(&self);
}

/// A running thread. Dropping it stops the thread, and waits until it has ended.
///
/// # Invariants
///
/// `task` is a thread made by [`Kthread::spawn`], and was not stopped yet.
pub(crate) struct Kthread<T: Body> {
    task: ARef<Task>,
    body: Arc<T>,
}

impl<T: Body> Kthread<T> {
    /// Starts a freezable thread that runs `body`. The first thread is called `name`; the names of all
    /// others end in their number.
    ///
    /// # Errors
    ///
    /// The errors of `kthread_create_on_node()`: `ENOMEM`, `EINTR`.
    pub(crate) fn spawn(
        name: &'static CStr,
        number: usize,
        nice: i8,
        body: Arc<T>,
    ) -> Result<Self> {
        let format = if number == 0 { c"%s" } else { c"%s/%zu" };
        let data = Arc::into_raw(body.clone());
        // SAFETY: `entry::<T>` gets `data`, a counted reference to a `T`. Both formats take a C string, and
        // one of them a number; a superfluous argument is ignored.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(entry::<T>),
                data.cast_mut().cast(),
                bindings::NUMA_NO_NODE,
                format.as_char_ptr(),
                name.as_char_ptr(),
                number,
            )
        });
        let task = match task.and_then(|task| NonNull::new(task).ok_or(ENOMEM)) {
            Ok(task) => task,
            Err(error) => {
                // SAFETY: No thread was made that could have taken this reference, so it is still ours.
                drop(unsafe { Arc::from_raw(data) });
                return Err(error);
            }
        };
        // SAFETY: The new thread exists, because it waits to be woken for the first time. A `Task` is a
        // transparent wrapper of `task_struct`.
        let task = unsafe {
            bindings::set_user_nice(task.as_ptr(), nice.into());
            let reference = ARef::from(task.cast::<Task>().as_ref());
            bindings::wake_up_process(task.as_ptr());
            reference
        };
        // INVARIANT: The thread was just made, and not stopped.
        Ok(Kthread { task, body })
    }

    /// The CPU time of the thread, in nanoseconds.
    ///
    /// Exact while the thread sleeps; up to a tick old while it runs.
    pub(crate) fn cpu_ns(&self) -> u64 {
        cpu_ns(&self.task)
    }

    /// Stops the thread, and returns its CPU time in nanoseconds.
    pub(crate) fn stop(self) -> u64 {
        let task = self.task.clone();
        drop(self);
        cpu_ns(&task)
    }
}

impl<T: Body> Drop for Kthread<T> {
    fn drop(&mut self) {
        self.body.interrupt();
        // SAFETY: By the type invariant the thread was not stopped before, and `task` holds a reference to
        // it.
        let never_ran = unsafe { bindings::kthread_stop(self.task.as_ptr()) } != 0;
        if never_ran {
            // SAFETY: `entry` returns 0, so a nonzero result means that it was not called. The reference
            // that `spawn` made for it was not taken, and is dropped here.
            drop(unsafe { Arc::from_raw(Arc::as_ptr(&self.body)) });
        }
    }
}

/// The first function of the thread.
///
/// # Safety
///
/// `data` must have been returned by `Arc::<T>::into_raw`, and must be passed to one call only.
unsafe extern "C" fn entry<T: Body>(data: *mut c_void) -> c_int {
    // SAFETY: The caller promises that `data` came from `Arc::<T>::into_raw`, and gives up that reference.
    let body = unsafe { Arc::<T>::from_raw(data.cast_const().cast()) };
    // SAFETY: The calling thread is a kernel thread, and makes only itself freezable.
    unsafe { bindings::set_freezable() };
    body.run();
    0
}

/// The CPU time of the calling thread, in nanoseconds; up to a tick old.
pub(crate) fn own_cpu_ns() -> u64 {
    cpu_ns(current!())
}

/// The time since boot including suspend, in nanoseconds: the clock by which the kernel records when a
/// process was started.
pub(crate) fn boot_time_ns() -> u64 {
    // SAFETY: The function reads a clock, and may be called at any time.
    unsafe { shim::ksm_v_ktime_get_boottime_ns() }
}

/// The time since `start`, in nanoseconds.
pub(crate) fn ns_since(start: Instant<Monotonic>) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(0)
}

fn cpu_ns(task: &Task) -> u64 {
    // SAFETY: The reference to a `Task` shows that the task exists.
    unsafe { shim::ksm_v_task_sum_exec_runtime(task.as_ptr()) }
}

/// Lets other threads run if they want to, and reports a quiescent state of Tasks RCU. The caller must be
/// allowed to sleep: it may hold mutexes and the like, but no spinlock and no RCU read lock.
pub(crate) fn cond_resched() {
    // SAFETY: The callers may sleep, and hold no spinlock or RCU read lock.
    unsafe { shim::ksm_v_cond_resched_tasks_rcu_qs() };
}

/// Freezes the calling kernel thread while the system is suspended, and returns whether the thread is asked
/// to stop. The caller must hold no lock.
pub(crate) fn should_stop() -> bool {
    // SAFETY: A kernel thread calls this about itself. A null pointer means that the caller does not need
    // to know whether the thread was frozen.
    unsafe { bindings::kthread_freezable_should_stop(core::ptr::null_mut()) }
}
