// SPDX-License-Identifier: GPL-2.0

//! Runs one suite, from loading the module to unloading it.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::kmsg::Kmsg;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::process::peer::User;
use guest::process::task;
use guest::rng::Rng;
use guest::Context;
use guest::Result;

use crate::checker;
use crate::child;
use crate::clock;
use crate::crew::Crew;
use crate::job::Job;
use crate::leaks;
use crate::leaks::Baseline;
use crate::observer;
use crate::observer::Observer;
use crate::priority;
use crate::report::Outcome;
use crate::report::Verdict;
use crate::suite::Suite;
use crate::tally;
use crate::tally::Phase;
use crate::tally::Tally;
use crate::worker;

/// The harness's index for random choices; workers have their own.
const HARNESS: u64 = u64::MAX;
/// Pages of a cycle: more than a guest has, so that the scanner hardly pauses.
const SCAN_RATE: u64 = 1_000_000;

/// Longest wait after the work for the scanner's and the checker's first results.
const MORE_TIME: Duration = task::PATIENCE;

/// A running suite.
pub struct Stage {
    suite: &'static Suite,
    seed: u64,
    time: Duration,
    /// The counts of all processes.
    pub tally: Tally,
    path: String,
    crew: Mutex<Crew>,
}

/// The part of a stage that a suite's `direct` may use.
impl Stage {
    /// The harness's random choices in this suite.
    pub fn rng(&self) -> Rng {
        worker::rng_of(self.seed, self.suite.name, HARNESS)
    }

    /// Returns whether there is time left for work.
    pub fn has_time(&self) -> bool {
        clock::now() < self.deadline()
    }

    /// Waits until time is up.
    pub fn wait(&self) {
        std::thread::sleep(self.deadline().saturating_sub(clock::now()));
    }

    /// The deadline; only called when the work has begun.
    fn deadline(&self) -> Duration {
        self.tally.deadline().unwrap_or_default()
    }

    /// Kills the worker with this index, and waits until it is gone.
    pub fn kill_worker(&self, index: usize) -> Result {
        self.crew().kill_worker(index)
    }
}

/// Runs a suite, whose workers work for the given time.
pub fn run(suite: &'static Suite, seed: u64, seconds: u64) -> Outcome {
    let start = Instant::now();
    let mut counts = Vec::new();
    let result = watched(|| {
        module::reload("")?;
        if let Some(why) = (suite.lacks)() {
            module::unload()?;
            return Ok(Verdict::Ignored(why));
        }
        let stage = Stage::open(suite, seed, seconds)?;
        let result = all_of([stage.play(), stage.clear()]);
        counts = stage.tally.counts();
        result.map(|()| Verdict::Passed)
    });
    Outcome {
        suite: suite.name,
        seed,
        verdict: result.unwrap_or_else(|failed| {
            Verdict::Failed(failed.message().unwrap_or("failed").to_owned())
        }),
        time: start.elapsed(),
        counts,
    }
}

/// Runs a function that must not leak memory or make the kernel complain.
fn watched(body: impl FnOnce() -> Result<Verdict>) -> Result<Verdict> {
    let mut log = Kmsg::open()?;
    let before = Baseline::take()?;
    let result = body();
    let surroundings = all_of([log.expect_quiet(), before.expect_back()]);
    match result {
        Ok(verdict) => surroundings.map(|()| verdict),
        Err(failed) => all_of([Err(failed), surroundings]).map(|()| Verdict::Passed),
    }
}

/// Fails with all failures.
fn all_of(results: impl IntoIterator<Item = Result>) -> Result {
    let failures: Vec<String> = results
        .into_iter()
        .filter_map(Result::err)
        .map(|failed| failed.message().unwrap_or("failed").to_owned())
        .collect();
    expect::that(failures.is_empty(), || failures.join("\n"))
}

impl Stage {
    fn open(suite: &'static Suite, seed: u64, seconds: u64) -> Result<Self> {
        let path = format!("/dev/shm/ksm_v_soak.{}.{}", std::process::id(), suite.name);
        let tally = Tally::create(&path)?;
        for name in [tally::BYTES_VERIFIED, tally::MISMATCHES] {
            tally.add(name, 0);
        }
        scanner::settle_knobs()?;
        let time = Duration::from_secs(seconds);
        let stage = Stage {
            suite,
            seed,
            time,
            tally,
            path,
            crew: Mutex::new(Crew::new(tally, suite.kills_workers)),
        };
        let mut rng = stage.rng();
        knob::set("promote_after", 1 + rng.below(2))?;
        knob::set("max_interval", 1u64 << rng.below(4))?;
        knob::set("threads", 1 + rng.below(2))?;
        knob::set("huge_min_parts", 1 + 63 * rng.below(2))?;
        knob::set("scan_rate", SCAN_RATE)?;
        for &(name, value) in suite.knobs {
            knob::set(name, value)?;
        }
        Ok(stage)
    }

    /// The work and its end: everything is unmerged while the workers still have their memory.
    fn play(&self) -> Result {
        let (observer, stop) = (Observer::begin(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| observer.observe(&self.tally, &stop));
            let worked = self.work();
            stop.store(true, Relaxed);
            worked
        })?;
        module::ensure_loaded()?;
        let start = Instant::now();
        self.unmerge().during(|| "beside the workers")?;
        let milliseconds = start.elapsed().as_millis() as u64;
        self.tally.peak("ms to unmerge everything", milliseconds);
        self.tally.begin(Phase::Unmerged);
        self.crew().wait_ended()?;
        self.expect_done()
    }

    /// Breaks all merged pages apart, except where failed memory cannot be read.
    fn unmerge(&self) -> Result {
        let unmerged = knob::try_write("run", b"2");
        match unmerged {
            Err(error) if self.suite.fails_memory && error.raw_os_error() == Some(libc::EIO) => {
                self.tally.count("unmerged all but failed frames");
                Ok(())
            }
            other => other.context(|| "writing 2 to run"),
        }
    }

    /// Lets the scanner run and the crew set up and work, until all workers have done their work.
    fn work(&self) -> Result {
        priority::prefer_scanner()?;
        scanner::start()?;
        self.assemble()?;
        self.crew().wait_ready()?;
        self.tally.start(clock::now() + self.time);
        let directed = (self.suite.direct)(self);
        let left = self.deadline().saturating_sub(clock::now());
        let arrived = self.crew().wait_arrived(left);
        all_of([directed, arrived])?;
        self.wait_done();
        Ok(())
    }

    /// The crew is consistent even if a thread panicked while holding the lock.
    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    fn assemble(&self) -> Result {
        for (index, &user) in self.suite.crew.iter().enumerate() {
            self.start(user, self.suite.name, index)?;
        }
        self.start(User::Root, checker::NAME, 0).map(drop)
    }

    fn start(&self, user: User, suite: &str, index: usize) -> Result<i32> {
        let job = Job {
            suite: suite.to_owned(),
            index,
            seed: self.seed,
            time: self.time,
            tally: self.path.clone(),
        };
        self.crew().start(user, job)
    }

    /// Counts that must not be 0 at the end: a suite that did nothing would pass.
    fn needed(&self) -> &'static [&'static str] {
        if self.suite.may_merge_nothing {
            &[tally::BYTES_VERIFIED]
        } else {
            &[tally::BYTES_VERIFIED, observer::MERGES, checker::CHECKED]
        }
    }

    /// Waits for the first results of the scanner and the checker, which a slow machine delays.
    fn wait_done(&self) {
        let is_done = || self.needed().iter().all(|name| self.tally.sum(name) > 0);
        task::wait_until(MORE_TIME, is_done);
    }

    fn expect_done(&self) -> Result {
        for name in self.needed() {
            expect::ne(name, 0, self.tally.sum(name))?;
        }
        expect::eq(tally::MISMATCHES, 0, self.tally.sum(tally::MISMATCHES))
    }

    /// Ends everything, even after failures, and expects that nothing is left.
    fn clear(&self) -> Result {
        *self.crew() = Crew::new(self.tally, false);
        child::end_all()?;
        module::ensure_loaded()?;
        scanner::unmerge().during(|| "after the workers")?;
        for name in ["pages_shared", "pages_sharing"] {
            expect::eq(
                format!("{name} after everything was unmerged"),
                0,
                knob::number(name)?,
            )?;
        }
        leaks::expect_no_merged_frame()?;
        module::unload_as_it_is()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A tmpfs file that this process made.
        let _ = fs::remove_file(&self.path);
    }
}
