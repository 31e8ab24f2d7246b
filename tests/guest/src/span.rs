// SPDX-License-Identifier: GPL-2.0

//! A run of pages in the address space of some process.

use std::fmt;
use std::ops::Range;

use crate::content::PAGE_SIZE;

/// A run of pages, by address and length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Address of the first page.
    pub addr: u64,
    /// How many pages.
    pub pages: u64,
}

impl Span {
    /// The pages from `addr` on.
    pub fn new(addr: u64, pages: u64) -> Self {
        Span { addr, pages }
    }

    /// Page `index` alone.
    pub fn page(self, index: u64) -> Self {
        self.part(index, 1)
    }

    /// `pages` of them from `first` on.
    pub fn part(self, first: u64, pages: u64) -> Self {
        assert!(
            first + pages <= self.pages,
            "{self:?} has no part {first}+{pages}"
        );
        Span::new(self.addr + first * PAGE_SIZE, pages)
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// The addresses.
    pub fn range(self) -> Range<u64> {
        self.addr..self.addr + self.bytes()
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{}", self.addr, self.pages)
    }
}
