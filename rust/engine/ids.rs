// SPDX-License-Identifier: GPL-2.0

//! What pages are known by.

use crate::hash::mix;

/// A page frame number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame(pub u64);

/// Whose pages: only frames of the same domain are ever merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Domain(pub u64);

impl Domain {
    /// The part of the domain whose frames are of this NUMA node, a domain of its own.
    pub fn on_node(self, node: u32) -> Self {
        Domain(mix(self.0 ^ mix(u64::from(node).wrapping_add(1))))
    }
}

/// A content within a domain: a seeded hash of both, of the whole content or of a sample of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    number: u64,
    /// That of the content's sample: the same where it is known by that.
    sample: u64,
}

impl Key {
    /// Bits of a key's number. Among 2^24 contents (64 GiB of pages), one in 2^16 has another's: one
    /// bit is the kind.
    pub(crate) const BITS: u32 = 41;
    /// The lowest bit tells the two kinds apart.
    const WHOLE: u64 = 1;

    /// The key of contents with a sample of this hash.
    pub(crate) fn of_sample(hash: u64) -> Self {
        let number = (hash >> (u64::BITS - Self::BITS)) & !Self::WHOLE;
        Key {
            number,
            sample: number,
        }
    }

    /// The key of a whole content of this hash, whose sample is known by the key `sample`.
    pub(crate) fn of_whole(hash: u64, sample: Self) -> Self {
        Key {
            number: (hash >> (u64::BITS - Self::BITS)) | Self::WHOLE,
            sample: sample.number,
        }
    }

    /// Whether pages with this key are equal, unless their hashes collide.
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

    /// A number below 2 to the power of [`Self::BITS`].
    pub(crate) fn number(self) -> u64 {
        self.number
    }

    /// What a table finds it by.
    pub(crate) fn hash(self) -> u64 {
        self.number << (u64::BITS - Self::BITS)
    }
}
