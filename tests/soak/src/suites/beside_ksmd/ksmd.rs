// SPDX-License-Identifier: GPL-2.0

//! The harness's changes to ksmd. The module is faster than ksmd, so its scanner stops until ksmd
//! has merged something, and from time to time later.

use std::time::Duration;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob::MAINLINE;
use guest::ksm_v::scanner;
use guest::process::task;
use guest::Result;

use crate::stage::Stage;

/// How long ksmd may take to merge something, beside all workers.
const FIRST_MERGE: Duration = task::PATIENCE;
/// Longest pause between two changes, in milliseconds.
const PAUSE: u64 = 300;
/// The module stops in one of this many pauses.
const STILL: u64 = 4;

/// Random changes: files and values.
const CHANGES: &[(&str, &str)] = &[
    ("run", "0"),
    ("run", "1"),
    ("run", "1"),
    ("run", "1"),
    ("run", "2"),
    ("use_zero_pages", "0"),
    ("use_zero_pages", "1"),
    ("smart_scan", "0"),
    ("smart_scan", "1"),
];

/// Lets ksmd run, and changes its settings, until time is up.
pub fn run(stage: &Stage) -> Result {
    let changed = change(stage);
    // Unmerges ksmd's pages for good.
    for (name, value) in [("run", "2"), ("use_zero_pages", "0"), ("smart_scan", "1")] {
        set(name, value)?;
    }
    changed
}

fn change(stage: &Stage) -> Result {
    set("sleep_millisecs", "0")?;
    set("pages_to_scan", "10000")?;
    set("run", "1")?;
    scanner::stop()?;
    // Workers register their memory with ksmd when they begin.
    let merges = task::wait_until(FIRST_MERGE, || sharing().is_ok_and(|sharing| sharing > 0));
    expect::that(merges, || {
        format!("ksmd merged nothing within {FIRST_MERGE:?}")
    })?;
    let mut rng = stage.rng();
    while stage.has_time() {
        if rng.below(STILL) == 0 {
            scanner::stop()?;
        } else {
            scanner::start()?;
        }
        std::thread::sleep(Duration::from_millis(rng.below(PAUSE)));
        stage.tally.peak("most mappings merged by ksmd", sharing()?);
        let (name, value) = rng.pick(CHANGES);
        set(name, value)?;
        stage.tally.count("change a setting of ksmd");
    }
    scanner::start()
}

/// Number of mappings that ksmd has merged, without the first of each page.
fn sharing() -> Result<u64> {
    procfs::number(&format!("{MAINLINE}/pages_sharing"))
}

fn set(name: &str, value: &str) -> Result {
    procfs::write(&format!("{MAINLINE}/{name}"), value)
}
