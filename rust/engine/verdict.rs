// SPDX-License-Identifier: GPL-2.0

//! What the scanner says of a page.

use crate::ids::Frame;
use crate::ids::Key;

/// With what a page is to be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A shared frame that holds the content already.
    Shared(Frame),
    /// Another unshared frame that held the content when it was seen last.
    Twin(Frame),
}

impl Target {
    /// The frame it is on.
    pub fn frame(self) -> Frame {
        match self {
            Target::Shared(frame) | Target::Twin(frame) => frame,
        }
    }
}

/// What to do with a page that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: its content is new, or has been seen here only.
    Wait,
    /// Nothing yet: its content was seen on another frame, too, but not often enough.
    Promising,
    /// All bytes were zero: map the kernel's zero page.
    Zero,
    /// Compare with the target of this key ([`crate::KsmScanner::target`]) and merge.
    Merge(Key),
}

/// What a sample of a page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance {
    /// Nothing to do: as [`Verdict::Wait`].
    Wait,
    /// As [`Verdict::Promising`].
    Promising,
    /// Not enough: call [`crate::KsmScanner::look`].
    Look,
    /// As [`Verdict::Merge`].
    Merge(Key),
}
