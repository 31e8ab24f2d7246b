// SPDX-License-Identifier: GPL-2.0

//! The floor under what was promised: how much memory must be available so that merging goes on.
//!
//! A merge frees a page, and promises each sharer a page of its own at its next write. If the freed memory
//! is taken by others, nothing is left for the copies when many sharers write at once. [`Promise`] decides
//! whether further pages may be merged. It is told how much memory is available, and how many merged pages
//! have been copied. It holds merging while less memory is available than the floor demands, or than the
//! worst minute took.

use crate::content::PAGE_SIZE;
use crate::parse;
use core::fmt;

/// Pages in a MiB.
const PAGES_PER_MIB: u64 = (1 << 20) / PAGE_SIZE as u64;

/// Seconds in the window in which copies are counted.
const MINUTE: usize = 60;

/// How much memory must be available: the value of the knob `promise_floor`.
///
/// ```
/// # use engine::promise::Floor;
/// assert_eq!(Floor::parse(b"512\n"), Some(Floor::Mib(512)));
/// assert_eq!(Floor::parse(b"10%\n"), Some(Floor::Percent(10)));
/// assert_eq!(Floor::parse(b"101%"), None);
/// assert_eq!(Floor::Percent(10).to_string(), "10%");
/// assert_eq!(Floor::Percent(10).pages(262_144), 26_214);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// So many MiB. 0: merging is never held.
    Mib(u32),
    /// This part of RAM, in percent. 0: merging is never held.
    Percent(u8),
}

impl Floor {
    /// Merging is never held.
    pub const OFF: Self = Floor::Mib(0);

    /// Parses a number of MiB, or a percentage with a percent sign. Returns `None` for any other text.
    pub fn parse(text: &[u8]) -> Option<Self> {
        match parse::percent(text) {
            Some(percent) => Some(Floor::Percent(percent)),
            None => {
                let mib = parse::decimal(text, u32::MAX.into())?;
                u32::try_from(mib).ok().map(Floor::Mib)
            }
        }
    }

    /// Whether merging is never held.
    pub fn is_off(self) -> bool {
        matches!(self, Floor::Mib(0) | Floor::Percent(0))
    }

    /// The floor in pages, on a machine with `total` pages of RAM.
    pub fn pages(self, total: u64) -> u64 {
        match self {
            Floor::Mib(mib) => u64::from(mib).saturating_mul(PAGES_PER_MIB),
            Floor::Percent(percent) => total.saturating_mul(percent.into()) / 100,
        }
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Floor::Mib(mib) => write!(f, "{mib}"),
            Floor::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Amounts of memory at one moment, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// RAM.
    pub total: u64,
    /// What is available without swapping.
    pub available: u64,
    /// Free swap space.
    pub free_swap: u64,
}

/// The amounts that a decision was made by, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// What is available for copies.
    pub available: u64,
    /// What must be available so that merging goes on.
    pub wanted: u64,
}

impl Balance {
    /// Whether merging is held.
    pub fn is_held(self) -> bool {
        self.available < self.wanted
    }
}

/// Decides whether further pages may be merged.
///
/// # Examples
///
/// ```
/// use engine::promise::{Floor, Memory, Promise};
///
/// let mut promise = Promise::new();
/// promise.set_floor(Floor::Mib(4));
/// let memory = |available| Memory { total: 262_144, available, free_swap: 0 };
///
/// // 4 MiB are 1024 pages.
/// promise.review(0, 0, memory(1024));
/// assert!(!promise.is_held());
///
/// // 5000 merged pages are copied within a minute. So much must be available from now on.
/// promise.review(1, 5000, memory(4999));
/// assert_eq!(promise.worst(), 5000);
/// assert!(promise.is_held());
/// ```
pub struct Promise {
    floor: Floor,
    is_swap_counted: bool,
    minute: Minute,
    /// Copies in the worst minute.
    worst: u64,
    is_held: bool,
}

impl Default for Promise {
    fn default() -> Self {
        Self::new()
    }
}

impl Promise {
    /// Makes a `Promise` that never holds merging.
    pub const fn new() -> Self {
        Promise {
            floor: Floor::OFF,
            is_swap_counted: false,
            minute: Minute::new(),
            worst: 0,
            is_held: false,
        }
    }

    /// Sets the floor, and forgets the worst minute. Merging goes on until the next review.
    pub fn set_floor(&mut self, floor: Floor) {
        *self = Promise {
            floor,
            is_swap_counted: self.is_swap_counted,
            ..Self::new()
        };
    }

    /// The floor.
    pub fn floor(&self) -> Floor {
        self.floor
    }

    /// Sets whether free swap space counts as available.
    pub fn set_swap_counted(&mut self, is_counted: bool) {
        self.is_swap_counted = is_counted;
    }

    /// Whether free swap space counts as available.
    pub fn is_swap_counted(&self) -> bool {
        self.is_swap_counted
    }

    /// Copies of merged pages in the worst minute since the floor was set. 0 if there is no floor.
    pub fn worst(&self) -> u64 {
        self.worst
    }

    /// Whether merging is held, as of the last review.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Decides anew. `second` is a time; `copies` is the number of merged pages that were copied so far,
    /// counted from any beginning. Returns the amounts if the decision changes.
    pub fn review(&mut self, second: u64, copies: u64, memory: Memory) -> Option<Balance> {
        if self.floor.is_off() {
            return None;
        }
        self.worst = self.worst.max(self.minute.note(second, copies));
        let swap = if self.is_swap_counted {
            memory.free_swap
        } else {
            0
        };
        let balance = Balance {
            available: memory.available.saturating_add(swap),
            wanted: self.floor.pages(memory.total).max(self.worst),
        };
        let was_held = core::mem::replace(&mut self.is_held, balance.is_held());
        (self.is_held != was_held).then_some(balance)
    }
}

/// A count of the copies in the last minute.
struct Minute {
    /// Copies by the second in which they were noted, modulo the length of the window.
    seconds: [u64; MINUTE],
    /// Time and number of copies of the last note.
    last: Option<(u64, u64)>,
}

impl Minute {
    const fn new() -> Self {
        Minute {
            seconds: [0; MINUTE],
            last: None,
        }
    }

    /// Notes the number of copies so far. Returns the number in the last minute. If the last note is older
    /// than that, the average minute since then.
    fn note(&mut self, second: u64, copies: u64) -> u64 {
        let (last_second, last_copies) = self
            .last
            .replace((second, copies))
            .unwrap_or((second, copies));
        let passed = second.saturating_sub(last_second);
        let mut new = copies.saturating_sub(last_copies);
        if passed > MINUTE as u64 {
            new = new.saturating_mul(MINUTE as u64) / passed;
        }
        let begun = passed.min(MINUTE as u64);
        for ago in 0..begun {
            self.set(second.saturating_sub(ago), 0);
        }
        self.set(second, self.at(second).saturating_add(new));
        self.seconds.iter().fold(0, |sum, &n| sum.saturating_add(n))
    }

    fn at(&self, second: u64) -> u64 {
        let copies = self.seconds.get(position(second));
        copies.copied().unwrap_or(0)
    }

    fn set(&mut self, second: u64, copies: u64) {
        if let Some(slot) = self.seconds.get_mut(position(second)) {
            *slot = copies;
        }
    }
}

/// The position of a second in the window.
fn position(second: u64) -> usize {
    (second % MINUTE as u64) as usize
}
