// SPDX-License-Identifier: GPL-2.0

//! The harness's changes to the kernel's settings of huge pages.
//!
//! Reference: Documentation/admin-guide/mm/transhuge.rst.

use std::fs;
use std::path::Path;
use std::time::Duration;

use guest::kernel::procfs;
use guest::rng::Rng;
use guest::Context;
use guest::Result;

use crate::stage::Stage;

/// Directory of the kernel's settings.
pub const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage";

/// Settings under which khugepaged never pauses.
const FLAT_OUT: &[(&str, &str)] = &[
    ("khugepaged/scan_sleep_millisecs", "0"),
    ("khugepaged/alloc_sleep_millisecs", "0"),
    ("khugepaged/pages_to_scan", "4096"),
];
/// The kernel's counts of huge pages.
const EVENTS: &[&str] = &["thp_fault_alloc", "thp_collapse_alloc", "thp_split_page"];
/// Longest pause between two changes, in milliseconds.
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

/// Huge pages of 2 MiB stay allowed where a program asks for them.
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

/// The settings of each size smaller than 2 MiB.
fn sizes() -> Result<Vec<String>> {
    const WHOLE: &str = "hugepages-2048kB";
    let entries = fs::read_dir(DIRECTORY).context(|| DIRECTORY)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut sizes: Vec<String> = names
        .filter(|name| name.starts_with("hugepages-") && name != WHOLE)
        .map(|name| format!("{name}/enabled"))
        // The smallest size is for files only.
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

/// The previous value of a setting.
struct Saved {
    name: String,
    value: String,
}

impl Saved {
    fn read(name: &str) -> Result<Self> {
        let text = procfs::read(&format!("{DIRECTORY}/{name}"))?;
        // A choice has its value in brackets; other files have only the value.
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
