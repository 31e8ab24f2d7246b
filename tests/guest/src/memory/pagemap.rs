// SPDX-License-Identifier: GPL-2.0

//! The frames of pages, and the kernel's flags of frames.
//!
//! Reference: Documentation/admin-guide/mm/pagemap.rst.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::memory::content::PAGE_SIZE;
use crate::Context;
use crate::Result;
use crate::Span;

/// A page frame number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u64);

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#x}", self.0)
    }
}

/// One entry of `/proc/PID/pagemap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    const SOFT_DIRTY: u64 = 1 << 55;
    const FRAME: u64 = (1 << 55) - 1;

    /// The frame, if the page is present.
    pub fn frame(self) -> Option<Frame> {
        (self.0 & Self::PRESENT != 0).then_some(Frame(self.0 & Self::FRAME))
    }

    /// Returns whether the page was written since the last `clear_refs`.
    pub fn soft_dirty(self) -> bool {
        self.0 & Self::SOFT_DIRTY != 0
    }

    /// Returns whether the page is swapped out.
    pub fn swapped(self) -> bool {
        self.0 & Self::SWAPPED != 0
    }

    /// Returns whether the page belongs to a file or to shared memory.
    pub fn of_file(self) -> bool {
        self.0 & Self::FILE != 0
    }
}

/// The flags of a frame in `/proc/kpageflags`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Flags(u64);

impl Flags {
    const LRU: u32 = 5;
    const BUDDY: u32 = 10;
    const ANON: u32 = 12;
    const HWPOISON: u32 = 19;
    const KSM: u32 = 21;
    const THP: u32 = 22;
    const ZERO_PAGE: u32 = 24;

    /// Wraps an entry of the file.
    pub fn new(entry: u64) -> Self {
        Flags(entry)
    }

    fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// The frame contains anonymous memory, merged or not.
    pub fn anonymous(self) -> bool {
        self.has(Self::ANON)
    }

    /// The frame is merged.
    pub fn ksm(self) -> bool {
        self.has(Self::KSM)
    }

    /// The frame is marked as failed memory (`HWPOISON`), which the kernel never allocates again.
    pub fn poisoned(self) -> bool {
        self.has(Self::HWPOISON)
    }

    /// The frame is on an LRU list.
    pub fn lru(self) -> bool {
        self.has(Self::LRU)
    }

    /// The frame is free.
    pub fn free(self) -> bool {
        self.has(Self::BUDDY)
    }

    /// The frame is part of a large folio.
    pub fn thp(self) -> bool {
        self.has(Self::THP)
    }

    /// The frame is the shared zero page.
    pub fn zero_page(self) -> bool {
        self.has(Self::ZERO_PAGE)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kpageflags {:#x}", self.0)
    }
}

impl Frame {
    /// Reads the entry of this frame in a file with 8 bytes per frame.
    fn entry(self, path: &str) -> Result<u64> {
        let mut bytes = [0; 8];
        File::open(path)
            .and_then(|file| file.read_exact_at(&mut bytes, self.0 * 8))
            .context(|| format!("{path} of {self:?}"))?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// The kernel's flags of this frame.
    pub fn flags(self) -> Result<Flags> {
        self.entry("/proc/kpageflags").map(Flags)
    }

    /// How many page table entries map this frame.
    pub fn mappings(self) -> Result<u64> {
        self.entry("/proc/kpagecount")
    }

    /// The inode number of the memory cgroup that this frame is charged to; 0 for none.
    pub fn cgroup(self) -> Result<u64> {
        self.entry("/proc/kpagecgroup")
    }
}

/// Reads the flags of many frames through one open file.
pub struct FlagsOf(File);

impl FlagsOf {
    /// Opens `/proc/kpageflags`.
    pub fn open() -> Result<Self> {
        let path = "/proc/kpageflags";
        File::open(path).map(FlagsOf).context(|| path)
    }

    /// The flags of a frame.
    pub fn get(&self, frame: Frame) -> Result<Flags> {
        let mut bytes = [0; 8];
        self.0
            .read_exact_at(&mut bytes, frame.0 * 8)
            .context(|| format!("/proc/kpageflags of {frame:?}"))?;
        Ok(Flags(u64::from_ne_bytes(bytes)))
    }
}

/// The page table entries of a span of a process, from `/proc/PID/pagemap`.
pub fn entries(pid: i32, span: Span) -> Result<Vec<Entry>> {
    let path = format!("/proc/{pid}/pagemap");
    let mut bytes = vec![0; span.pages as usize * 8];
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut bytes, span.addr / PAGE_SIZE * 8))
        .context(|| format!("{path} at {span:?}"))?;
    Ok(bytes
        .chunks_exact(8)
        .map(|chunk| Entry(u64::from_ne_bytes(chunk.try_into().expect("8 bytes"))))
        .collect())
}

/// The frames of a span. All its pages are expected to be present.
pub fn frames(pid: i32, span: Span) -> Result<Vec<Frame>> {
    entries(pid, span)?
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            entry.frame().ok_or_else(|| {
                format!("process {pid}, page {index} of {span:?}: expected to be present, found {entry:?}")
                    .into()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_apart() {
        let entry = Entry((1 << 63) | (1 << 61) | 0x1234);
        assert_eq!(entry.frame(), Some(Frame(0x1234)));
        assert!(entry.of_file() && !entry.swapped());
        assert_eq!(Entry(1 << 62).frame(), None);
    }

    #[test]
    fn soft_dirty_and_exclusive_are_no_part_of_the_frame() {
        assert_eq!(
            Entry((1 << 63) | (1 << 56) | (1 << 55) | 9).frame(),
            Some(Frame(9))
        );
    }
}
