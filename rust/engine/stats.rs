// SPDX-License-Identifier: GPL-2.0

//! What a scanner counts.

/// The documented statistics. All counts are in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KsmStats {
    /// Shared frames in use: each stands for two or more equal pages, or did so once.
    pub pages_shared: u64,
    /// Mappings of shared frames beyond the first of each: the pages saved.
    pub pages_sharing: u64,
    /// Contents seen, but not merged (the unstable set).
    pub pages_unshared: u64,
    /// Pages looked at since the scanner was made.
    pub pages_scanned: u64,
    /// `pages_sharing` for every 100 `pages_shared`: how often an average shared frame saves a
    /// page, in hundredths.
    pub merge_ratio_x100: u64,
}

/// `sharing` for every 100 `shared`; 0 where nothing is shared.
pub fn merge_ratio_x100(sharing: u64, shared: u64) -> u64 {
    sharing.saturating_mul(100).checked_div(shared).unwrap_or(0)
}
