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

/// What a thread does.
pub(crate) trait Body: Send + Sync {
    /// Runs until [`should_stop`] is true, and then returns soon.
    fn run(&self);

    /// Wakes [`Body::run`] from whatever it waits for, for good. Called before the thread is
    /// asked to stop.
    fn interrupt(&self);
}

/// A running thread; dropping it stops it and waits for its end.
///
/// # Invariants
///
/// `task` is a thread made by [`Kthread::spawn`], which has not been stopped.
pub(crate) struct Kthread<T: Body> {
    task: ARef<Task>,
    body: Arc<T>,
}

impl<T: Body> Kthread<T> {
    /// Starts a freezable thread that runs `body`. The first is called `name`, all others have their
    /// number behind it.
    ///
    /// # Errors
    ///
    /// Those of `kthread_create_on_node()`: `ENOMEM`, `EINTR`.
    pub(crate) fn spawn(
        name: &'static CStr,
        number: usize,
        nice: i8,
        body: Arc<T>,
    ) -> Result<Self> {
        let format = if number == 0 { c"%s" } else { c"%s/%zu" };
        let data = Arc::into_raw(body.clone());
        // SAFETY: `entry::<T>` takes what `data` is, a counted reference; the formats take a C string,
        // and a number, which one of them leaves alone.
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
                // SAFETY: No thread was made that could have taken this reference.
                drop(unsafe { Arc::from_raw(data) });
                return Err(error);
            }
        };
        // SAFETY: The thread exists: it waits to be woken for the first time. `Task` is a
        // `task_struct`.
        let task = unsafe {
            bindings::set_user_nice(task.as_ptr(), nice.into());
            let reference = ARef::from(task.cast::<Task>().as_ref());
            bindings::wake_up_process(task.as_ptr());
            reference
        };
        // INVARIANT: It was just made.
        Ok(Kthread { task, body })
    }

    /// Time that the thread has run, in nanoseconds.
    ///
    /// Exact while it sleeps; up to a tick old while it runs.
    pub(crate) fn cpu_ns(&self) -> u64 {
        cpu_ns(&self.task)
    }

    /// Stops the thread, and says how long it has run, in nanoseconds.
    pub(crate) fn stop(self) -> u64 {
        let task = self.task.clone();
        drop(self);
        cpu_ns(&task)
    }
}

impl<T: Body> Drop for Kthread<T> {
    fn drop(&mut self) {
        self.body.interrupt();
        // SAFETY: By the type invariant the task exists and was not stopped before.
        let never_ran = unsafe { bindings::kthread_stop(self.task.as_ptr()) } != 0;
        if never_ran {
            // SAFETY: `entry` returns 0, so it was not called, and the reference made for it in
            // `spawn` is still to be dropped.
            drop(unsafe { Arc::from_raw(Arc::as_ptr(&self.body)) });
        }
    }
}

/// Where the thread begins.
///
/// # Safety
///
/// `data` must be what `Arc::<T>::into_raw` returned, to be used once.
unsafe extern "C" fn entry<T: Body>(data: *mut c_void) -> c_int {
    // SAFETY: Promised by the caller.
    let body = unsafe { Arc::<T>::from_raw(data.cast_const().cast()) };
    // SAFETY: Called by a kernel thread, of itself.
    unsafe { bindings::set_freezable() };
    body.run();
    0
}

/// Time that the calling thread has run, in nanoseconds: up to a tick old.
pub(crate) fn own_cpu_ns() -> u64 {
    cpu_ns(current!())
}

/// The time since boot, suspended or not, in nanoseconds: by which the kernel knows when a process was
/// started.
pub(crate) fn boot_time_ns() -> u64 {
    // SAFETY: May be called at any time.
    unsafe { shim::ksm_v_ktime_get_boottime_ns() }
}

/// Time that has passed since `start`, in nanoseconds.
pub(crate) fn ns_since(start: Instant<Monotonic>) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(0)
}

fn cpu_ns(task: &Task) -> u64 {
    // SAFETY: The task exists.
    unsafe { shim::ksm_v_task_sum_exec_runtime(task.as_ptr()) }
}

/// Lets others run that want to, and the kernel's RCU see that this thread does. Called with no lock
/// held.
pub(crate) fn cond_resched() {
    // SAFETY: No lock is held.
    unsafe { shim::ksm_v_cond_resched_tasks_rcu_qs() };
}

/// Freezes the calling kernel thread while the system sleeps, and says whether its owner wants it
/// to end. Called with no lock held.
pub(crate) fn should_stop() -> bool {
    // SAFETY: A null pointer says that the caller does not care whether it was frozen.
    unsafe { bindings::kthread_freezable_should_stop(core::ptr::null_mut()) }
}
