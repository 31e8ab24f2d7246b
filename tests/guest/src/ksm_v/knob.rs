// SPDX-License-Identifier: GPL-2.0

//! The files under `/sys/kernel/mm/ksm_v`.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;

use engine::knobs;

use crate::Context;
use crate::Result;

/// The directory of the module's files.
pub const DIR: &str = "/sys/kernel/mm/ksm_v";
/// The directory of mainline's files.
pub const MAINLINE: &str = "/sys/kernel/mm/ksm";

/// Files that can be written and read.
pub const WRITABLE: [&str; knobs::ALL.len()] = {
    let mut names = [""; knobs::ALL.len()];
    let mut position = 0;
    while position < names.len() {
        if let Ok(name) = knobs::ALL[position].name.to_str() {
            names[position] = name;
        }
        position += 1;
    }
    names
};

/// The file that can only be written.
pub const WRITE_ONLY: &str = "merge_now";

/// The file that says which interface's settings are in force.
pub const PROFILE: &str = "profile";

/// Files that can only be read; each but [`PROFILE`] holds one number.
pub const READ_ONLY: [&str; 17] = [
    PROFILE,
    "full_scans",
    "pages_shared",
    "pages_sharing",
    "pages_unshared",
    "pages_scanned",
    "pages_skipped",
    "pass_pages",
    "last_pass_pages",
    "merge_ratio_x100",
    "zero_pages",
    "huge_pages_split",
    "promise_worst",
    "promise_held",
    "index_bytes",
    "index_failures",
    "cpu_ns",
];

/// The files that hold one number each.
pub fn counts() -> impl Iterator<Item = &'static str> {
    READ_ONLY.into_iter().filter(|&name| name != PROFILE)
}

/// Path of a file of the module.
pub fn path(name: &str) -> String {
    format!("{DIR}/{name}")
}

/// Reads a file as a whole.
pub fn read(name: &str) -> Result<String> {
    let path = path(name);
    fs::read_to_string(&path).context(|| format!("reading {path}"))
}

/// Reads a number.
pub fn number(name: &str) -> Result<u64> {
    let text = read(name)?;
    text.strip_suffix('\n')
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("{name}: expected a number and a newline, found {text:?}").into())
}

/// Opens a file for writing.
pub fn open(name: &str) -> io::Result<File> {
    open_in(DIR, name)
}

/// Like [`open`], but a file of `dir`.
pub fn open_in(dir: &str, name: &str) -> io::Result<File> {
    OpenOptions::new().write(true).open(format!("{dir}/{name}"))
}

/// Writes `text` in one call, unchanged, and returns the result.
pub fn try_write(name: &str, text: &[u8]) -> io::Result<()> {
    try_write_in(DIR, name, text)
}

/// Like [`try_write`], but to a file of `dir`.
pub fn try_write_in(dir: &str, name: &str, text: &[u8]) -> io::Result<()> {
    let written = open_in(dir, name)?.write(text)?;
    if written == text.len() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "only {written} bytes were written"
        )))
    }
}

/// Writes a value as `echo` does.
pub fn set(name: &str, value: impl ToString) -> Result {
    let value = value.to_string();
    try_write(name, format!("{value}\n").as_bytes())
        .context(|| format!("writing {value} to {}", path(name)))
}

/// The word in brackets in a list like `[user] process`.
pub fn choice(name: &str) -> Result<String> {
    let text = read(name)?;
    chosen(&text)
        .map(str::to_owned)
        .ok_or_else(|| format!("{name}: expected one word in brackets, found {text:?}").into())
}

fn chosen(text: &str) -> Option<&str> {
    let mut words = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    words.next().filter(|_| words.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_chosen() {
        assert_eq!(chosen("user [process] global\n"), Some("process"));
        assert_eq!(chosen("[user] [process]\n"), None);
        assert_eq!(chosen("user\n"), None);
    }
}
