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

/// How many things there are of which size, by powers of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram([u64; u32::BITS as usize]);

impl Histogram {
    /// Counts a thing of this size; nothing, if that is 0.
    pub fn add(&mut self, size: u32) {
        let power = size.checked_ilog2().map(|power| power as usize);
        if let Some(count) = power.and_then(|power| self.0.get_mut(power)) {
            *count = count.saturating_add(1);
        }
    }

    /// The first and the last size of each class, and how many there are of it: up to the class of
    /// the largest.
    pub fn classes(&self) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        let used = self.0.iter().rposition(|&count| count > 0);
        let used = used.map_or(0, |last| last + 1);
        (0..).zip(&self.0).take(used).map(|(power, &count)| {
            let first = 1u32.wrapping_shl(power);
            (first, first | first.wrapping_sub(1), count)
        })
    }
}

/// `sharing` for every 100 `shared`; 0 where nothing is shared.
pub fn merge_ratio_x100(sharing: u64, shared: u64) -> u64 {
    sharing.saturating_mul(100).checked_div(shared).unwrap_or(0)
}
