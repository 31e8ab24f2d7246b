// SPDX-License-Identifier: GPL-2.0

//! How long a pass waits for locked VMAs.
//!
//! A process holds the lock of a VMA while it changes the VMA: usually for moments, for some
//! milliseconds while it forks or the kernel collapses small pages into a huge page, and for as long as
//! it likes with the help of a file system that does not answer. So the scanner puts such a place off
//! until nothing else is left of the pass, and retries it after pauses that double. The sum of all
//! pauses of a pass is bounded: a process that holds locks on purpose can't delay a pass by more.

/// Largest sum of the pauses of a pass, in milliseconds.
const MOST_MS: u32 = 256;
/// How often a place is put off: the last pause takes 64 ms, all of them 127 ms.
const MOST_TIMES: u8 = 7;

/// The time that a pass may still wait.
pub struct Delays {
    left_ms: u32,
}

impl Default for Delays {
    fn default() -> Self {
        Delays { left_ms: MOST_MS }
    }
}

impl Delays {
    /// Puts off a place that has been put off `times` times before. Returns the pause before it is
    /// scanned again, in milliseconds; `None` if it is not put off any more.
    pub fn put_off(&mut self, times: u8) -> Option<u32> {
        if times >= MOST_TIMES {
            return None;
        }
        let pause_ms = 1u32.checked_shl(times.into())?;
        self.left_ms = self.left_ms.checked_sub(pause_ms)?;
        Some(pause_ms)
    }
}
