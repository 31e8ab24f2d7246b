// SPDX-License-Identifier: GPL-2.0

//! Hibernation: the kernel writes all memory to the swap space on a disk, and reads it back.
//!
//! The mode `test_resume` does all that a hibernation does, except that the machine stays on
//! (Documentation/power/basic-pm-debugging.rst).

use std::path::Path;

use guest::expect;
use guest::kernel::kmsg::Kmsg;
use guest::kernel::procfs;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::swap::Swap;
use guest::tests;
use guest::Result;

use super::group::Group;

pub(super) const TESTS: &[Test] = tests![
    hibernation_keeps_merged_pages,
    hibernation_beside_the_scanner,
];

const PAGES: u64 = 256;
const DISK: &str = "/dev/vda";
const MODE: &str = "/sys/power/disk";
const STATE: &str = "/sys/power/state";
/// A message from before the memory is copied.
const BEFORE_COPY: &str = "Preallocating image memory";
/// A message from after the memory was copied: a kernel that resumes from the copy has not printed it.
const AFTER_COPY: &str = "Image saving";

/// Returns why the guest cannot hibernate; `None` if it can.
pub(super) fn lacking() -> Option<String> {
    let modes = procfs::read(MODE).unwrap_or_default();
    if !modes.contains("test_resume") {
        return Some("the kernel has no test of hibernation".to_owned());
    }
    // A missing file means that the kernel has the driver built in.
    let _ = module::load_beside("virtio_blk");
    (!Path::new(DISK).exists()).then(|| "the guest has no disk".to_owned())
}

/// Saves all memory to the disk and resumes from it.
fn hibernate() -> Result {
    let _swap = Swap::on_disk(DISK)?;
    let mut kmsg = Kmsg::open()?;
    procfs::write(MODE, "test_resume")?;
    procfs::write(STATE, "disk")?;
    let messages = kmsg.messages();
    let says = |text: &str| messages.iter().any(|message| message.contains(text));
    expect::that(says(BEFORE_COPY) && !says(AFTER_COPY), || {
        format!("the log: expected {BEFORE_COPY:?} and not {AFTER_COPY:?}, found {messages:?}")
    })
}

fn expect_movable(group: &Group) -> Result {
    group.expect_intact("after hibernation")?;
    for node in [1, 0] {
        group.move_all(0, node)?;
        group.expect_intact("moved after hibernation")?;
    }
    scanner::expect_exact_counts("after hibernation")?;
    Ok(())
}

fn hibernation_keeps_merged_pages(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    hibernate()?;
    expect_movable(&group)?;
    scanner::unmerge()?;
    group.check("unmerged after hibernation")
}

fn hibernation_beside_the_scanner(lab: &Lab) -> Result {
    let group = Group::mixed(lab, PAGES)?;
    scanner::start()?;
    hibernate()?;
    scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    scanner::stop()?;
    expect_movable(&group)
}
