// SPDX-License-Identifier: GPL-2.0

//! Statistics of a scanner.

/// The documented statistics. All counts are in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KsmStats {
    /// Shared frames in use. Each stands for two or more equal pages, or once did.
    pub pages_shared: u64,
    /// Mappings of shared frames beyond the first of each: the pages saved.
    pub pages_sharing: u64,
    /// Contents seen, but not merged (the unstable set).
    pub pages_unshared: u64,
    /// Pages scanned since the scanner was made.
    pub pages_scanned: u64,
    /// `pages_sharing` per 100 `pages_shared`: the average number of pages saved by a shared frame, in
    /// hundredths.
    pub merge_ratio_x100: u64,
}

/// A histogram of sizes, with one class for each power of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram([u64; u32::BITS as usize]);

impl Histogram {
    /// Counts an object of this size. Objects of size 0 are not counted.
    pub fn add(&mut self, size: u32) {
        let power = size.checked_ilog2().map(|power| power as usize);
        if let Some(count) = power.and_then(|power| self.0.get_mut(power)) {
            *count = count.saturating_add(1);
        }
    }

    /// Iterates over the classes, up to the class of the largest object: first size, last size, number
    /// of objects.
    pub fn classes(&self) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        let used = self.0.iter().rposition(|&count| count > 0);
        let used = used.map_or(0, |last| last + 1);
        (0..).zip(&self.0).take(used).map(|(power, &count)| {
            let first = 1u32.wrapping_shl(power);
            (first, first | first.wrapping_sub(1), count)
        })
    }
}

/// `sharing` per 100 `shared`; 0 if nothing is shared.
pub fn merge_ratio_x100(sharing: u64, shared: u64) -> u64 {
    sharing.saturating_mul(100).checked_div(shared).unwrap_or(0)
}
