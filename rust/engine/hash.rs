// SPDX-License-Identifier: GPL-2.0

//! FNV-1a, the hash of page contents.
//!
//! Reference: Fowler, Noll, Vo, Eastlake, "The FNV Non-Cryptographic Hash Algorithm" (RFC 9923), which
//! also lists the test vectors.
//!
//! The hash only finds candidates. Pages are compared byte by byte before a merge, so a collision costs
//! a comparison and nothing else. The key keeps an attacker from making many collisions.

use crate::content::Content;
use crate::content::WORDS;

/// FNV prime for 32-bit hashes (RFC 9923, section 5).
const PRIME_32: u32 = 0x0100_0193;
/// FNV offset basis for 32-bit hashes.
const BASIS_32: u32 = 0x811c_9dc5;
/// FNV prime for 64-bit hashes.
const PRIME_64: u64 = 0x0000_0100_0000_01b3;
/// FNV offset basis for 64-bit hashes.
const BASIS_64: u64 = 0xcbf2_9ce4_8422_2325;

/// Number of independent hashes of the wide variant: enough to hide the latency of a multiplication.
const LANES: usize = 8;

/// The hash that a scanner uses for contents; chosen when the scanner is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashKind {
    /// Keyed 64-bit FNV-1a over pairs of 64-bit words in eight lanes. It takes a fifth of the time of
    /// the bytewise hash, and nobody can make contents collide without the key.
    #[default]
    Wide,
    /// The documented 32-bit FNV-1a over bytes. It has no key, so anybody can make contents collide.
    Bytewise,
}

/// A keyed hash of pages.
#[derive(Clone, Copy, Debug)]
pub struct PageHash {
    kind: HashKind,
    /// Initial values of the lanes, in place of the offset basis.
    bases: [u64; LANES],
    /// Multiplier of the lanes, in place of the prime.
    multiplier: u64,
}

impl PageHash {
    /// Makes the hash `kind` with a key drawn from `seed`.
    pub fn new(kind: HashKind, seed: u64) -> Self {
        PageHash {
            kind,
            bases: core::array::from_fn(|lane| mix(BASIS_64 ^ mix(seed ^ lane as u64))),
            multiplier: mix(PRIME_64 ^ mix(seed ^ LANES as u64)) | 1,
        }
    }

    /// Hashes a whole page.
    #[inline]
    pub fn of<C: Content + ?Sized>(&self, content: &C) -> u64 {
        match self.kind {
            HashKind::Wide => self.wide(content),
            HashKind::Bytewise => u64::from(bytewise(content)),
        }
    }

    /// Keyed 64-bit FNV-1a: lane `i % 8` hashes the words `2 * i` and `2 * i + 1`; then the lanes'
    /// hashes are hashed.
    fn wide<C: Content + ?Sized>(&self, content: &C) -> u64 {
        let mut lanes = self.bases;
        for row in 0..WORDS / (2 * LANES) {
            for (lane, hash) in lanes.iter_mut().enumerate() {
                let index = 2 * (row * LANES + lane);
                let words = [content.word(index), content.word(index + 1)];
                *hash = step_keyed(*hash, self.multiplier, words);
            }
        }
        let folded = lanes.into_iter().fold(self.multiplier, |hash, lane| {
            step_keyed(hash, self.multiplier, [lane, 0])
        });
        mix(folded)
    }
}

/// One step of keyed FNV-1a, xor and multiply, on two words at once: with a secret hash, a secret
/// multiplier that is xored with the second word, and the two halves of the product folded together.
///
/// The standard's step keeps only the low half of the product. There, a change of the highest bit of a
/// word changes just the highest bit, whatever the multiplier is: two such changes in a lane cancel
/// out. The effect of a change on the high half depends on the key.
///
/// Reference: the folded multiplication of Wang Yi's wyhash.
#[inline]
pub(crate) fn step_keyed(hash: u64, multiplier: u64, words: [u64; 2]) -> u64 {
    let product = u128::from(hash ^ words[0]).wrapping_mul(u128::from(multiplier ^ words[1]));
    (product as u64) ^ ((product >> 64) as u64)
}

/// One step of 32-bit FNV-1a.
#[inline]
const fn step_32(hash: u32, octet: u8) -> u32 {
    (hash ^ octet as u32).wrapping_mul(PRIME_32)
}

/// 32-bit FNV-1a of a byte string.
pub fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(BASIS_32, |hash, &octet| step_32(hash, octet))
}

/// The documented hash: 32-bit FNV-1a of all bytes of the page.
fn bytewise<C: Content + ?Sized>(content: &C) -> u32 {
    (0..WORDS)
        .flat_map(|index| content.word(index).to_ne_bytes())
        .fold(BASIS_32, step_32)
}

/// Multipliers of [`mix`]; odd, so that they can be inverted.
const MIX: [u64; 2] = [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];

/// Spreads every bit of `value` over all bits (the 64-bit finaliser of MurmurHash3). A bijection.
#[inline]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 33)).wrapping_mul(MIX[0]);
    let value = (value ^ (value >> 33)).wrapping_mul(MIX[1]);
    value ^ (value >> 33)
}

/// Mixes several values into one.
#[inline]
pub fn mix_all<const N: usize>(values: [u64; N]) -> u64 {
    values
        .into_iter()
        .fold(0, |mixed, value| mix(mixed ^ value))
}

/// Undoes [`mix`].
#[inline]
pub const fn unmix(value: u64) -> u64 {
    const UNMIX: [u64; 2] = [inverse(MIX[0]), inverse(MIX[1])];
    // A xor with a right shift by more than half of the bits is its own inverse.
    let value = (value ^ (value >> 33)).wrapping_mul(UNMIX[1]);
    let value = (value ^ (value >> 33)).wrapping_mul(UNMIX[0]);
    value ^ (value >> 33)
}

/// The inverse of multiplication by `odd`, by Newton's method: each step doubles the number of correct
/// bits. The first approximation, `odd` itself, has three.
const fn inverse(odd: u64) -> u64 {
    let (mut inverse, mut bits) = (odd, 3);
    while bits < u64::BITS {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        bits *= 2;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::PAGE_SIZE;

    /// Test vectors of RFC 9923, appendix C: input, 32-bit FNV-1a.
    const VECTORS: [(&[u8], u32); 5] = [
        (b"", 0x811c_9dc5),
        (b"a", 0xe40c_292c),
        (b"b", 0xe70c_2de5),
        (b"foob", 0x3f50_76ef),
        (b"foobar", 0xbf9c_f968),
    ];

    #[test]
    fn bytewise_vectors() {
        for (input, hash) in VECTORS {
            assert_eq!(fnv1a_32(input), hash, "{input:?}");
        }
    }

    #[test]
    fn bytewise_page_is_fnv1a_32_of_its_bytes() {
        let page: [u8; PAGE_SIZE] = core::array::from_fn(|i| (i * 7 % 251) as u8);
        let hash = PageHash::new(HashKind::Bytewise, 9).of(&page);
        assert_eq!(hash, u64::from(fnv1a_32(&page)));
    }

    #[test]
    fn the_low_half_of_a_keyed_step_is_the_standards() {
        let product = u128::from(BASIS_64 ^ 0x61) * u128::from(PRIME_64);
        assert_eq!(product as u64, 0xaf63_dc4c_8601_ec8c); // RFC 9923: "a"
        let folded = product as u64 ^ (product >> 64) as u64;
        assert_eq!(step_keyed(BASIS_64, PRIME_64, [0x61, 0]), folded);
    }

    #[test]
    fn the_key_decides_the_hash() {
        let page: [u8; PAGE_SIZE] = core::array::from_fn(|i| (i * 31 % 253) as u8);
        let hash = |seed| PageHash::new(HashKind::Wide, seed).of(&page);
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }

    #[test]
    fn changes_that_cancel_in_the_unkeyed_hash_do_not_cancel() {
        let hash = PageHash::new(HashKind::Wide, 3);
        let zero = [0u8; PAGE_SIZE];
        let mut page = zero;
        // The highest bits of two words of one lane.
        page[7] = 0x80;
        page[2 * 8 * LANES + 7] = 0x80;
        assert_ne!(hash.of(&page), hash.of(&zero));
    }

    #[test]
    fn what_was_mixed_is_unmixed() {
        let mut value = 1;
        for _ in 0..10_000 {
            value = mix(value ^ BASIS_64);
            assert_eq!(unmix(mix(value)), value);
        }
        assert_eq!((mix(0), unmix(0)), (0, 0));
    }

    #[test]
    fn every_bit_of_the_page_counts() {
        let zero = [0u8; PAGE_SIZE];
        for kind in [HashKind::Wide, HashKind::Bytewise] {
            let hash = PageHash::new(kind, 7);
            for bit in 0..PAGE_SIZE * 8 {
                if kind == HashKind::Bytewise && bit % 61 != 0 {
                    continue; // a sample: the bytewise hash is slow without optimisation
                }
                let mut page = zero;
                page[bit / 8] |= 1 << (bit % 8);
                assert_ne!(hash.of(&page), hash.of(&zero), "{kind:?} bit {bit}");
            }
        }
    }
}
