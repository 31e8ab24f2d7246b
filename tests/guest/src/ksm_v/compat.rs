// SPDX-License-Identifier: GPL-2.0

//! The files that have the names of mainline's KSM files, used the way mainline's are used.

use std::fs;
use std::time::Duration;

use nix::mount::mount;
use nix::mount::umount;
use nix::mount::MsFlags;

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::knob;
use crate::process::task;
use crate::Context;
use crate::Result;

/// The directory of the module's compatibility files.
pub const DIR: &str = "/sys/kernel/mm/ksm_v/compat";

/// How long a pass may take in a slow guest that runs other work, too.
const PASS_TIMEOUT: Duration = task::PATIENCE;

/// The module's files, bind-mounted over mainline's until this is dropped.
pub struct InPlace;

impl InPlace {
    /// Mounts them.
    pub fn mount() -> Result<Self> {
        let none: Option<&str> = None;
        mount(Some(DIR), knob::MAINLINE, none, MsFlags::MS_BIND, none)
            .context(|| format!("binding {DIR} to {}", knob::MAINLINE))?;
        Ok(InPlace)
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        if let Err(error) = umount(knob::MAINLINE) {
            eprintln!("unmounting {}: {error}", knob::MAINLINE);
        }
    }
}

/// Reads a file of `dir` as a whole.
pub fn text(dir: &str, name: &str) -> Result<String> {
    procfs::read(&format!("{dir}/{name}"))
}

/// Writes a value to one of the module's files.
pub fn set(name: &str, value: impl ToString) -> Result {
    let value = value.to_string();
    knob::try_write_in(DIR, name, value.as_bytes())
        .context(|| format!("writing {value} to {DIR}/{name}"))
}

/// The number in one of the module's files.
pub fn number(name: &str) -> Result<i64> {
    let text = text(DIR, name)?;
    text.strip_suffix('\n')
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("{name}: expected a number and a newline, found {text:?}").into())
}

/// The sorted names of all files in `dir`.
pub fn names(dir: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).context(|| dir.to_owned())?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Resets all settings to their defaults and makes the module scan all registered pages in each pass,
/// as fast as it can. The module must be stopped and nothing merged.
pub fn settle() -> Result {
    set("run", 2)?;
    set("advisor_mode", "none")?;
    set("advisor_max_cpu", 70)?;
    set("advisor_target_scan_time", 200)?;
    set("advisor_min_pages_to_scan", 500)?;
    set("advisor_max_pages_to_scan", 30_000)?;
    set("max_page_sharing", 256)?;
    set("merge_across_nodes", 1)?;
    set("use_zero_pages", 0)?;
    set("stable_node_chains_prune_millisecs", 2000)?;
    set("smart_scan", 0)?;
    set("pages_to_scan", 10_000)?;
    set("sleep_millisecs", 0)
}

/// Waits for `count` more full scans, like a program written for mainline.
pub fn wait_scans(count: i64) -> Result {
    let target = number("full_scans")? + count;
    let reached = task::wait_until(PASS_TIMEOUT, || {
        number("full_scans").is_ok_and(|scans| scans >= target)
    });
    expect::that(reached, || {
        format!(
            "full_scans: expected {target} within {PASS_TIMEOUT:?}, found {:?}",
            number("full_scans")
        )
    })
}

/// Merges by running two full scans, then stops.
pub fn merge() -> Result {
    set("run", 1)?;
    wait_scans(2)?;
    set("run", 0)
}

/// Expects these numbers in the module's files.
pub fn expect_numbers(when: &str, expected: &[(&str, i64)]) -> Result {
    let found: Vec<(&str, i64)> = expected
        .iter()
        .map(|&(name, _)| Ok((name, number(name)?)))
        .collect::<Result<_>>()?;
    expect::eq(when, expected, &found[..])
}
