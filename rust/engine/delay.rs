// SPDX-License-Identifier: GPL-2.0

//! How long a pass waits for areas that their processes are changing.
//!
//! A process holds the lock of an area while it changes it: for moments as a rule, for some
//! milliseconds while it forks or the kernel collapses small pages into a large one, and for as long as
//! it likes with the help of a file system that does not answer. So the scanner puts such a place off
//! until there is nothing else left of the pass, and comes back to it after pauses that double. What
//! all pauses of a pass take together is bounded: whoever holds locks on purpose delays a pass by no
//! more than that.

/// The pauses of a pass in all, in milliseconds.
const MOST_MS: u32 = 256;
/// How often a place is put off: the last pause is of 64 ms, all of them take 127.
const MOST_TIMES: u8 = 7;

/// For how much longer a pass may wait.
pub struct Delays {
    left_ms: u32,
}

impl Default for Delays {
    fn default() -> Self {
        Delays { left_ms: MOST_MS }
    }
}

impl Delays {
    /// Puts off a place that has been put off so many `times` before. Returns for how long to pause
    /// before it is looked at again, in milliseconds; `None`: it is not worth it any more.
    pub fn put_off(&mut self, times: u8) -> Option<u32> {
        if times >= MOST_TIMES {
            return None;
        }
        let pause_ms = 1u32.checked_shl(times.into())?;
        self.left_ms = self.left_ms.checked_sub(pause_ms)?;
        Some(pause_ms)
    }
}
