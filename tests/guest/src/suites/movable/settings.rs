// SPDX-License-Identifier: GPL-2.0

//! The knob `movable`, and its effects on the kernel.

use std::fs;
use std::path::Path;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::refused::no_numbers;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::User;
use guest::tests;
use guest::Context;
use guest::Result;

use super::group::Group;
use super::Kept;
use super::MOVABLE;

/// Tests for every kernel.
pub(super) const TESTS: &[Test] = tests![
    movable_is_1_where_the_kernel_allows_it,
    movable_takes_0,
    movable_refuses_bad_input,
];

pub(super) const MOVABLE_TESTS: &[Test] = tests![
    movable_takes_0_and_1,
    movable_is_for_new_pages,
    shared_pages_are_on_the_lru_lists,
    tracing_of_functions_cannot_be_switched_off,
];

fn movable_is_1_where_the_kernel_allows_it(_: &Lab) -> Result {
    module::reload("")?;
    match knob::number(MOVABLE)? {
        1 => knob::set(MOVABLE, 1),
        _ => {
            expect::eq("movable", 0, knob::number(MOVABLE)?)?;
            let written = knob::try_write(MOVABLE, b"1\n");
            expect::errno("writing 1 to movable", libc::EOPNOTSUPP, written)?;
            expect::eq("movable", 0, knob::number(MOVABLE)?)
        }
    }
}

fn movable_takes_0(_: &Lab) -> Result {
    let before = knob::number(MOVABLE)?;
    knob::set(MOVABLE, 0)?;
    expect::eq("movable", 0, knob::number(MOVABLE)?)?;
    knob::set(MOVABLE, before)
}

fn movable_refuses_bad_input(_: &Lab) -> Result {
    let before = knob::read(MOVABLE)?;
    let mut texts = no_numbers();
    let beyond = ["2", "3", "255", "256", "257", "4294967296", "4294967297"];
    texts.extend(beyond.map(|text| text.as_bytes().to_vec()));
    for text in texts {
        let shown = String::from_utf8_lossy(&text[..text.len().min(48)]).into_owned();
        let what = format!("writing {} bytes, {shown:?}, to movable", text.len());
        expect::errno(&what, libc::EINVAL, knob::try_write(MOVABLE, &text))?;
        expect::eq(what, &before, &knob::read(MOVABLE)?)?;
    }
    Ok(())
}

fn movable_takes_0_and_1(_: &Lab) -> Result {
    for value in ["0", "1", "1", "0", "0", "1"] {
        for end in ["", "\n"] {
            let text = format!("{value}{end}");
            knob::try_write(MOVABLE, text.as_bytes()).context(|| format!("writing {text:?}"))?;
            expect::eq("movable", format!("{value}\n"), knob::read(MOVABLE)?)?;
        }
    }
    Ok(())
}

/// Counts the pages on LRU lists: isolating a page from its list is the first step of every user of
/// movable pages.
fn on_lists(group: &Group) -> Result<usize> {
    // Pages wait in per-CPU batches before they are added to the LRU lists; this drains the batches.
    procfs::write("/proc/sys/vm/drop_caches", "1")?;
    let mut count = 0;
    for frame in group.expect_intact("on lists")? {
        count += usize::from(frame.flags()?.lru());
    }
    Ok(count)
}

const PAGES: u64 = 64;

fn movable_is_for_new_pages(lab: &Lab) -> Result {
    let mut old = Group::pair(lab, PAGES)?;
    let frames = old.expect_shared("at first")?;
    expect::eq("pages on lists", PAGES as usize, on_lists(&old)?)?;
    let kept = Kept::new()?;
    old.expect_in_place("after movable=0", &frames)?;
    expect::eq("old pages on lists", PAGES as usize, on_lists(&old)?)?;
    // A page that is merged into an old shared page is movable like the old one.
    old.join(lab.peer(User::Root)?)?;
    old.expect_in_place("joined", &frames)?;
    expect::eq("old pages on lists", PAGES as usize, on_lists(&old)?)?;
    let (a, b) = lab.pair()?;
    let ids = Ids::each(70_000);
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    scanner::merge()?;
    let new = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let expect_off = |when: &str| -> Result {
        procfs::write("/proc/sys/vm/drop_caches", "1")?;
        for frame in &new {
            let flags = frame.flags()?;
            expect::that(!flags.lru(), || {
                format!("{when}: {frame:?}: expected to be on no list, found {flags:?}")
            })?;
        }
        Ok(())
    };
    expect_off("made with movable=0")?;
    drop(kept);
    expect_off("after movable=1")?;
    pages::expect_frames("after movable=1", (&a, in_a), &new)?;
    old.expect_in_place("at last", &frames)?;
    scanner::expect_exact_counts("with pages of both kinds")?;
    scanner::unmerge()?;
    old.check("unmerged")?;
    a.check(in_a, ids)?;
    b.check(in_b, ids)?;
    scanner::expect_exact_counts("without any").map(drop)
}

fn shared_pages_are_on_the_lru_lists(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    expect::eq("pages on lists", PAGES as usize, on_lists(&group)?)
}

/// Calls are redirected to the module through ftrace, so ftrace must stay enabled.
fn tracing_of_functions_cannot_be_switched_off(lab: &Lab) -> Result {
    const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";
    if !Path::new(SWITCH).exists() {
        return Ok(());
    }
    let group = Group::pair(lab, PAGES)?;
    // The error is EBUSY before 7.3 and EOPNOTSUPP since: tracing cannot be switched off any more.
    expect::that(fs::write(SWITCH, "0").is_err(), || {
        "ftrace_enabled=0: expected to fail, found success"
    })?;
    expect::eq("ftrace_enabled", 1, procfs::number(SWITCH)?)?;
    group.expect_intact("after that").map(drop)
}
