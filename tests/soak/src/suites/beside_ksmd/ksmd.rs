// SPDX-License-Identifier: GPL-2.0

//! What the harness does to ksmd meanwhile. The module is faster: so that ksmd gets its share, the
//! module's scanner stands still until it has, and now and then.

use std::time::Duration;

use guest::expect;
use guest::knob::MAINLINE;
use guest::procfs;
use guest::scanner;
use guest::task;
use guest::Result;

use crate::stage::Stage;

/// In which ksmd has to merge something, beside all workers.
const FIRST_MERGE: Duration = guest::task::PATIENCE;
/// Pause between two changes, at most, in milliseconds.
const PAUSE: u64 = 300;
/// In one of so many pauses the module stands still.
const STILL: u64 = 4;

/// Files and what is written to them, at random.
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
    // ksmd's pages are gone, then, and do not come back.
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
    // Whose memory it is to merge the workers have, once they have begun.
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

/// Mappings that ksmd has merged, beyond the first of each page.
fn sharing() -> Result<u64> {
    procfs::number(&format!("{MAINLINE}/pages_sharing"))
}

fn set(name: &str, value: &str) -> Result {
    procfs::write(&format!("{MAINLINE}/{name}"), value)
}
