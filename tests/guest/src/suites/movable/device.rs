// SPDX-License-Identifier: GPL-2.0

//! A device driver migrates shared pages (`migrate_vma_setup()`). The driver registers no interval
//! notifier here: if it did, the module would first unmerge the pages.

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::User;
use guest::provoke::device::Device;
use guest::provoke::device::Migration;
use guest::tests;
use guest::Result;
use guest::Span;

use super::counts::expect_smaps;
use super::group::changed;
use super::group::Group;
use super::Kept;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    a_driver_that_moves_nothing_restores_pages,
    a_driver_can_move_pages_elsewhere,
    a_driver_cannot_move_pages_that_stay_in_place,
    a_driver_can_move_pages_of_one_content,
    pages_move_to_a_device_and_return_to_all,
    pages_on_a_device_are_written_by_a_sharer,
    pages_on_a_device_are_forked,
    pages_move_off_a_device_that_is_unplugged,
    pages_on_a_device_are_released_by_exit,
    pages_on_a_device_stay_shared_until_they_return,
    a_driver_can_move_pages_that_are_read,
];

const PAGES: u64 = 256;
/// The largest change of a count due to the kernel's batches and to other processes.
const SLACK: u64 = 1000;
/// The content that one sharer writes.
const NEW: Ids = Ids::each(5000);

/// The VMAs through which a driver can reach shared pages: all pages of the parent and of its child,
/// and those that the other process moved.
fn areas(group: &Group) -> [(usize, Span); 3] {
    let [parent, other, child] = [0, 1, 2].map(|who| &group.sharers[who].parts);
    [(0, parent[0]), (1, other[1]), (2, child[0])]
}

/// Migrates pages of a process; expects the driver to get `pages` of them, in a few rounds at most.
fn migrate(
    device: &Device,
    group: &Group,
    migration: Migration,
    (who, span): (usize, Span),
    pages: u64,
) -> Result {
    let mut found = 0;
    scanner::in_rounds(|| {
        let got = device.migrate(migration, &group.sharers[who].peer, span)?;
        // A page that the device has taken is not there to be taken again.
        found = got
            + if migration == Migration::Take {
                found
            } else {
                0
            };
        Ok(found >= pages)
    })?;
    let what = format!("pages of process {who}, {migration:?}");
    expect::eq(what, pages, found)
}

/// Moves all pages of a process to other frames, in a few rounds at most; `frames` are those at first. Expects as
/// many frames to change as the driver says. Returns the frames at last.
fn move_all(
    device: &Device,
    group: &Group,
    (who, span): (usize, Span),
    mut frames: Vec<Frame>,
) -> Result<Vec<Frame>> {
    let mut moved = 0;
    scanner::in_rounds(|| {
        moved = device.migrate(Migration::Move, &group.sharers[who].peer, span)?;
        let found = expect_all(group, "after a move")?;
        expect::eq("pages that moved", moved as usize, changed(&frames, &found))?;
        frames = found;
        Ok(moved == span.pages)
    })?;
    expect::eq(
        format!("pages of process {who} that move"),
        span.pages,
        moved,
    )?;
    Ok(frames)
}

/// Expects the contents, the sharing and the counts that merging produced.
fn expect_all(group: &Group, when: &str) -> Result<Vec<Frame>> {
    let frames = group.expect_intact(when)?;
    expect_smaps(group, when)?;
    scanner::expect_exact_counts(when)?;
    Ok(frames)
}

fn a_driver_that_moves_nothing_restores_pages(lab: &Lab) -> Result {
    let device = Device::new()?;
    let group = Group::mixed(lab, PAGES)?;
    let frames = group.expect_shared("at first")?;
    for area in areas(&group) {
        migrate(&device, &group, Migration::Offer, area, area.1.pages)?;
        let found = expect_all(&group, "after an offer")?;
        expect::eq("pages that moved", 0, changed(&frames, &found))?;
    }
    Ok(())
}

fn a_driver_can_move_pages_elsewhere(lab: &Lab) -> Result {
    let device = Device::new()?;
    let group = Group::mixed(lab, PAGES)?;
    let mut frames = group.expect_shared("at first")?;
    for area in areas(&group) {
        frames = move_all(&device, &group, area, frames)?;
    }
    scanner::unmerge()?;
    group.check("unmerged after moves")
}

/// The kernel replaces the page table entries before it finds that it cannot isolate the pages.
fn a_driver_cannot_move_pages_that_stay_in_place(lab: &Lab) -> Result {
    let device = Device::new()?;
    let _kept = Kept::new()?;
    let group = Group::mixed(lab, PAGES)?;
    let frames = group.expect_shared("at first")?;
    for migration in [Migration::Offer, Migration::Move, Migration::Take] {
        for area in areas(&group) {
            migrate(&device, &group, migration, area, 0)?;
            let found = expect_all(&group, "with movable 0")?;
            expect::eq("pages that moved", 0, changed(&frames, &found))?;
        }
    }
    Ok(())
}

/// The driver can lock a page only at its first mapping; reverse mapping finds the other mappings.
fn a_driver_can_move_pages_of_one_content(lab: &Lab) -> Result {
    const EACH: u64 = 64;
    let device = Device::new()?;
    let ids = Ids::same(4242);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(EACH, ids)?, b.anon(EACH, ids)?);
    scanner::merge()?;
    for migration in [Migration::Offer, Migration::Move, Migration::Take] {
        let found = device.migrate(migration, &a, in_a)?;
        expect::eq(format!("{migration:?}"), 1, found)?;
        b.check(in_b, ids)?;
        a.check(in_a, ids)?;
        let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        pages::expect_mappings(&frames[..1], 2 * EACH)?;
        scanner::expect_exact_counts("after a migration")?;
    }
    Ok(())
}

/// Moves all pages to the device; expects that no process has them in system memory.
fn take_all(device: &Device, group: &Group) -> Result {
    let area = (0, group.sharers[0].parts[0]);
    migrate(device, group, Migration::Take, area, group.pages)?;
    let expected = group.pages as usize * group.sharers.len();
    expect::eq("entries of pages on the device", expected, group.swapped()?)
}

/// The first reader of a page brings it back for all sharers.
fn pages_move_to_a_device_and_return_to_all(lab: &Lab) -> Result {
    let device = Device::new()?;
    let group = Group::mixed(lab, PAGES)?;
    for who in 0..group.sharers.len() {
        take_all(&device, &group)?;
        for sharer in &group.sharers {
            expect::eq("pages in smaps", group.pages, sharer.smaps_pages("Rss")?)?;
        }
        group.sharers[who].check().during(|| "on the device")?;
        expect::eq("entries of pages on the device", 0, group.swapped()?)?;
        expect_all(&group, "after all pages returned")?;
    }
    // The stable set knows the sharers: when another process merges, all pages are found.
    let mut group = group;
    group.join(lab.peer(User::Root)?)?;
    expect_all(&group, "with another process")?;
    scanner::unmerge()?;
    group.check("unmerged after all returned")
}

fn pages_on_a_device_are_written_by_a_sharer(lab: &Lab) -> Result {
    let device = Device::new()?;
    let mut group = Group::mixed(lab, PAGES)?;
    take_all(&device, &group)?;
    let writer = group.sharers.pop().ok_or("no child")?;
    writer.peer.fill(writer.parts[0], NEW)?;
    writer.peer.check(writer.parts[0], NEW)?;
    group.expect_intact("after another process wrote")?;
    writer.peer.check(writer.parts[0], NEW)?;
    scanner::expect_exact_counts("after a write").map(drop)
}

fn pages_on_a_device_are_forked(lab: &Lab) -> Result {
    let device = Device::new()?;
    let mut group = Group::mixed(lab, PAGES)?;
    take_all(&device, &group)?;
    group.fork()?;
    group.sharers[3].check().during(|| "in a new child")?;
    expect_all(&group, "after a fork")?;
    take_all(&device, &group)?;
    group.sharers.remove(0).peer.exit()?;
    group.check("without the parent")?;
    expect_all(&group, "after the parent exited").map(drop)
}

/// The driver returns all pages without a page fault.
fn pages_move_off_a_device_that_is_unplugged(lab: &Lab) -> Result {
    let device = Device::new()?;
    let group = Group::mixed(lab, PAGES)?;
    take_all(&device, &group)?;
    drop(device);
    expect::eq("entries of pages on the device", 0, group.swapped()?)?;
    expect_all(&group, "without the device")?;
    scanner::unmerge()?;
    group.check("unmerged without the device")
}

/// The pages are freed while they are on the device, and the module notices: it can be unloaded.
fn pages_on_a_device_are_released_by_exit(lab: &Lab) -> Result {
    let device = Device::new()?;
    let group = Group::mixed(lab, PAGES)?;
    take_all(&device, &group)?;
    for sharer in group.sharers {
        sharer.peer.exit()?;
    }
    // With this scope, a pass counts all shared pages and merges nothing else.
    knob::set("scope", "registered")?;
    scanner::scan(1)?;
    expect::eq("pages_shared", 0, knob::number("pages_shared")?)?;
    expect::eq("use count", 0, module::use_count()?)?;
    module::reload("")?;
    drop(device);
    scanner::expect_exact_counts("after all exited").map(drop)
}

/// No CPU can read the pages to copy them: writing 2 to `run` fails, and the module stays loaded.
fn pages_on_a_device_stay_shared_until_they_return(lab: &Lab) -> Result {
    let device = Device::new()?;
    let group = Group::mixed(lab, PAGES)?;
    take_all(&device, &group)?;
    expect::errno("run=2", libc::EBUSY, knob::try_write("run", b"2"))?;
    module::expect_in_use("while pages are on a device")?;
    group.check("after run=2")?;
    scanner::unmerge()?;
    module::unload_as_it_is()?;
    module::load("")?;
    group.check("without the module")
}

/// Readers that access a page during its migration wait for its end.
fn a_driver_can_move_pages_that_are_read(lab: &Lab) -> Result {
    const ROUNDS: usize = 30;
    let device = Device::new()?;
    let group = Group::mixed(lab, PAGES)?;
    let mover = &group.sharers[0];
    let anon_pages = || procfs::number_in("/proc/vmstat", "nr_anon_pages");
    let before = anon_pages()?;
    for round in 0..ROUNDS {
        for reader in &group.sharers[1..] {
            let part = reader.parts[0];
            let arguments = [part.addr, part.pages, IDS.first, IDS.stride];
            reader.peer.begin("check", &arguments)?;
        }
        let kinds = [Migration::Offer, Migration::Move, Migration::Take];
        device.migrate(kinds[round % kinds.len()], &mover.peer, mover.parts[0])?;
        for reader in &group.sharers[1..] {
            reader.peer.finish("check")?;
        }
    }
    group.check("after all migrations")?;
    expect_all(&group, "after all migrations")?;
    let allowed = before.saturating_sub(SLACK)..=before + SLACK;
    expect::within("nr_anon_pages", allowed, anon_pages()?)
}
