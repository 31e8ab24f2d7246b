// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading, and the files that exist while the module is loaded.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::lab::Lab;
use guest::lab::Test;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    has_the_documented_files_and_no_others,
    files_have_the_right_modes,
    every_file_is_readable_and_one_line,
    defaults_are_the_documented_ones,
    starts_with_counts_of_zero,
    cannot_be_loaded_twice,
    unloading_leaves_nothing_behind,
    loads_again_after_unloading,
    takes_the_bytewise_hash_parameter,
    refuses_an_unusable_parameter,
];

/// The names of all readable files.
fn documented() -> BTreeSet<String> {
    knob::WRITABLE
        .iter()
        .chain(&knob::READ_ONLY)
        .map(|name| name.to_string())
        .collect()
}

fn has_the_documented_files_and_no_others(_: &Lab) -> Result {
    let entries = fs::read_dir(knob::DIR).context(|| knob::DIR)?;
    let found: BTreeSet<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        // The directory of the files with mainline's names is optional.
        .filter(|name| name != "compat")
        .collect();
    let mut expected = documented();
    expected.insert(knob::WRITE_ONLY.to_owned());
    expect::eq(format!("files in {}", knob::DIR), expected, found)
}

fn files_have_the_right_modes(_: &Lab) -> Result {
    for name in documented() {
        let path = knob::path(&name);
        let metadata = fs::metadata(&path).context(|| path.clone())?;
        let writable = knob::WRITABLE.contains(&name.as_str());
        let expected = (if writable { 0o644 } else { 0o444 }, 0, 0);
        let found = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        expect::eq(format!("mode, owner and group of {path}"), expected, found)?;
    }
    Ok(())
}

fn every_file_is_readable_and_one_line(_: &Lab) -> Result {
    for name in documented() {
        let text = knob::read(&name)?;
        expect::that(text.ends_with('\n') && text.lines().count() == 1, || {
            format!("{name}: expected one line, found {text:?}")
        })?;
    }
    for name in knob::counts().chain(knob::WRITABLE[..4].iter().copied()) {
        knob::number(name)?;
    }
    Ok(())
}

fn defaults_are_the_documented_ones(_: &Lab) -> Result {
    module::reload("")?;
    let expected = [
        ("run", "0\n"),
        ("scan_rate", "100\n"),
        ("sleep_ms", "200\n"),
        ("promote_after", "3\n"),
        ("max_page_sharing", "1024\n"),
        ("movable", "1\n"),
        ("max_interval", "8\n"),
        ("max_cpu", "100\n"),
        ("governor", "[manual] auto\n"),
        ("threads", "1\n"),
        ("scope", "[all] registered\n"),
        ("domain", "[user] process cgroup global\n"),
        ("undumpable", "[siblings] leave\n"),
        ("content", "[all] zero\n"),
        ("promise_floor", "0\n"),
        ("promise_swap", "0\n"),
        (knob::PROFILE, "own\n"),
    ];
    for (name, text) in expected {
        expect::eq(name, text, knob::read(name)?.as_str())?;
    }
    Ok(())
}

fn starts_with_counts_of_zero(_: &Lab) -> Result {
    module::reload("")?;
    for name in knob::counts() {
        // The thread runs for a moment before it goes to sleep, and the index may have reserved memory.
        if !["cpu_ns", "index_bytes"].contains(&name) {
            expect::eq(name, 0, knob::number(name)?)?;
        }
    }
    Ok(())
}

fn cannot_be_loaded_twice(_: &Lab) -> Result {
    expect::errno(
        "loading the module again",
        libc::EEXIST,
        module::try_load(""),
    )?;
    expect::that(module::is_loaded(), || {
        "the loaded module should still be there"
    })
}

fn unloading_leaves_nothing_behind(_: &Lab) -> Result {
    module::unload()?;
    // The thread stays visible for a moment after it has ended.
    let clean = task::wait_until(task::PATIENCE, || module::traces().is_empty());
    expect::that(clean, || format!("left behind: {:?}", module::traces()))
}

fn loads_again_after_unloading(_: &Lab) -> Result {
    for _ in 0..5 {
        module::unload()?;
        module::load("")?;
        task::scanner()?;
    }
    Ok(())
}

fn takes_the_bytewise_hash_parameter(_: &Lab) -> Result {
    for value in ["bytewise_hash=1", "bytewise_hash=0"] {
        module::reload(value)?;
        let used = procfs::read("/proc/modules")?;
        expect::that(used.contains("ksm_v "), || {
            format!("{value}: found no ksm_v in {used:?}")
        })?;
    }
    module::reload("")
}

fn refuses_an_unusable_parameter(_: &Lab) -> Result {
    module::unload()?;
    for parameter in [
        "bytewise_hash=many",
        "bytewise_hash=2",
        "redhat_only_zero_pages=2",
        "redhat_only_zero_pages=-1",
    ] {
        expect::errno(parameter, libc::EINVAL, module::try_load(parameter))?;
    }
    expect::eq(
        "left behind after a refused load",
        Vec::<String>::new(),
        module::traces(),
    )
}
