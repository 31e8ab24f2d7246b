// SPDX-License-Identifier: GPL-2.0

//! The files under `/sys/kernel/debug/ksm_v`.

use std::collections::BTreeMap;

use crate::kernel::procfs;
use crate::Result;

/// The directory of the files.
pub const DIR: &str = "/sys/kernel/debug/ksm_v";

/// The names of all files.
pub const FILES: [&str; 2] = ["sharers", "refusals"];

/// Path of a file.
pub fn path(name: &str) -> String {
    format!("{DIR}/{name}")
}

/// The lines of a file, without those that begin with `#`, each split into words.
fn lines(name: &str) -> Result<Vec<Vec<String>>> {
    let text = procfs::read(&path(name))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    Ok(lines.map(words).collect())
}

/// A class of shared pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The lowest and the highest number of mappings of a page in this class.
    pub mappings: (u64, u64),
    /// The number of pages in this class.
    pub pages: u64,
}

/// The number of mappings of shared pages, by class.
pub fn sharers() -> Result<Vec<Class>> {
    let class = |words: Vec<String>| {
        let numbers: Option<Vec<u64>> = words.iter().map(|word| word.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[first, last, pages]) => Ok(Class {
                mappings: (first, last),
                pages,
            }),
            _ => Err(format!("sharers: expected three numbers, found {words:?}").into()),
        }
    };
    lines("sharers")?.into_iter().map(class).collect()
}

/// The number of refused pages, by reason.
pub fn refusals() -> Result<BTreeMap<String, u64>> {
    let reason = |words: Vec<String>| match words.as_slice() {
        [reason, count] => match count.parse() {
            Ok(count) => Ok((reason.clone(), count)),
            Err(_) => {
                Err(format!("refusals of {reason}: expected a number, found {count:?}").into())
            }
        },
        _ => Err(format!("refusals: expected a name and a number, found {words:?}").into()),
    };
    lines("refusals")?.into_iter().map(reason).collect()
}
