// SPDX-License-Identifier: GPL-2.0

//! What some kernels lack, and tests do without there.

use std::path::Path;

use crate::peer::tags;
use crate::probe;
use crate::procfs;

/// Something that a kernel may have been built without.
#[derive(Clone, Copy, Debug)]
pub enum Feature {
    /// Counting the calls of a function that flushes TLBs.
    FlushCounts,
    /// Transparent huge pages.
    HugePages,
    /// Memory tags.
    MemoryTags,
    /// Marks of pages that were written to (Documentation/admin-guide/mm/soft-dirty.rst).
    SoftDirty,
}

impl Feature {
    /// Says so where this kernel lacks it.
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
                // Every new area has the flag.
                let maps = procfs::read("/proc/self/smaps").unwrap_or_default();
                (!maps.contains(" sd")).then_some("the kernel marks no written pages")
            }
        }
    }
}
