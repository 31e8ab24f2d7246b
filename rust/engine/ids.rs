// SPDX-License-Identifier: GPL-2.0

//! Identifiers of pages: frames, domains and keys.

use crate::hash::mix;

/// A page frame number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame(pub u64);

/// The domain of a page: only pages of the same domain are ever merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Domain(pub u64);

impl Domain {
    /// The part of the domain on this NUMA node, as a domain of its own.
    pub fn on_node(self, node: u32) -> Self {
        Domain(mix(self.0 ^ mix(u64::from(node).wrapping_add(1))))
    }
}

/// Identifies a content within a domain: a seeded hash of the domain and of the content, or of a sample
/// of the content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    number: u64,
    /// The number of the key of the content's sample. Equal to `number` if this is a sample's key.
    sample: u64,
}

impl Key {
    /// Bits of a key's number. Of 2^24 contents (64 GiB of pages), one in 2^16 shares its number with
    /// another: one bit is the kind.
    pub(crate) const BITS: u32 = 41;
    /// The lowest bit tells the two kinds of keys apart.
    const WHOLE: u64 = 1;

    /// The key of contents whose sample has this hash.
    pub(crate) fn of_sample(hash: u64) -> Self {
        let number = (hash >> (u64::BITS - Self::BITS)) & !Self::WHOLE;
        Key {
            number,
            sample: number,
        }
    }

    /// The key of a whole content with this hash. `sample` is the key of its sample.
    pub(crate) fn of_whole(hash: u64, sample: Self) -> Self {
        Key {
            number: (hash >> (u64::BITS - Self::BITS)) | Self::WHOLE,
            sample: sample.number,
        }
    }

    /// Whether this is the key of a whole content. Pages with the same such key are equal, unless their
    /// hashes collide.
    pub(crate) fn is_whole(self) -> bool {
        self.number & Self::WHOLE != 0
    }

    /// The key of the content's sample.
    pub(crate) fn of_its_sample(self) -> Self {
        Key {
            number: self.sample,
            sample: self.sample,
        }
    }

    /// The key's number, below 2 to the power of [`Self::BITS`].
    pub(crate) fn number(self) -> u64 {
        self.number
    }

    /// The hash by which a table finds the key.
    pub(crate) fn hash(self) -> u64 {
        self.number << (u64::BITS - Self::BITS)
    }
}
