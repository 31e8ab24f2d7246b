// SPDX-License-Identifier: GPL-2.0

//! What the harness does to ksmd meanwhile.

use std::time::Duration;

use guest::expect;
use guest::knob::MAINLINE;
use guest::procfs;
use guest::Result;

use crate::stage::Stage;

/// Pause between two changes, at most, in milliseconds.
const PAUSE: u64 = 300;

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
    let (mut rng, mut most) = (stage.rng(), 0);
    while stage.has_time() {
        std::thread::sleep(Duration::from_millis(rng.below(PAUSE)));
        let sharing = procfs::number(&format!("{MAINLINE}/pages_sharing"))?;
        most = most.max(sharing);
        stage.tally.peak("most mappings merged by ksmd", sharing);
        let (name, value) = rng.pick(CHANGES);
        set(name, value)?;
        stage.tally.count("change a setting of ksmd");
    }
    expect::ne("mappings merged by ksmd", 0, most)
}

fn set(name: &str, value: &str) -> Result {
    procfs::write(&format!("{MAINLINE}/{name}"), value)
}
