// SPDX-License-Identifier: GPL-2.0

//! What pages are known by.

/// A page frame number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame(pub u64);

/// Whose pages: only frames of the same domain are ever merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Domain(pub u64);

/// A content within a domain: a seeded hash of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key(pub(crate) u64);
