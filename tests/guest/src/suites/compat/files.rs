// SPDX-License-Identifier: GPL-2.0

//! The contents of the files and the values they accept, compared with mainline's own files.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use guest::expect;
use guest::ksm_v::compat;
use guest::ksm_v::knob;
use guest::ksm_v::knob::MAINLINE;
use guest::ksm_v::module;
use guest::ksm_v::refused::no_numbers;
use guest::ksm_v::refused::no_words;
use guest::lab::Lab;
use guest::lab::Test;
use guest::process::child;
use guest::tests;
use guest::Context;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    has_mainlines_files_and_no_others,
    files_have_mainlines_modes,
    files_begin_with_mainlines_text,
    numbers_fare_as_mainlines,
    booleans_fare_as_mainlines,
    advisor_mode_fares_as_mainlines,
    run_fares_as_mainlines,
    the_advisor_takes_over_as_mainlines,
    counts_cannot_be_written,
    root_without_cap_sys_admin_does_not_write,
];

const NUMBERS: [&str; 9] = [
    "pages_to_scan",
    "sleep_millisecs",
    "max_page_sharing",
    "merge_across_nodes",
    "stable_node_chains_prune_millisecs",
    "advisor_max_cpu",
    "advisor_target_scan_time",
    "advisor_min_pages_to_scan",
    "advisor_max_pages_to_scan",
];

/// Values around the limits of all ranges, and notations that only mainline accepts.
const EDGES: [&str; 27] = [
    "0",
    "1",
    "2",
    "3",
    "100",
    "007",
    "+7",
    "+7\n",
    "++7",
    "7\0",
    "7\n\0x",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "4294967301",
    "18446744073709551615",
    "-7",
    "--7",
    "-+7",
    "-2147483648",
    "-2147483649\n",
    "-9223372036854775809",
    "-18446744073709551615",
    "-18446744073709551616",
    "1",
    "256",
];

fn has_mainlines_files_and_no_others(_: &Lab) -> Result {
    expect::eq(
        "files",
        compat::names(MAINLINE)?,
        compat::names(compat::DIR)?,
    )
}

fn files_have_mainlines_modes(_: &Lab) -> Result {
    let mode_of = |dir: &str, name: &str| {
        let path = format!("{dir}/{name}");
        let file = fs::metadata(&path).context(|| path)?;
        Result::Ok((file.mode(), file.uid(), file.gid()))
    };
    compat::names(MAINLINE)?.iter().try_for_each(|name| {
        let expected = mode_of(MAINLINE, name)?;
        let what = format!("mode, owner and group of {name}");
        expect::eq(what, expected, mode_of(compat::DIR, name)?)
    })
}

fn expect_same_texts(when: &str, names: &[String]) -> Result {
    names.iter().try_for_each(|name| {
        let expected = compat::text(MAINLINE, name)?;
        let found = compat::text(compat::DIR, name)?;
        expect::eq(format!("{name} {when}"), expected, found)
    })
}

fn files_begin_with_mainlines_text(_: &Lab) -> Result {
    module::reload("")?;
    expect_same_texts("by default", &compat::names(MAINLINE)?)
}

/// Writes `text` to both files, and expects the same result and the same contents.
fn write_both(name: &str, text: &[u8]) -> Result {
    let number = |result: std::io::Result<()>| result.map_err(|error| error.raw_os_error());
    let shown = String::from_utf8_lossy(&text[..text.len().min(32)]).into_owned();
    let what = format!("writing {} bytes, {shown:?}, to {name}", text.len());
    let expected = number(knob::try_write_in(MAINLINE, name, text));
    let found = number(knob::try_write_in(compat::DIR, name, text));
    expect::eq(&what, expected, found)?;
    expect_same_texts(&format!("after {what}"), &[name.to_owned()])
}

/// Resets the module; mainline still has its defaults, since this test has not changed them yet.
fn begin() -> Result {
    module::reload("")
}

/// The value to write for a file that shows this text.
fn value_of(text: &str) -> &str {
    text.split(['[', ']']).nth(1).unwrap_or(text)
}

/// Writes all texts to both files, then restores the default.
fn write_all(name: &str, texts: &[Vec<u8>]) -> Result {
    let default = compat::text(MAINLINE, name)?;
    let written = texts.iter().try_for_each(|text| write_both(name, text));
    let default = value_of(&default);
    knob::try_write_in(MAINLINE, name, default.as_bytes()).context(|| name.to_owned())?;
    written
}

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn numbers_fare_as_mainlines(_: &Lab) -> Result {
    begin()?;
    let mut texts = no_numbers();
    texts.extend(bytes(&EDGES));
    NUMBERS.iter().try_for_each(|name| write_all(name, &texts))
}

fn booleans_fare_as_mainlines(_: &Lab) -> Result {
    begin()?;
    let mut texts = no_numbers();
    texts.extend(bytes(&[
        "0", "1", "0\n", "1\n", "2", "10", "y", "Y", "n", "yes", "no", "true", "False", "on",
        "ON\n", "oFf", "o", "ox", "enable", "disable", "\0y",
    ]));
    ["use_zero_pages", "smart_scan"]
        .iter()
        .try_for_each(|name| write_all(name, &texts))
}

fn advisor_mode_fares_as_mainlines(_: &Lab) -> Result {
    begin()?;
    let mut texts = no_words(&["none", "scan-time"]);
    texts.extend(bytes(&[
        "scan-time",
        "none",
        "scan-time\n",
        "none\n",
        "none\0x",
        "",
    ]));
    write_all("advisor_mode", &texts)
}

/// Nothing is registered, so ksmd has nothing to do.
fn run_fares_as_mainlines(_: &Lab) -> Result {
    begin()?;
    let mut texts = no_numbers();
    texts.extend(bytes(&[
        "0",
        "1",
        "2",
        "2\n",
        "+1",
        "3",
        "4",
        "7",
        "4294967297",
        "0",
    ]));
    write_all("run", &texts)
}

fn the_advisor_takes_over_as_mainlines(_: &Lab) -> Result {
    begin()?;
    let steps = [
        ("pages_to_scan", "123"),
        ("advisor_min_pages_to_scan", "777"),
        ("advisor_mode", "scan-time"),
        ("pages_to_scan", "5"),
        ("pages_to_scan", "777"),
        ("advisor_min_pages_to_scan", "500"),
        ("advisor_mode", "scan-time"),
        ("advisor_mode", "none"),
        ("pages_to_scan", "5"),
        ("advisor_mode", "none"),
        ("pages_to_scan", "100"),
    ];
    let names = compat::names(MAINLINE)?;
    for (name, text) in steps {
        write_both(name, text.as_bytes())?;
        expect_same_texts(&format!("after {text} was written to {name}"), &names)?;
    }
    Ok(())
}

/// The names of the writable files, or of the others.
fn writable(is_wanted: bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in compat::names(compat::DIR)? {
        let path = format!("{}/{name}", compat::DIR);
        let file = fs::metadata(&path).context(|| path)?;
        if (file.mode() & 0o222 != 0) == is_wanted {
            found.push(name);
        }
    }
    Ok(found)
}

fn open(name: &str) -> io::Result<File> {
    knob::open_in(compat::DIR, name)
}

fn counts_cannot_be_written(_: &Lab) -> Result {
    for name in writable(false)? {
        let what = format!("opening {name} for writing as the superuser");
        expect::errno(what, libc::EACCES, open(&name))?;
    }
    Ok(())
}

/// The write fails both for a file opened with the capability and for one opened without it.
fn root_without_cap_sys_admin_does_not_write(_: &Lab) -> Result {
    begin()?;
    for name in writable(true)? {
        let text = compat::text(compat::DIR, &name)?;
        let value = value_of(&text).as_bytes();
        // With the capability, the same write succeeds.
        child::attempt(|| open(&name)?.write_all(value)).context(|| name.clone())?;
        let mut opened = open(&name).context(|| name.clone())?;
        let drop = || child::drop_capability(child::CAP_SYS_ADMIN);
        for written in [
            child::attempt(|| drop().and_then(|()| open(&name)?.write_all(value))),
            child::attempt(|| drop().and_then(|()| opened.write_all(value))),
        ] {
            expect::errno(format!("writing {text:?} to {name}"), libc::EPERM, written)?;
        }
    }
    Ok(())
}
