// SPDX-License-Identifier: GPL-2.0

//! Replays every input that fuzzing found worth keeping, and every input that once failed.

use model::fuzz;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// The inputs of a target, stored by `scripts/fuzz`.
fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let entries =
        fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Checks the whole corpus of `target`, which has at least `fewest` inputs.
fn replay(target: &str, fewest: usize) {
    let (_, check) = fuzz::TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .expect("a target");
    let files = corpus(target);
    assert!(files.len() >= fewest, "{} inputs", files.len());
    for file in files {
        let result = std::panic::catch_unwind(|| check(&fs::read(&file).unwrap()));
        assert!(result.is_ok(), "{} fails", file.display());
    }
}

#[test]
fn engine() {
    replay("engine", 200);
}

#[test]
fn parse() {
    replay("parse", 20);
}
