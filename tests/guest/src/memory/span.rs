// SPDX-License-Identifier: GPL-2.0

//! A run of pages in the address space of a process.

use std::fmt;
use std::ops::Range;

use crate::memory::content::PAGE_SIZE;

/// A run of pages, given by its address and length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Address of the first page.
    pub addr: u64,
    /// The number of pages.
    pub pages: u64,
}

impl Span {
    /// The span of `pages` pages that starts at `addr`.
    pub fn new(addr: u64, pages: u64) -> Self {
        Span { addr, pages }
    }

    /// The span of only the page `index`.
    pub fn page(self, index: u64) -> Self {
        self.part(index, 1)
    }

    /// The part of `pages` pages that starts at page `first`.
    pub fn part(self, first: u64, pages: u64) -> Self {
        assert!(
            first + pages <= self.pages,
            "{self:?} has no part {first}+{pages}"
        );
        Span::new(self.addr + first * PAGE_SIZE, pages)
    }

    /// The length in bytes.
    pub fn bytes(self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// The address range.
    pub fn range(self) -> Range<u64> {
        self.addr..self.addr + self.bytes()
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{}", self.addr, self.pages)
    }
}
