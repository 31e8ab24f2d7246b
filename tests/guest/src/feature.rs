// SPDX-License-Identifier: GPL-2.0

//! What some kernels lack, and tests do without there.

use std::path::Path;

use crate::probe;
use crate::procfs;

/// Something that a kernel may have been built without.
#[derive(Clone, Copy, Debug)]
pub enum Feature {
    /// Counting the calls of its functions.
    CallCounts,
    /// Transparent huge pages.
    HugePages,
    /// Marks of pages that were written to (Documentation/admin-guide/mm/soft-dirty.rst).
    SoftDirty,
}

impl Feature {
    /// Says so where this kernel lacks it.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Feature::CallCounts => {
                (!probe::is_possible()).then_some("the kernel has no kprobe events")
            }
            Feature::HugePages => (!Path::new("/sys/kernel/mm/transparent_hugepage").exists())
                .then_some("the kernel has no transparent huge pages"),
            Feature::SoftDirty => {
                // Every new area has the flag.
                let maps = procfs::read("/proc/self/smaps").unwrap_or_default();
                (!maps.contains(" sd")).then_some("the kernel marks no written pages")
            }
        }
    }
}
