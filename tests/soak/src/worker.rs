// SPDX-License-Identifier: GPL-2.0

//! A process of a suite: its state and its work.

use std::time::Duration;

use guest::expect::FailureContext;
use guest::rng::mix;
use guest::rng::Rng;
use guest::Result;

use crate::checker;
use crate::clock;
use crate::job::Job;
use crate::priority;
use crate::region::Region;
use crate::suites;
use crate::tally::Phase;
use crate::tally::Tally;

/// The state of a worker.
pub struct Worker {
    /// Its index, from 0.
    pub index: usize,
    /// Its random choices, from the seed, the suite and its index.
    pub rng: Rng,
    /// Its counts.
    pub tally: Tally,
}

/// A random operation of a worker: its name, its weight among the operations, and the function
/// that does it on `S`, the worker's memory.
pub type Step<S> = (&'static str, u64, fn(&mut S, &mut Worker) -> Result);

impl Worker {
    fn new(job: &Job) -> Result<Self> {
        Ok(Worker {
            index: job.index,
            rng: rng_of(job.seed, &job.suite, job.index as u64),
            tally: Tally::open(&job.tally)?,
        })
    }

    /// The same worker for a child or a thread, with other random choices.
    pub fn fork(&mut self) -> Worker {
        Worker {
            rng: Rng::new(self.rng.number()),
            ..*self
        }
    }

    /// Returns whether there is time left for work.
    ///
    /// The first call waits until all workers have called it: setting up takes its own time, before
    /// that call.
    pub fn has_time(&self) -> bool {
        clock::now() < self.deadline()
    }

    fn deadline(&self) -> Duration {
        self.tally.be_ready(self.index);
        loop {
            if let Some(deadline) = self.tally.deadline() {
                return deadline;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How much time is left. Waits as [`Worker::has_time`] does.
    pub fn time_left(&self) -> Duration {
        self.deadline().saturating_sub(clock::now())
    }

    /// Does random `steps` until time is up, and counts each by its name.
    pub fn work<S>(&mut self, state: &mut S, steps: &[Step<S>]) -> Result {
        let weights: u64 = steps.iter().map(|(_, weight, _)| weight).sum();
        let mut done = 0u64;
        while self.has_time() {
            let (name, step) = choose(steps, self.rng.below(weights));
            step(state, self).during(|| format!("step {done}, {name}"))?;
            self.tally.count(name);
            done += 1;
        }
        Ok(())
    }

    /// Called when the work is done: verifies the regions, waits until the harness has unmerged
    /// everything, and verifies them again.
    pub fn finish<'a>(&self, regions: impl IntoIterator<Item = &'a Region>) -> Result {
        let regions: Vec<&Region> = regions.into_iter().collect();
        self.finish_by(|| {
            regions
                .iter()
                .try_for_each(|region| region.verify_all(&self.tally))
        })
    }

    /// As [`Worker::finish`], with another function that verifies.
    pub fn finish_by(&self, mut verify: impl FnMut() -> Result) -> Result {
        verify().during(|| "after the work")?;
        self.tally.arrive(self.index);
        while self.tally.phase() == Phase::Work {
            std::thread::sleep(Duration::from_millis(2));
        }
        verify().during(|| "after everything was unmerged")
    }
}

fn choose<S>(
    steps: &[Step<S>],
    mut number: u64,
) -> (&'static str, fn(&mut S, &mut Worker) -> Result) {
    for &(name, weight, step) in steps {
        if number < weight {
            return (name, step);
        }
        number -= weight;
    }
    unreachable!("the number is below the sum of the weights");
}

/// The random choices of one process of a suite.
pub fn rng_of(seed: u64, suite: &str, index: u64) -> Rng {
    let suite = suite
        .bytes()
        .fold(seed, |hash, byte| mix(hash ^ u64::from(byte)));
    Rng::new(mix(suite ^ index))
}

/// Runs the job that the harness gave this process.
pub fn run(job: &Job) -> Result {
    let mut worker = Worker::new(job)?;
    priority::give_way()?;
    if job.suite == checker::NAME {
        return checker::run(&worker);
    }
    let suite = suites::find(&job.suite).ok_or_else(|| format!("no suite {}", job.suite))?;
    (suite.work)(&mut worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_choose_differently_and_alike_when_replayed() {
        let number = |seed, suite, index| rng_of(seed, suite, index).number();
        assert_eq!(number(1, "writers", 0), number(1, "writers", 0));
        assert_ne!(number(1, "writers", 0), number(2, "writers", 0));
        assert_ne!(number(1, "writers", 0), number(1, "control", 0));
        assert_ne!(number(1, "writers", 0), number(1, "writers", 1));
    }
}
