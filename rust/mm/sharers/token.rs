// SPDX-License-Identifier: GPL-2.0

//! The identity of a merged page: the number of its set, and the token in its folio.

use engine::Frame;

/// The number of a set, which identifies a merged page in [`crate::mm::shared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId(pub(super) u32);

impl SetId {
    /// The name that identifies the page in the engine.
    pub(crate) fn name(self) -> Frame {
        Frame(self.0.into())
    }

    /// The set of this name.
    pub(crate) fn of_name(name: Frame) -> Self {
        // No bits are lost: names are made by `name`, from 32 bits.
        SetId(name.0 as u32)
    }
}

/// The value in a folio's `index` that identifies its set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::mm) struct Token(pub(super) u64);

impl Token {
    /// The smallest generation: generations are so large that no index of an anonymous page is a token.
    pub(super) const GENERATION: u32 = 1 << 31;

    /// The token of the set `id` with this generation.
    pub(super) fn new(id: SetId, generation: u32) -> Self {
        Token((u64::from(generation) << u32::BITS) | u64::from(id.0))
    }

    /// The token in a folio whose index is `index`.
    pub(in crate::mm) fn of_index(index: u64) -> Self {
        Token(index)
    }

    /// The number of the set.
    pub(super) fn id(self) -> SetId {
        SetId(self.0 as u32)
    }

    /// The name of the set; `None` if this is not a token. If the token is of a mapped page, the set is in
    /// use.
    #[inline]
    pub(in crate::mm) fn name(self) -> Option<Frame> {
        let is_token = self.0 >> u32::BITS >= u64::from(Self::GENERATION);
        is_token.then(|| self.id().name())
    }
}
