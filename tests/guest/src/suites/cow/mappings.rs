// SPDX-License-Identifier: GPL-2.0

//! Changes to the mappings of merged pages.

use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::tests;
use guest::Result;

use super::Trio;
use super::IDS;
use super::NEW;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    mremap_moves_merged_pages,
    moved_pages_merge_as_before,
    mprotect_and_back,
    munmap_of_a_part,
    dontneed_gives_zeros,
    dontneed_then_writes_merge_again,
    lazy_free_keeps_or_zeroes,
    mlock_gives_a_copy,
    unregistering_unmerges,
    wipe_on_fork_spares_the_parent,
];

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn mremap_moves_merged_pages(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let moved = trio.a.remap(trio.in_a)?;
    pages::expect_frames("moved pages", (&trio.a, moved), &trio.frames)?;
    trio.a.check(moved, IDS)?;
    pages::expect_mappings(&trio.frames, 3)?;
    scanner::expect_exact_counts("after mremap")?;
    trio.a.fill(moved, NEW)?;
    trio.expect_private_copy(moved, NEW, "after a write to moved pages")
}

fn moved_pages_merge_as_before(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    let moved = trio.a.remap(trio.in_a.part(2, 4))?;
    scanner::merge()?;
    pages::expect_frames(
        "moved pages after a pass",
        (&trio.a, moved),
        &trio.frames[2..6],
    )?;
    let other = trio.a.anon(PAGES, IDS)?;
    scanner::merge()?;
    pages::expect_frames("new equal pages", (&trio.a, other), &trio.frames)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after new pages merged").map(drop)
}

fn mprotect_and_back(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    for protection in [libc::PROT_READ, libc::PROT_NONE, READ_WRITE] {
        trio.a.protect(trio.in_a, protection)?;
        scanner::expect_exact_counts(&format!("after mprotect {protection}"))?;
        scanner::merge()?;
        pages::expect_frames("protected pages", (&trio.a, trio.in_a), &trio.frames)?;
    }
    trio.a.check(trio.in_a, IDS)?;
    trio.a.fill(trio.in_a, NEW)?;
    trio.expect_private_copy(trio.in_a, NEW, "after mprotect and a write")
}

fn munmap_of_a_part(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.unmap(trio.in_a.part(2, 3))?;
    pages::expect_mappings(&trio.frames[..2], 3)?;
    pages::expect_mappings(&trio.frames[2..5], 2)?;
    pages::expect_mappings(&trio.frames[5..], 3)?;
    scanner::expect_exact_counts("after munmap of a part")?;
    trio.a.check(trio.in_a.part(0, 2), IDS)?;
    trio.a.check(trio.in_a.part(5, 3), Ids::each(IDS.of(5)))?;
    scanner::merge()?;
    trio.expect_others_unchanged()?;
    trio.a.unmap(trio.in_a)?;
    pages::expect_mappings(&trio.frames, 2)?;
    scanner::expect_exact_counts("after munmap of all").map(drop)
}

fn dontneed_gives_zeros(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.advise(trio.in_a, libc::MADV_DONTNEED)?;
    pages::expect_mappings(&trio.frames, 2)?;
    scanner::expect_exact_counts("after MADV_DONTNEED")?;
    trio.a.check(trio.in_a, Ids::ZERO)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after reading zeros").map(drop)
}

fn dontneed_then_writes_merge_again(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.advise(trio.in_a, libc::MADV_DONTNEED)?;
    trio.a.fill(trio.in_a, IDS)?;
    scanner::merge()?;
    pages::expect_frames("pages written anew", (&trio.a, trio.in_a), &trio.frames)?;
    trio.expect_others_unchanged()
}

/// The kernel may drop the pages of the process that called `MADV_FREE` until they are written.
fn lazy_free_keeps_or_zeroes(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.advise(trio.in_a, libc::MADV_FREE)?;
    scanner::merge()?;
    trio.expect_others_unchanged()?;
    for index in 0..PAGES {
        let page = trio
            .a
            .check(trio.in_a.page(index), Ids::same(IDS.of(index)));
        page.or_else(|_| trio.a.check(trio.in_a.page(index), Ids::ZERO))?;
    }
    trio.a.fill(trio.in_a, NEW)?;
    trio.expect_private_copy(trio.in_a, NEW, "after MADV_FREE and a write")
}

fn mlock_gives_a_copy(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.lock(trio.in_a)?;
    trio.expect_private_copy(trio.in_a, IDS, "after mlock")?;
    scanner::merge()?;
    trio.expect_private_copy(trio.in_a, IDS, "after mlock and a pass")?;
    trio.a.unlock(trio.in_a)?;
    scanner::merge()?;
    pages::expect_frames("unlocked pages", (&trio.a, trio.in_a), &trio.frames)
}

/// `MADV_UNMERGEABLE` is mainline's call to unmerge pages, and works on pages merged by the module, too.
fn unregistering_unmerges(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.register(trio.in_a)?;
    pages::expect_frames("registered pages", (&trio.a, trio.in_a), &trio.frames)?;
    trio.a.advise(trio.in_a, libc::MADV_UNMERGEABLE)?;
    trio.expect_private_copy(trio.in_a, IDS, "after MADV_UNMERGEABLE")
}

fn wipe_on_fork_spares_the_parent(lab: &Lab) -> Result {
    let trio = Trio::new(lab)?;
    trio.a.advise(trio.in_a, libc::MADV_WIPEONFORK)?;
    let child = trio.a.fork()?;
    child.check(trio.in_a, Ids::ZERO)?;
    trio.a.check(trio.in_a, IDS)?;
    trio.expect_others_unchanged()?;
    scanner::expect_exact_counts("after a wiping fork").map(drop)
}
