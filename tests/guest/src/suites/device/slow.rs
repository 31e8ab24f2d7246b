// SPDX-License-Identifier: GPL-2.0

//! Memory mapped by a device that is slow to invalidate it, such as a GPU with running jobs: the
//! module must not wait for it.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::debugfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::HUGE;
use guest::memory::pages;
use guest::provoke::slow_device::SlowDevice;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    memory_of_a_slow_device_is_left_out_and_delays_no_pass,
    memory_of_a_slow_device_stays_merged_and_delays_no_other,
    a_huge_page_of_a_slow_device_stays_whole_and_delays_no_pass,
];

const PAGES: u64 = 16;
const IDS: Ids = Ids::each(100);
const OTHER_IDS: Ids = Ids::each(200);
const IDS_OF_HUGE: Ids = Ids::each(1000);

fn busy() -> Result<u64> {
    Ok(debugfs::refusals()?.remove("busy").unwrap_or(0))
}

fn memory_of_a_slow_device_is_left_out_and_delays_no_pass(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    let (other_a, other_b) = (a.anon(PAGES, OTHER_IDS)?, b.anon(PAGES, OTHER_IDS)?);
    let device = SlowDevice::map(&a, in_a)?;
    let before = busy()?;
    scanner::merge()?;
    expect::eq("waits for the device", 0, device.waited()?)?;
    expect::within("refused as busy", before + PAGES..=u64::MAX, busy()?)?;
    pages::expect_not_merged((&a, in_a))?;
    pages::expect_merged(&[(&a, other_a), (&b, other_b)])?;
    drop(device);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, IDS)
}

fn memory_of_a_slow_device_stays_merged_and_delays_no_other(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    let device = SlowDevice::map(&a, in_a)?;
    expect::errno("run=2", libc::EBUSY, knob::try_write("run", b"2"))?;
    expect::eq("waits for the device", 0, device.waited()?)?;
    pages::expect_not_merged((&b, in_b))?;
    let left = scanner::expect_exact_counts("after run=2")?;
    expect::eq("pages_shared", PAGES, left.shared)?;
    drop(device);
    scanner::unmerge()?;
    pages::expect_not_merged((&a, in_a))?;
    a.check(in_a, IDS)
}

/// The kernel's `split_huge_page()` waits for devices. So the module must not call it for this huge page, neither
/// for the scanned page nor for the page that equals it.
fn a_huge_page_of_a_slow_device_stays_whole_and_delays_no_pass(lab: &Lab) -> Result {
    procfs::write("/sys/kernel/mm/transparent_hugepage/enabled", "always")?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(HUGE, IDS_OF_HUGE)?, b.anon(HUGE, IDS_OF_HUGE)?);
    let (other_a, other_b) = (a.anon(PAGES, OTHER_IDS)?, b.anon(PAGES, OTHER_IDS)?);
    let huge = || a.smaps_pages(in_a, "AnonHugePages");
    expect::eq("huge parts before", HUGE, huge()?)?;
    let device = SlowDevice::map(&a, in_a)?;
    let before = busy()?;
    scanner::merge()?;
    expect::eq("waits for the device", 0, device.waited()?)?;
    expect::within("refused as busy", before + 1..=u64::MAX, busy()?)?;
    expect::eq("huge parts of the device", HUGE, huge()?)?;
    pages::expect_merged(&[(&a, other_a), (&b, other_b)])?;
    drop(device);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.check(in_a, IDS_OF_HUGE)
}
