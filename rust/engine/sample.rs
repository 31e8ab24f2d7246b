// SPDX-License-Identifier: GPL-2.0

//! Samples of pages: a few words, at secret positions.
//!
//! Hashing a whole page costs more than everything else that a scanner does with it, and most pages
//! equal no other page. So a sample tells pages apart first, and only pages with equal samples are read
//! as a whole. Equal samples decide nothing by themselves.

use crate::content::Content;
use crate::content::WORDS;
use crate::hash::mix;
use crate::hash::step_keyed;
use core::mem::size_of;

/// Number of cache lines of which a sample takes two words each: one in each part of the page.
pub const LINES: usize = 4;
/// Number of pairs of 64-bit words in a part.
const PART: u64 = (WORDS / 2 / LINES) as u64;

/// Takes samples. Their positions and the key of their hash are derived from the seed.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Indexes of the sampled pairs of words in the page.
    pairs: [u8; LINES],
    basis: u64,
    multiplier: u64,
}

/// A sample of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    pub(crate) hash: u64,
    /// Whether all words of the sample are zero.
    pub(crate) is_blank: bool,
}

impl Sampler {
    /// Derives positions and key from `seed`.
    pub fn new(seed: u64) -> Self {
        Sampler {
            pairs: core::array::from_fn(|part| pair(part as u64, mix(seed ^ mix(part as u64)))),
            basis: mix(seed ^ mix(LINES as u64)),
            multiplier: mix(seed ^ mix(LINES as u64 + 1)) | 1,
        }
    }

    /// The offsets of the sampled pairs in the page, in bytes.
    pub fn offsets(&self) -> [u16; LINES] {
        const PAIR_BYTES: u16 = 2 * size_of::<u64>() as u16;
        self.pairs.map(|pair| u16::from(pair) * PAIR_BYTES)
    }

    /// Takes the sample of a page.
    #[inline]
    pub fn of<C: Content + ?Sized>(&self, content: &C) -> Sample {
        let (mut hash, mut bits) = (self.basis, 0);
        for pair in self.pairs {
            let words = content.pair(pair);
            bits |= words[0] | words[1];
            hash = step_keyed(hash, self.multiplier, words);
        }
        Sample {
            hash,
            is_blank: bits == 0,
        }
    }

    /// Whether all words of the sample are zero. Stops at the first pair that is not.
    #[inline]
    pub fn is_blank<C: Content + ?Sized>(&self, content: &C) -> bool {
        let is_blank = |pair| {
            let [one, other] = content.pair(pair);
            one | other == 0
        };
        self.pairs.into_iter().all(is_blank)
    }
}

/// Index of a pair of words in this part of the page. Both words are in one cache line.
fn pair(part: u64, random: u64) -> u8 {
    (part * PART + random % PART) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_pair_in_each_part() {
        for seed in 0..1000 {
            for (part, pair) in (0..).zip(Sampler::new(seed).pairs) {
                assert_eq!(u64::from(pair) / PART, part);
            }
        }
    }

    #[test]
    fn places_and_hashes_depend_on_the_seed() {
        let page = [0x5a; crate::PAGE_SIZE];
        let (a, b) = (Sampler::new(1), Sampler::new(2));
        assert_ne!(a.pairs, b.pairs);
        assert_ne!(a.of(&page), b.of(&page));
        assert_eq!(a.of(&page), Sampler::new(1).of(&page));
    }

    #[test]
    fn every_pair_is_drawn() {
        let drawn: std::collections::HashSet<u8> = (0..10_000)
            .flat_map(|seed| Sampler::new(seed).pairs)
            .collect();
        assert_eq!(drawn.len(), WORDS / 2);
    }

    #[test]
    fn other_words_make_no_difference() {
        let sampler = Sampler::new(3);
        let mut page = [0xff; crate::PAGE_SIZE];
        for offset in sampler.offsets() {
            page[usize::from(offset)..][..16].fill(0);
        }
        assert!(sampler.is_blank(&page));
    }

    #[test]
    fn only_zeroes_are_blank() {
        let sampler = Sampler::new(5);
        let mut page = [0; crate::PAGE_SIZE];
        assert!(sampler.of(&page).is_blank && sampler.is_blank(&page));
        for pair in sampler.pairs {
            page[usize::from(pair) * 16 + 15] = 1;
            assert!(!sampler.of(&page).is_blank && !sampler.is_blank(&page));
            page[usize::from(pair) * 16 + 15] = 0;
        }
    }
}
