// SPDX-License-Identifier: GPL-2.0

//! What the harness has the kernel do about huge pages meanwhile.
//!
//! Reference: Documentation/admin-guide/mm/transhuge.rst.

use std::fs;
use std::path::Path;
use std::time::Duration;

use guest::procfs;
use guest::rng::Rng;
use guest::Context;
use guest::Result;

use crate::stage::Stage;

/// Where the kernel's settings are.
pub const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage";

/// khugepaged never pauses.
const FLAT_OUT: &[(&str, &str)] = &[
    ("khugepaged/scan_sleep_millisecs", "0"),
    ("khugepaged/alloc_sleep_millisecs", "0"),
    ("khugepaged/pages_to_scan", "4096"),
];
/// What the kernel counts of huge pages.
const EVENTS: &[&str] = &["thp_fault_alloc", "thp_collapse_alloc", "thp_split_page"];
/// Pause between two changes, at most, in milliseconds.
const PAUSE: u64 = 200;

/// Changes settings until time is up, and restores them.
pub fn change(stage: &Stage) -> Result {
    let sizes = sizes()?;
    let mut saved = Vec::new();
    for &(name, _) in FLAT_OUT {
        saved.push(Saved::read(name)?);
    }
    for name in sizes.iter().map(String::as_str).chain(["enabled"]) {
        saved.push(Saved::read(name)?);
    }
    let changed = change_some(stage, &sizes);
    saved.iter().try_for_each(Saved::restore)?;
    changed
}

fn change_some(stage: &Stage, sizes: &[String]) -> Result {
    for (name, value) in FLAT_OUT {
        set(name, value)?;
    }
    let (before, mut rng) = (events()?, stage.rng());
    while stage.has_time() {
        change_one(&mut rng, sizes)?;
        stage.tally.count("change a setting of huge pages");
        std::thread::sleep(Duration::from_millis(rng.below(PAUSE)));
    }
    for ((name, before), now) in EVENTS.iter().zip(before).zip(events()?) {
        stage.tally.add(name, now - before);
    }
    Ok(())
}

/// Huge pages of 2 MiB stay allowed, wherever a program asks for them.
fn change_one(rng: &mut Rng, sizes: &[String]) -> Result {
    if sizes.is_empty() || rng.below(4) == 0 {
        let value = *rng.pick(&["always", "madvise"]);
        return set("enabled", value);
    }
    let (size, value) = (
        rng.pick::<String>(sizes),
        *rng.pick(&["always", "madvise", "never"]),
    );
    set(size, value)
}

/// The settings of each size below that of a huge page.
fn sizes() -> Result<Vec<String>> {
    const WHOLE: &str = "hugepages-2048kB";
    let entries = fs::read_dir(DIRECTORY).context(|| DIRECTORY)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut sizes: Vec<String> = names
        .filter(|name| name.starts_with("hugepages-") && name != WHOLE)
        .map(|name| format!("{name}/enabled"))
        // The smallest is one of files only.
        .filter(|name| Path::new(DIRECTORY).join(name).exists())
        .collect();
    sizes.sort();
    Ok(sizes)
}

fn events() -> Result<Vec<u64>> {
    let count = |name: &&str| procfs::number_in("/proc/vmstat", name);
    EVENTS.iter().map(count).collect()
}

fn set(name: &str, value: &str) -> Result {
    procfs::write(&format!("{DIRECTORY}/{name}"), value)
}

/// A setting as it was.
struct Saved {
    name: String,
    value: String,
}

impl Saved {
    fn read(name: &str) -> Result<Self> {
        let text = procfs::read(&format!("{DIRECTORY}/{name}"))?;
        // One of several words is in brackets; else there is one.
        let chosen = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        Ok(Saved {
            name: name.to_owned(),
            value: chosen.unwrap_or(text.trim()).to_owned(),
        })
    }

    fn restore(&self) -> Result {
        set(&self.name, &self.value)
    }
}
