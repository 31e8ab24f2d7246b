// SPDX-License-Identifier: GPL-2.0

//! The files with mainline's names, used as mainline's are.

use std::fs;
use std::time::Duration;

use nix::mount::mount;
use nix::mount::umount;
use nix::mount::MsFlags;

use crate::expect;
use crate::knob;
use crate::procfs;
use crate::task;
use crate::Context;
use crate::Result;

/// Where the module's are.
pub const DIR: &str = "/sys/kernel/mm/ksm_v/compat";

/// How long a pass may take, with all else that runs in a slow guest.
const PASS_TIMEOUT: Duration = crate::task::PATIENCE;

/// The module's files in the place of mainline's, until this is dropped.
pub struct InPlace;

impl InPlace {
    /// Puts them there.
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

/// Reads a file of `dir` whole.
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

/// Names of all files of `dir`, in order.
pub fn names(dir: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).context(|| dir.to_owned())?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Gives all settings their defaults, of a module that is stopped with nothing merged, and has it
/// scan as fast as it can, all registered pages in each pass.
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

/// Waits for `count` more full scans, as programs do that know mainline.
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

/// Merges with two full scans, and stops.
pub fn merge() -> Result {
    set("run", 1)?;
    wait_scans(2)?;
    set("run", 0)
}

/// Expects numbers in the module's files.
pub fn expect_numbers(when: &str, expected: &[(&str, i64)]) -> Result {
    let found: Vec<(&str, i64)> = expected
        .iter()
        .map(|&(name, _)| Ok((name, number(name)?)))
        .collect::<Result<_>>()?;
    expect::eq(when, expected, &found[..])
}
