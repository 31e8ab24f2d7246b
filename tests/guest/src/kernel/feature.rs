// SPDX-License-Identifier: GPL-2.0

//! Features that some kernels lack. Tests that need one are skipped there.

use std::path::Path;

use crate::kernel::probe;
use crate::kernel::procfs;
use crate::process::peer::tags;
use crate::process::userfaultfd::Userfaultfd;

/// A feature that a kernel may have been built without.
#[derive(Clone, Copy, Debug)]
pub enum Feature {
    /// Counts of the calls to a function that flushes TLBs.
    FlushCounts,
    /// Transparent huge pages.
    HugePages,
    /// Memory tags.
    MemoryTags,
    /// Soft-dirty bits of page table entries (Documentation/admin-guide/mm/soft-dirty.rst).
    SoftDirty,
    /// Page faults that user space resolves.
    Userfaultfd,
}

impl Feature {
    /// Returns why the feature is missing; `None` if it is available.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Feature::FlushCounts => {
                if !probe::is_possible() {
                    Some("the kernel has no kprobe events")
                } else if !probe::is_function(probe::FLUSH) {
                    Some("this processor's TLBs are flushed without a call")
                } else {
                    None
                }
            }
            Feature::HugePages => (!Path::new("/sys/kernel/mm/transparent_hugepage").exists())
                .then_some("the kernel has no transparent huge pages"),
            Feature::MemoryTags => {
                (!tags::are_there()).then_some("this machine has no memory tags")
            }
            Feature::SoftDirty => {
                // Every new VMA has the flag.
                let maps = procfs::read("/proc/self/smaps").unwrap_or_default();
                (!maps.contains(" sd")).then_some("the kernel has no soft-dirty bits")
            }
            Feature::Userfaultfd => {
                (Userfaultfd::open(0).is_err()).then_some("the kernel has no userfaultfd")
            }
        }
    }
}
