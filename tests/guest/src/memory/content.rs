// SPDX-License-Identifier: GPL-2.0

//! Page contents, each identified by a number.
//!
//! Number 0 is a page of zeros; every other number is a unique page, pseudo-random from the first
//! word to the last.

use crate::rng::mix;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// 64-bit words of a page.
pub const WORDS: usize = PAGE_SIZE as usize / 8;
/// Pages in a huge page.
pub const HUGE: u64 = 512;

/// Word `index` of the content `id`.
pub fn word(id: u64, index: usize) -> u64 {
    if id == 0 {
        0
    } else {
        mix(mix(id).wrapping_add(index as u64))
    }
}

/// Contents of a run of pages: page `i` contains `first + i * stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Content of the first page.
    pub first: u64,
    /// 0: the same content in all pages, 1: different content in each page.
    pub stride: u64,
}

impl Ids {
    /// All pages of zeros.
    pub const ZERO: Ids = Ids::same(0);

    /// The same content in all pages.
    pub const fn same(id: u64) -> Self {
        Ids {
            first: id,
            stride: 0,
        }
    }

    /// Different content in each page, numbered from `first`.
    pub const fn each(first: u64) -> Self {
        Ids { first, stride: 1 }
    }

    /// The content of page `index`.
    pub fn of(self, index: u64) -> u64 {
        self.first.wrapping_add(index.wrapping_mul(self.stride))
    }
}

/// One page filled with the content `id`.
pub fn page(id: u64) -> Box<[u64; WORDS]> {
    let mut words = Box::new([0; WORDS]);
    for (index, slot) in words.iter_mut().enumerate() {
        *slot = word(id, index);
    }
    words
}

/// The bytes of a page with these words.
pub fn bytes(word: impl Fn(usize) -> u64) -> Vec<u8> {
    (0..WORDS)
        .flat_map(|index| word(index).to_ne_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_the_page_of_zeros_and_the_only_one() {
        assert!(page(0).iter().all(|&word| word == 0));
        assert!(page(1).iter().all(|&word| word != 0));
    }

    #[test]
    fn contents_differ_in_every_word() {
        let (one, other) = (page(7), page(8));
        assert!(one.iter().zip(other.iter()).all(|(a, b)| a != b));
    }

    #[test]
    fn ids_count_from_the_first() {
        assert_eq!(Ids::same(5).of(9), 5);
        assert_eq!(Ids::each(5).of(9), 14);
    }
}
