// SPDX-License-Identifier: GPL-2.0

//! KVM virtual machines whose RAM is merged: they have a second set of page tables, which the module
//! reaches only through MMU notifiers.
//!
//! These tests need a guest CPU with AMD virtualisation, see `scripts/test`.

use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap::FlagsOf;
use guest::memory::pages;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Result;
use libtest_mimic::Trial;

use machine::Machine;

mod machine;

const TESTS: &[Test] = tests![
    ram_of_two_guests_is_merged,
    guests_write_to_merged_ram_each_its_own,
    a_guest_reads_merged_ram_where_it_had_its_own,
    a_guest_writes_to_ram_that_became_the_zero_page,
    a_guest_writes_while_its_host_reads,
    guests_of_two_users_do_not_share,
    ram_is_unmerged_under_its_guests,
    guests_write_all_the_time_while_they_are_merged,
];

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    lab::trials("kvm", TESTS)
}

const IDS: Ids = Ids::each(100);
/// The first of the ascending values that guests write.
const COMMON: u32 = 0x1000_0000;
const ONES: u32 = 0x2000_0000;
const OTHERS: u32 = 0x3000_0000;

/// Two running guests of Alice with equal RAM; they have written to all of it.
fn equal_pair(lab: &Lab) -> Result<(Machine, Machine)> {
    let pair = (
        Machine::new(lab, User::Alice)?,
        Machine::new(lab, User::Alice)?,
    );
    for machine in [&pair.0, &pair.1] {
        machine.fill(IDS)?;
        machine.write(COMMON)?;
    }
    Ok(pair)
}

fn expect_merged(one: &Machine, other: &Machine) -> Result {
    let frames = pages::expect_merged(&[one.pages(), other.pages()])?;
    pages::expect_mappings(&frames, 2)
}

/// Expects that the guest and its host read what the guest wrote last.
fn expect_contents(machine: &Machine, first: u32) -> Result {
    machine.expect_inside(IDS, Some(first))?;
    machine.expect_outside(IDS, Some(first))
}

fn ram_of_two_guests_is_merged(lab: &Lab) -> Result {
    let (one, other) = equal_pair(lab)?;
    scanner::merge()?;
    expect_merged(&one, &other)?;
    expect_contents(&one, COMMON)?;
    expect_contents(&other, COMMON)?;
    // Reading has not unmerged the pages.
    expect_merged(&one, &other)?;
    scanner::expect_exact_counts("with two guests").map(drop)
}

fn guests_write_to_merged_ram_each_its_own(lab: &Lab) -> Result {
    let (one, other) = equal_pair(lab)?;
    scanner::merge()?;
    expect_merged(&one, &other)?;
    one.write(ONES)?;
    expect_contents(&other, COMMON)?;
    expect_contents(&one, ONES)?;
    other.write(OTHERS)?;
    expect_contents(&one, ONES)?;
    expect_contents(&other, OTHERS)?;
    let (of_one, of_other) = (
        pages::expect_not_merged(one.pages())?,
        pages::expect_not_merged(other.pages())?,
    );
    pages::expect_disjoint("frames of two guests that wrote", &of_one, &of_other)?;
    // The pages are equal again, with new entries in the second page tables.
    one.write(COMMON)?;
    other.write(COMMON)?;
    scanner::merge()?;
    expect_merged(&one, &other)?;
    one.write(ONES)?;
    expect_contents(&one, ONES)?;
    expect_contents(&other, COMMON)
}

/// The guest has read its own frames before the merge: its later reads must see the merged frames,
/// and then the changes by its host.
fn a_guest_reads_merged_ram_where_it_had_its_own(lab: &Lab) -> Result {
    let (one, other) = equal_pair(lab)?;
    one.expect_inside(IDS, Some(COMMON))?;
    scanner::merge()?;
    expect_merged(&one, &other)?;
    one.expect_inside(IDS, Some(COMMON))?;
    let new = Ids::each(5000);
    one.fill(new)?;
    one.expect_inside(new, None)?;
    other.expect_inside(IDS, Some(COMMON))
}

fn a_guest_writes_to_ram_that_became_the_zero_page(lab: &Lab) -> Result {
    let machine = Machine::new(lab, User::Alice)?;
    machine.fill(Ids::ZERO)?;
    machine.expect_inside(Ids::ZERO, None)?;
    scanner::merge()?;
    pages::expect_zero_page(machine.pages())?;
    machine.expect_inside(Ids::ZERO, None)?;
    machine.write(ONES)?;
    machine.expect_inside(Ids::ZERO, Some(ONES))?;
    machine.expect_outside(Ids::ZERO, Some(ONES))
}

/// Both sets of page tables refer to the same frame, whichever of them broke the sharing.
fn a_guest_writes_while_its_host_reads(lab: &Lab) -> Result {
    let (one, other) = equal_pair(lab)?;
    scanner::merge()?;
    expect_merged(&one, &other)?;
    let data = one.data();
    for index in 0..data.pages {
        let part = data.page(index);
        if index % 2 == 0 {
            one.write_part(index, 1, ONES)?;
            expect::eq("what the host reads", u64::from(ONES), one.half(part)?)?;
        } else {
            one.poke_half(part, OTHERS)?;
            one.write_part(index, 1, ONES)?;
        }
    }
    for index in 0..data.pages {
        let found = one.half(data.page(index))?;
        expect::eq(format!("page {index}"), u64::from(ONES), found)?;
    }
    expect_contents(&other, COMMON)
}

fn guests_of_two_users_do_not_share(lab: &Lab) -> Result {
    let (alices, bobs) = (
        Machine::new(lab, User::Alice)?,
        Machine::new(lab, User::Bob)?,
    );
    for machine in [&alices, &bobs] {
        machine.fill(IDS)?;
        machine.write(COMMON)?;
    }
    scanner::scan(6)?;
    pages::expect_not_merged(alices.pages())?;
    pages::expect_not_merged(bobs.pages())?;
    // The programs in the first pages of guests may be merged with those of other guests.
    scanner::unmerge()?;
    knob::set("domain", "global")?;
    scanner::merge()?;
    expect_merged(&alices, &bobs)?;
    bobs.write(OTHERS)?;
    expect_contents(&alices, COMMON)?;
    expect_contents(&bobs, OTHERS)
}

fn ram_is_unmerged_under_its_guests(lab: &Lab) -> Result {
    let (one, other) = equal_pair(lab)?;
    scanner::merge()?;
    one.expect_inside(IDS, Some(COMMON))?;
    other.expect_inside(IDS, Some(COMMON))?;
    scanner::unmerge()?;
    pages::expect_not_merged(one.pages())?;
    pages::expect_not_merged(other.pages())?;
    one.write(ONES)?;
    expect_contents(&one, ONES)?;
    expect_contents(&other, COMMON)
}

/// The guests write for this time, or a multiple of it ...
const BUSY: Duration = Duration::from_secs(6);
/// ... at least this often ...
const LEAST_WRITES: u64 = 2_000;
/// ... and all samples together see this many of their pages merged meanwhile.
const LEAST_MERGED: usize = 20;

fn guests_write_all_the_time_while_they_are_merged(lab: &Lab) -> Result {
    let (one, other) = equal_pair(lab)?;
    scanner::start()?;
    let (flags, begun) = (FlagsOf::open()?, Instant::now());
    let (mut writes, mut seen) = ((0, 0), 0);
    let is_enough =
        |writes: (u64, u64), seen| writes.0.min(writes.1) >= LEAST_WRITES && seen >= LEAST_MERGED;
    while !is_enough(writes, seen) && begun.elapsed() < task::PATIENCE {
        one.begin_flip(ONES, BUSY)?;
        other.begin_flip(OTHERS, BUSY)?;
        let start = Instant::now();
        while start.elapsed() < BUSY {
            seen += merged_pages(&one, &flags)?;
            std::thread::sleep(Duration::from_millis(20));
        }
        writes = (
            writes.0 + one.finish_flip()?,
            writes.1 + other.finish_flip()?,
        );
    }
    scanner::stop()?;
    println!(
        "kvm: {} and {} guest writes, {seen} times a page was seen merged",
        writes.0, writes.1
    );
    expect::that(writes.0.min(writes.1) >= LEAST_WRITES, || {
        format!("expected each guest to write {LEAST_WRITES} times, found {writes:?}")
    })?;
    expect::that(seen >= LEAST_MERGED, || {
        format!("expected pages to be seen merged {LEAST_MERGED} times, found {seen}")
    })?;
    expect_contents(&one, COMMON)?;
    expect_contents(&other, COMMON)?;
    one.write(ONES)?;
    other.write(OTHERS)?;
    expect_contents(&one, ONES)?;
    expect_contents(&other, OTHERS)
}

fn merged_pages(machine: &Machine, flags: &FlagsOf) -> Result<usize> {
    let mut merged = 0;
    for entry in machine.entries()? {
        if let Some(frame) = entry.frame() {
            merged += usize::from(flags.get(frame)?.ksm());
        }
    }
    Ok(merged)
}
