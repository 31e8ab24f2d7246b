// SPDX-License-Identifier: GPL-2.0

//! What pages are known by.

/// A page frame number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame(pub u64);

/// Whose pages: only frames of the same domain are ever merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Domain(pub u64);

/// A content within a domain: a seeded hash of both, of the whole content or of a sample of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// Bits of a key. Among 2^24 contents (64 GiB of pages), one in 2^20 has another's key.
    pub(crate) const BITS: u32 = 44;
    /// The lowest bit tells the two kinds apart.
    const WHOLE: u64 = 1;

    /// The key of contents with a sample of this hash.
    pub(crate) fn of_sample(hash: u64) -> Self {
        Key((hash >> (u64::BITS - Self::BITS)) & !Self::WHOLE)
    }

    /// The key of a whole content of this hash.
    pub(crate) fn of_whole(hash: u64) -> Self {
        Key((hash >> (u64::BITS - Self::BITS)) | Self::WHOLE)
    }

    /// Whether pages with this key are equal, unless their hashes collide.
    pub(crate) fn is_whole(self) -> bool {
        self.0 & Self::WHOLE != 0
    }

    /// The key as a number below 2 to the power of [`Self::BITS`].
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// What a table finds it by.
    pub(crate) fn hash(self) -> u64 {
        self.0 << (u64::BITS - Self::BITS)
    }
}
