// SPDX-License-Identifier: GPL-2.0

//! The files in debugfs.

use std::os::unix::fs::MetadataExt;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::debugfs;
use guest::ksm_v::debugfs::Class;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::tests;
use guest::Context;
use guest::Result;

use super::only;
use super::IDS;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    files_in_debugfs_are_for_root_and_say_what_they_hold,
    shared_pages_are_counted_by_their_mappings,
    shared_pages_of_all_sizes_add_up,
    refusals_have_the_documented_names,
    reading_while_scanning_holds_nobody_up,
];

fn files_in_debugfs_are_for_root_and_say_what_they_hold(_: &Lab) -> Result {
    for name in debugfs::FILES {
        let path = debugfs::path(name);
        let metadata = std::fs::metadata(&path).context(|| path.clone())?;
        expect::eq(format!("mode of {path}"), 0o400, metadata.mode() & 0o7777)?;
        expect::eq(format!("owner of {path}"), 0, metadata.uid())?;
        let text = procfs::read(&path)?;
        let comments = text.lines().filter(|line| line.starts_with("# ")).count();
        expect::eq(format!("comments of {path}"), 1, comments)?;
        expect::that(text.starts_with("# "), || {
            format!("{path}: expected the comment first")
        })?;
    }
    Ok(())
}

fn class(first: u64, last: u64, pages: u64) -> Class {
    Class {
        mappings: (first, last),
        pages,
    }
}

fn shared_pages_are_counted_by_their_mappings(lab: &Lab) -> Result {
    expect::eq("with nothing shared", Vec::new(), debugfs::sharers()?)?;
    let pair = only(lab, 2, IDS)?;
    let mut five = only(lab, 5, Ids::each(1000))?;
    scanner::merge()?;
    let expected = vec![class(1, 1, 0), class(2, 3, PAGES), class(4, 7, PAGES)];
    expect::eq("two and five sharers", expected, debugfs::sharers()?)?;
    drop(
        five.drain(1..)
            .map(|(peer, _)| peer.exit())
            .collect::<Result<Vec<()>>>()?,
    );
    let expected = vec![class(1, 1, PAGES), class(2, 3, PAGES)];
    expect::eq("after four have left", expected, debugfs::sharers()?)?;
    drop((pair, five));
    Ok(())
}

/// Eight times as many pages as are counted under one acquisition of the state lock.
fn shared_pages_of_all_sizes_add_up(lab: &Lab) -> Result {
    const MANY: u64 = 512;
    let (a, b) = lab.pair()?;
    a.anon(MANY, Ids::each(5000))?;
    b.anon(MANY, Ids::each(5000))?;
    let third = lab.alice()?;
    third.anon(MANY / 2, Ids::each(5000))?;
    let child = third.fork()?;
    scanner::merge()?;
    let counts = scanner::expect_exact_counts("after merging")?;
    let classes = debugfs::sharers()?;
    let sum = |of: fn(&Class) -> u64| classes.iter().map(of).sum::<u64>();
    expect::eq(
        "pages of all classes",
        counts.shared,
        sum(|class| class.pages),
    )?;
    let least = sum(|class| class.mappings.0 * class.pages);
    let most = sum(|class| class.mappings.1 * class.pages);
    expect::within(
        "mappings, by classes",
        least..=most,
        counts.shared + counts.sharing,
    )?;
    expect::that(counts.shared >= MANY, || {
        format!("expected {MANY} shared pages")
    })?;
    child.exit()
}

fn refusals_have_the_documented_names(_: &Lab) -> Result {
    let mut expected = [
        "gone",
        "target_gone",
        "busy",
        "pinned",
        "different",
        "changed",
        "left_alone",
        "full",
        "involved",
        "no_memory",
        "tagged",
        "failed",
        "locked",
        "kept_huge",
    ];
    expected.sort_unstable();
    let refusals = debugfs::refusals()?;
    let found: Vec<&str> = refusals.keys().map(String::as_str).collect();
    expect::eq("reasons", expected.to_vec(), found)
}

fn reading_while_scanning_holds_nobody_up(lab: &Lab) -> Result {
    let peers = only(lab, 3, IDS)?;
    scanner::start()?;
    for _ in 0..200 {
        debugfs::sharers()?;
        debugfs::refusals()?;
    }
    scanner::wait_passes(1)?;
    scanner::stop()?;
    let pages: u64 = debugfs::sharers()?.iter().map(|class| class.pages).sum();
    expect::eq("shared pages", PAGES, pages)?;
    drop(peers);
    Ok(())
}
