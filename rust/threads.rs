// SPDX-License-Identifier: GPL-2.0

//! The kernel threads `ksm_v_scand`, which scan.

use crate::commons::Turn;
use crate::commons::IDLE_MS;
use crate::commons::MOST_THREADS;
use crate::daemon::Daemon;
use crate::mm::movers;
use crate::mm::sharers;
use crate::mm::zero;
use crate::scanner::Scanner;
use crate::sys::kthread::cond_resched;
use crate::sys::kthread::ns_since;
use crate::sys::kthread::own_cpu_ns;
use crate::sys::kthread::should_stop;
use crate::sys::kthread::Body;
use crate::sys::kthread::Kthread;
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
/// As ksmd: scanning is worth less than anything an application does.
const NICE: i8 = 5;

/// The threads of a scanner. Dropping them stops them.
#[pin_data]
pub(crate) struct Threads {
    #[pin]
    crew: Mutex<Crew>,
    daemon: Arc<Daemon>,
}

struct Crew {
    threads: KVec<Kthread<Hand>>,
    /// Time for which threads have run that are not there any more, in nanoseconds.
    retired_ns: u64,
}

impl Threads {
    /// Starts one thread.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`.
    pub(crate) fn new(daemon: Arc<Daemon>) -> Result<Pin<KBox<Self>>> {
        let mut crew = Crew {
            threads: KVec::with_capacity(MOST_THREADS as usize, GFP_KERNEL)?,
            retired_ns: 0,
        };
        crew.grow(&daemon, 1)?;
        KBox::pin_init(
            pin_init!(Threads {
                crew <- new_mutex!(crew, "ksm_v::crew"),
                daemon,
            }),
            GFP_KERNEL,
        )
    }

    /// What the threads work for.
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// As [`Self::daemon`], for who may outlive the threads.
    pub(crate) fn share_daemon(&self) -> Arc<Daemon> {
        self.daemon.clone()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.crew.lock().threads.len()
    }

    /// Has so many threads scan, at least one.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`: there are as many as before.
    pub(crate) fn set_count(&self, count: usize) -> Result {
        let mut crew = self.crew.lock();
        let before = crew.threads.len();
        let grown = crew.grow(&self.daemon, count.min(MOST_THREADS as usize));
        crew.shrink(if grown.is_ok() { count.max(1) } else { before });
        drop(crew);
        // Those that are left have the work of the others.
        self.daemon.commons().wake();
        grown
    }

    /// Time for which all threads have run, in nanoseconds: exact while they sleep, up to a tick old
    /// for each that runs.
    pub(crate) fn cpu_ns(&self) -> u64 {
        let crew = self.crew.lock();
        let running = crew.threads.iter().map(Kthread::cpu_ns);
        running.fold(crew.retired_ns, u64::saturating_add)
    }
}

impl Crew {
    fn grow(&mut self, daemon: &Arc<Daemon>, count: usize) -> Result {
        while self.threads.len() < count {
            let hand = Hand::new(daemon.clone())?;
            let thread = Kthread::spawn(NAME, self.threads.len(), NICE, hand)?;
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

/// What one thread does.
#[pin_data]
struct Hand {
    daemon: Arc<Daemon>,
    /// Its own; nobody else asks for it.
    #[pin]
    scanner: Mutex<Scanner>,
    is_stopping: Atomic<bool>,
    /// Since when its time is counted.
    start: Instant<Monotonic>,
}

impl Hand {
    fn new(daemon: Arc<Daemon>) -> Result<Arc<Self>> {
        let scanner = Scanner::new()?;
        Arc::pin_init(
            pin_init!(Hand {
                daemon,
                scanner <- new_mutex!(scanner, "ksm_v::scanner"),
                is_stopping: Atomic::new(false),
                start: Instant::now(),
            }),
            GFP_KERNEL,
        )
    }

    /// Looks at as many pages as a cycle has, a batch at a time, unless it has to rest before.
    /// Returns for how long to sleep then, in milliseconds.
    fn cycle(&self, account: &mut Account) -> u32 {
        let commons = self.daemon.commons();
        let mut done = 0u32;
        loop {
            let sleep_ms = match commons.next_turn(&self.is_stopping, done) {
                Turn::Scan { step, place, limit } => {
                    // Within the step: the pass does not end before the place has been looked at.
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
            let rest_ms = self.daemon.end_step(account, self.clocks());
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

    /// What the clocks say, to the thread itself.
    fn clocks(&self) -> Clocks {
        Clocks {
            now: ns_since(self.start),
            ran: own_cpu_ns(),
        }
    }
}

impl Body for Hand {
    fn run(&self) {
        let commons = self.daemon.commons();
        let mut account = Account::default();
        while commons.wait_until_enabled(&self.is_stopping) && !should_stop() {
            let changes = commons.changes();
            let sleep_ms = self.cycle(&mut account);
            commons.pause(&self.is_stopping, sleep_ms, changes);
        }
        wait_for_stop();
    }

    fn interrupt(&self) {
        self.daemon.commons().stop(&self.is_stopping);
    }
}

/// Waits until the owner's `kthread_stop()` is on its way, which it is: a thread must not end
/// before.
fn wait_for_stop() {
    while !should_stop() {
        kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
    }
}
