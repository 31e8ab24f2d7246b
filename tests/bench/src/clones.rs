// SPDX-License-Identifier: GPL-2.0

//! Clones of one image, each merged as soon as it has started (`merge_now`): what a restored snapshot or a forked
//! template needs, whose memory is short while all of them start.
//!
//! A clone inherits the image, 64 MiB, and writes to part of it: mostly what the other clones write there, too.

use crate::memory::equal_pages;
use crate::memory::Image;
use crate::memory::Workers;
use crate::scanner::Scanner;
use crate::work::MIB;
use std::time::Instant;

/// Number of clones.
const CLONES: usize = 50;
/// Pages of the image.
pub const IMAGE: usize = 64 * MIB;

/// What the clones saw.
pub struct Merged {
    /// Time of the slowest `merge_now`, in ms.
    pub slowest_ms: f64,
    /// The largest part of what a perfect merger saves that was left when one of them returned, in percent.
    pub left: f64,
    /// Time of all of them for each page merged away, in ns.
    pub merging: f64,
}

/// Starts the clones one after the other, and merges each.
pub fn measure(scanner: &Scanner, image: &Image) -> Merged {
    scanner.open();
    let (mut slowest, mut total, mut left) = (0.0_f64, 0.0, 0.0_f64);
    let mut clones = Workers::none();
    for earlier in 0..CLONES {
        let pid = clones.add_clone(image, CLONES);
        let start = Instant::now();
        scanner.merge_now(pid);
        let time = start.elapsed().as_secs_f64();
        (slowest, total) = (slowest.max(time), total + time);
        let perfect = earlier * equal_pages(IMAGE);
        if perfect > 0 {
            left = left.max(100.0 - 100.0 * scanner.pages_sharing() as f64 / perfect as f64);
        }
    }
    let merged = scanner.pages_sharing() as f64;
    scanner.stop();
    Merged {
        slowest_ms: slowest * 1e3,
        left,
        merging: total * 1e9 / merged,
    }
}
