// SPDX-License-Identifier: GPL-2.0

//! The kernel threads `ksm_v_scand`, which scan.

use crate::mm::movers;
use crate::mm::sharers;
use crate::mm::zero;
use crate::scan::state::IDLE_MS;
use crate::scan::step::Scanner;
use crate::scan::turns::Commons;
use crate::scan::turns::Turn;
use crate::sys::kthread::cond_resched;
use crate::sys::kthread::ns_since;
use crate::sys::kthread::own_cpu_ns;
use crate::sys::kthread::should_stop;
use crate::sys::kthread::Body;
use crate::sys::kthread::Kthread;
use engine::knobs::MOST_THREADS;
use engine::knobs::THREADS;
use engine::pace::Account;
use engine::pace::Clocks;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::Instant;
use kernel::time::Monotonic;

const NAME: &CStr = c"ksm_v_scand";
/// The nice value of ksmd: applications take precedence over scanning.
const NICE: i8 = 5;

/// The threads of a scanner. Dropping them stops them.
#[pin_data]
pub(crate) struct Threads {
    #[pin]
    workers: Mutex<Workers>,
    commons: Arc<Commons>,
}

struct Workers {
    threads: KVec<Kthread<Worker>>,
    /// CPU time of the threads that were stopped, in nanoseconds.
    retired_ns: u64,
}

impl Threads {
    /// Starts the default number of threads.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`.
    pub(crate) fn new(commons: Arc<Commons>) -> Result<Pin<KBox<Self>>> {
        let mut workers = Workers {
            threads: KVec::with_capacity(MOST_THREADS as usize, GFP_KERNEL)?,
            retired_ns: 0,
        };
        workers.grow(&commons, THREADS.default as usize)?;
        KBox::pin_init(
            pin_init!(Threads {
                workers <- new_mutex!(workers, "ksm_v::workers"),
                commons,
            }),
            GFP_KERNEL,
        )
    }

    /// Number of threads.
    pub(crate) fn count(&self) -> usize {
        self.workers.lock().threads.len()
    }

    /// Sets the number of threads; at least one stays.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`: the number stays as it was.
    pub(crate) fn set_count(&self, count: usize) -> Result {
        let mut workers = self.workers.lock();
        let before = workers.threads.len();
        let grown = workers.grow(&self.commons, count.min(MOST_THREADS as usize));
        workers.shrink(if grown.is_ok() { count.max(1) } else { before });
        drop(workers);
        // The remaining threads take over the work of those that were stopped.
        self.commons.wake();
        grown
    }

    /// CPU time of all threads, in nanoseconds: exact for threads that sleep, up to a tick old for
    /// running ones.
    pub(crate) fn cpu_ns(&self) -> u64 {
        let workers = self.workers.lock();
        let running = workers.threads.iter().map(Kthread::cpu_ns);
        running.fold(workers.retired_ns, u64::saturating_add)
    }
}

impl Workers {
    fn grow(&mut self, commons: &Arc<Commons>, count: usize) -> Result {
        while self.threads.len() < count {
            let worker = Worker::new(commons.clone())?;
            let thread = Kthread::spawn(NAME, self.threads.len(), NICE, worker)?;
            self.threads.push(thread, GFP_KERNEL)?;
        }
        Ok(())
    }

    fn shrink(&mut self, count: usize) {
        while self.threads.len() > count {
            let Some(thread) = self.threads.pop() else {
                return;
            };
            self.retired_ns = self.retired_ns.saturating_add(thread.stop());
        }
    }
}

/// The work of one thread.
#[pin_data]
struct Worker {
    commons: Arc<Commons>,
    /// Used by this thread only.
    #[pin]
    scanner: Mutex<Scanner>,
    is_stopping: Atomic<bool>,
    /// The start of the thread's clock.
    start: Instant<Monotonic>,
}

impl Worker {
    fn new(commons: Arc<Commons>) -> Result<Arc<Self>> {
        let scanner = Scanner::new()?;
        Arc::pin_init(
            pin_init!(Worker {
                commons,
                scanner <- new_mutex!(scanner, "ksm_v::scanner"),
                is_stopping: Atomic::new(false),
                start: Instant::now(),
            }),
            GFP_KERNEL,
        )
    }

    /// Scans the pages of a cycle, a batch at a time, resting in between. Returns how long to sleep
    /// after the cycle, in milliseconds.
    fn cycle(&self, account: &mut Account) -> u32 {
        let commons = &*self.commons;
        let mut done = 0u32;
        loop {
            let sleep_ms = match commons.next_turn(&self.is_stopping, done) {
                Turn::Scan { step, place, limit } => {
                    // The pause is part of the step, so the pass does not end before the place has been
                    // scanned.
                    commons.rest(&self.is_stopping, place.wait_ms.unwrap_or(0));
                    let pages = self.scanner.lock().step(commons, place, limit);
                    drop(step);
                    done = done.saturating_add(pages);
                    None
                }
                Turn::EndPass { step, sleep_ms } => {
                    movers::leave_alone();
                    zero::correct_sum();
                    sharers::end_pass();
                    drop(step);
                    let least_ms = if done == 0 { IDLE_MS } else { 0 };
                    Some(sleep_ms.max(least_ms))
                }
                Turn::Sleep(ms) => return ms,
            };
            let rest_ms = commons.charge(account, self.clocks());
            if let Some(sleep_ms) = sleep_ms {
                return sleep_ms.max(rest_ms);
            }
            commons.rest(&self.is_stopping, rest_ms);
            cond_resched();
            if should_stop() {
                return 0;
            }
        }
    }

    /// Reads the clocks. To be called by the thread itself.
    fn clocks(&self) -> Clocks {
        Clocks {
            now: ns_since(self.start),
            ran: own_cpu_ns(),
        }
    }
}

impl Body for Worker {
    fn run(&self) {
        let commons = &*self.commons;
        let mut account = Account::default();
        while commons.wait_until_enabled(&self.is_stopping) && !should_stop() {
            let changes = commons.changes();
            let sleep_ms = self.cycle(&mut account);
            commons.pause(&self.is_stopping, sleep_ms, changes);
        }
        wait_for_stop();
    }

    fn interrupt(&self) {
        self.commons.stop(&self.is_stopping);
    }
}

/// Waits for the owner's `kthread_stop()`, which is about to be called: a kthread must not return
/// before.
fn wait_for_stop() {
    while !should_stop() {
        kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
    }
}
