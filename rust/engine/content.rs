// SPDX-License-Identifier: GPL-2.0

//! The content of a page, as the engine sees it.

/// Size of a page in bytes: the unit of merging.
pub const PAGE_SIZE: usize = 4096;

/// Number of 64-bit words of a page.
pub const WORDS: usize = PAGE_SIZE / 8;

/// Number of words read between two branches: a branch after each word would cost more than it saves.
const ROW: usize = 16;

/// Read access to one page of [`PAGE_SIZE`] bytes.
///
/// A page of a running process may change while it is read, so two reads of the same word may differ.
/// Nothing relies on stable reads: before every merge, the pages are compared under write protection,
/// which corrects any decision made from a torn read.
pub trait Content {
    /// Returns the word at `index` (in words, below [`WORDS`]), in native byte order.
    fn word(&self, index: usize) -> u64;

    /// Returns the two words of the pair at `index` (in pairs of words).
    #[inline]
    fn pair(&self, index: u8) -> [u64; 2] {
        let first = 2 * usize::from(index);
        [self.word(first), self.word(first + 1)]
    }

    /// Whether every byte is zero. Stops soon after the first non-zero word.
    #[inline]
    fn is_zero(&self) -> bool {
        is_zero(self)
    }
}

impl Content for [u8; PAGE_SIZE] {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        let mut bytes = [0; 8];
        if let Some(chunk) = self.chunks_exact(8).nth(index) {
            bytes.copy_from_slice(chunk);
        }
        u64::from_ne_bytes(bytes)
    }
}

/// Whether every byte of a page is zero: [`Content::is_zero`], word by word.
#[inline]
pub fn is_zero<C: Content + ?Sized>(content: &C) -> bool {
    all_zero(|index| content.word(index))
}

/// Whether two pages are equal, byte for byte.
#[inline]
pub fn same<A: Content + ?Sized, B: Content + ?Sized>(a: &A, b: &B) -> bool {
    all_zero(|index| a.word(index) ^ b.word(index))
}

/// Whether all words of a page are zero.
#[inline]
fn all_zero(word: impl Fn(usize) -> u64) -> bool {
    (0..WORDS / ROW).all(|row| (0..ROW).fold(0, |bits, index| bits | word(row * ROW + index)) == 0)
}
