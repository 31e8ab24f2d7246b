// SPDX-License-Identifier: GPL-2.0

//! Huge pages that the kernel makes of small ones, among them shared ones. Whether it does is its own
//! business; contents stay.

use guest::content::Ids;
use guest::expect;
use guest::lab::Lab;
use guest::lab::Test;
use guest::procfs;
use guest::scanner;
use guest::task;
use guest::Result;

use super::group::Group;
use super::IDS;

pub(super) const TESTS: &[Test] = &[
    ("khugepaged_beside_shared_pages", khugepaged),
    ("collapsing_some_shared_pages", collapsed),
    ("collapsing_shared_pages", all_collapsed),
];

pub(super) const DIRECTORY: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged";

/// Pages of a huge page.
const HUGE: u64 = 512;
/// Of `MADV_COLLAPSE`.
const MADV_COLLAPSE: i32 = 25;

/// A setting of khugepaged, as long as this lives.
struct Setting {
    path: String,
    before: String,
}

impl Setting {
    fn new(name: &str, value: &str) -> Result<Self> {
        let path = format!("{DIRECTORY}/{name}");
        let before = procfs::read(&path)?;
        procfs::write(&path, value)?;
        Ok(Setting { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if procfs::write(&self.path, &self.before).is_err() {
            eprintln!("{} could not be restored", self.path);
        }
    }
}

fn scans() -> Result<u64> {
    procfs::number(&format!("{DIRECTORY}/full_scans"))
}

/// Waits until khugepaged has seen everything.
fn wait_scans(count: u64) -> Result {
    let target = scans()? + count;
    let seen = || scans().is_ok_and(|found| found >= target);
    expect::that(task::wait_until(task::PATIENCE, seen), || {
        format!(
            "full_scans of khugepaged: expected {target}, found {:?}",
            scans()
        )
    })
}

/// Processes that share the first pages of what can be a huge page.
fn group(lab: &Lab, shared: u64) -> Result<Group> {
    let group = Group::pair(lab, HUGE)?;
    for sharer in &group.sharers {
        // Pages with the same content that are not shared any more.
        let own = sharer.parts[0].part(shared, HUGE - shared);
        let ids = Ids::each(IDS.of(shared));
        sharer.peer.fill(own, ids)?;
        sharer.peer.advise(sharer.parts[0], libc::MADV_HUGEPAGE)?;
    }
    Ok(group)
}

fn expect_sound(group: &Group, when: &str) -> Result {
    group.check(when)?;
    scanner::expect_exact_counts(when).map(drop)
}

fn khugepaged(lab: &Lab) -> Result {
    let _settings = [
        Setting::new("scan_sleep_millisecs", "0")?,
        Setting::new("alloc_sleep_millisecs", "10")?,
        Setting::new("pages_to_scan", "100000")?,
    ];
    for shared in [64, 400] {
        let group = group(lab, shared)?;
        wait_scans(3)?;
        expect_sound(&group, "after khugepaged came by")?;
        // The module breaks the huge page apart to merge its parts.
        group.merge()?;
        wait_scans(2)?;
        expect_sound(&group, "merged again")?;
    }
    Ok(())
}

fn collapse(lab: &Lab, shared: u64) -> Result {
    let group = group(lab, shared)?;
    for sharer in &group.sharers {
        let _ = sharer.peer.advise(sharer.parts[0], MADV_COLLAPSE);
        expect_sound(&group, "after MADV_COLLAPSE")?;
    }
    group.merge()?;
    group.expect_intact("merged again").map(drop)
}

fn collapsed(lab: &Lab) -> Result {
    collapse(lab, 100)
}

fn all_collapsed(lab: &Lab) -> Result {
    collapse(lab, HUGE)
}
