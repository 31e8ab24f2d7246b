// SPDX-License-Identifier: GPL-2.0

//! Many threads control the module, load and unload it, while it merges. Pages keep their contents
//! all the time.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::rng::Rng;
use guest::Context;
use guest::Result;

use super::writers;
use crate::priority;
use crate::region::Region;
use crate::stage::Stage;
use crate::suite::Suite;
use crate::worker::Worker;

mod knobs;

/// The suite.
pub const SUITE: Suite = Suite {
    direct,
    ..Suite::new(
        "control",
        "knobs written by 8 threads, valid and not, and the module loaded and unloaded",
        work,
    )
};

/// Number of threads that write to knobs.
const THREADS: usize = 8;
/// Pages of a worker.
const PAGES: u64 = 128;

fn work(worker: &mut Worker) -> Result {
    let mut region = Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?;
    worker.work(&mut region, writers::STEPS)?;
    worker.finish([&region])
}

fn direct(stage: &Stage) -> Result {
    let mut rng = stage.rng();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let rng = Rng::new(rng.number());
                scope.spawn(move || knobs::write(stage, rng))
            })
            .collect();
        let reloaded = reload(stage, &mut rng);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
            .and(reloaded)
    })?;
    merge_again()
}

/// Unloads the module at random moments and loads it again, repeatedly.
fn reload(stage: &Stage, rng: &mut Rng) -> Result {
    while stage.has_time() {
        pause(rng, 150);
        unload(stage)?;
        pause(rng, 20);
        timed(stage, "insmod", || module::load(""))?;
        merge_again()?;
    }
    Ok(())
}

/// The kernel refuses to unload the module itself while pages are merged.
fn unload(stage: &Stage) -> Result {
    match module::try_unload() {
        Err(error) if module::is_in_use(&error) => {
            stage.tally.count("rmmod refused");
            timed(stage, "run=2 and rmmod", module::unload_beside_writers)
        }
        result => {
            stage.tally.count("rmmod at once");
            result.context(|| "rmmod")
        }
    }
}

/// Resets all knobs that others have written meanwhile.
fn merge_again() -> Result {
    let settings = [
        ("scan_rate", "100000"),
        ("sleep_ms", "0"),
        ("promote_after", "1"),
        ("max_interval", "1"),
        ("max_cpu", "100"),
        ("governor", "manual"),
        ("threads", "2"),
        ("scope", "all"),
    ];
    settings
        .iter()
        .try_for_each(|(name, value)| knob::set(name, value))?;
    priority::prefer_scanner()?;
    scanner::start()
}

/// Counts an operation, and keeps its longest time.
fn timed(stage: &Stage, name: &str, action: impl FnOnce() -> Result) -> Result {
    let start = Instant::now();
    action()?;
    let milliseconds = start.elapsed().as_millis() as u64;
    stage.tally.count(name);
    stage.tally.peak(&format!("ms of {name}"), milliseconds);
    Ok(())
}

fn pause(rng: &mut Rng, most_milliseconds: u64) {
    thread::sleep(Duration::from_millis(rng.below(most_milliseconds)));
}
