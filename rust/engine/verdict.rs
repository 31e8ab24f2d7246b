// SPDX-License-Identifier: GPL-2.0

//! The scanner's decisions on a page.

use crate::ids::Frame;
use crate::ids::Key;

/// What a page is merged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A shared frame that already holds the content.
    Shared(Frame),
    /// Another unshared frame, which held the content when it was last seen.
    Twin(Frame),
}

impl Target {
    /// The frame of the target.
    pub fn frame(self) -> Frame {
        match self {
            Target::Shared(frame) | Target::Twin(frame) => frame,
        }
    }
}

/// What to do with a page that was read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: its content is new, or was seen on this frame only.
    Wait,
    /// Nothing yet: its content was also seen on another frame, but not often enough.
    Promising,
    /// All bytes were zero: map the kernel's zero page.
    Zero,
    /// Compare with the target of this key ([`crate::KsmScanner::target`]) and merge.
    Merge(Key),
}

/// What to do with a page that was sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance {
    /// Like [`Verdict::Wait`].
    Wait,
    /// Like [`Verdict::Promising`].
    Promising,
    /// The sample is not enough: call [`crate::KsmScanner::look`].
    Look,
    /// Like [`Verdict::Merge`].
    Merge(Key),
}
