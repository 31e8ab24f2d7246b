// SPDX-License-Identifier: GPL-2.0

//! Pacing: the share of a CPU that the scanner takes, and when it rests.
//!
//! [`Account::rest`] keeps the CPU time of a thread below a share of one CPU. The share is `max_cpu`,
//! or less if [`Governor::Auto`] chooses it by the yield of the last pass. All threads of the scanner
//! have the same share.

/// Shares of a CPU are in percent; a whole CPU means no limit.
pub(crate) const WHOLE_CPU: u8 = 100;
/// The governor's first share, and the smallest share it chooses. It never stops the scanner, since
/// memory changes.
const FIRST_SHARE: u8 = 5;
pub(crate) const LEAST_SHARE: u8 = 1;
/// Most CPU time that a sleeping thread saves up, in nanoseconds.
const MOST_CREDIT: i64 = 10_000_000;
/// CPU time that a thread may owe before it rests, in nanoseconds: shorter rests are not worthwhile,
/// and CPU time is measured in ticks.
const GRAIN: i64 = 2_000_000;
/// A pass that merged at least one of this many pages was worth more CPU time …
const RICH_PASS: u64 = 100;
/// … and one that merged fewer than one of this many was worth less.
const POOR_PASS: u64 = 1000;

/// What sets the pace of the scanner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Governor {
    /// The settings of its rate and its pauses.
    #[default]
    Manual,
    /// The yield of merging, and whether memory is short.
    Auto,
}

/// Readings of two clocks, in nanoseconds from any starting point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// The wall-clock time.
    pub now: u64,
    /// The CPU time of the thread.
    pub ran: u64,
}

/// Totals at the end of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pages scanned.
    pub scanned: u64,
    /// Pages merged.
    pub merged: u64,
}

/// The reason for the governor's choice of a share after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The pass merged many of its pages: the share doubles.
    Rich,
    /// Memory is short, and the pass merged some pages: the share doubles.
    Short,
    /// The pass merged neither many nor few: the share stays.
    Steady,
    /// The pass merged few of its pages: the share halves.
    Poor,
}

/// The governor's view of a pass that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Review {
    /// The work of this pass.
    pub pass: Totals,
    /// The reason for the governor's choice, even if the governor is not in force.
    pub cause: Cause,
}

/// Decides what share of a CPU each thread may take.
///
/// # Examples
///
/// ```
/// use engine::pace::{Account, Clocks, Pacer};
///
/// let mut pacer = Pacer::new();
/// pacer.set_max_cpu(20);
/// let mut account = Account::default();
///
/// // The first call only reads the clocks.
/// assert_eq!(account.rest(&pacer, Clocks { now: 0, ran: 0 }), 0);
///
/// // The thread then runs for 10 ms without a break. 20% of these are its share, 8 ms are too much:
/// // the share of the next 40 ms.
/// let clocks = Clocks { now: 10_000_000, ran: 10_000_000 };
/// assert_eq!(account.rest(&pacer, clocks), 40_000_000);
/// ```
pub struct Pacer {
    governor: Governor,
    max_cpu: u8,
    /// The governor's share.
    share: u8,
    last_pass: Totals,
    /// Number of changes of the rules.
    rules: u32,
}

/// CPU time that one thread has taken from its share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    last: Option<Clocks>,
    /// CPU time left, in nanoseconds; negative if owed.
    credit: i64,
    /// The value of [`Pacer::rules`] that the credit was computed with.
    rules: u32,
}

impl Default for Pacer {
    fn default() -> Self {
        Self::new()
    }
}

impl Pacer {
    /// Makes a pacer that never rests.
    pub fn new() -> Self {
        Pacer {
            governor: Governor::default(),
            max_cpu: WHOLE_CPU,
            share: FIRST_SHARE,
            last_pass: Totals::default(),
            rules: 0,
        }
    }

    /// Sets the largest share of one CPU that a thread may take, in percent, clamped to 1..=100; 100
    /// means no limit.
    pub fn set_max_cpu(&mut self, percent: u8) {
        self.max_cpu = percent.clamp(LEAST_SHARE, WHOLE_CPU);
        self.rules = self.rules.wrapping_add(1);
    }

    /// The largest share of one CPU that a thread may take, in percent.
    pub fn max_cpu(&self) -> u8 {
        self.max_cpu
    }

    /// Sets the governor.
    pub fn set_governor(&mut self, governor: Governor) {
        if governor != self.governor {
            self.governor = governor;
            self.share = FIRST_SHARE;
            self.rules = self.rules.wrapping_add(1);
        }
    }

    /// The governor.
    pub fn governor(&self) -> Governor {
        self.governor
    }

    /// The share of one CPU that a thread may take now, in percent.
    pub fn share(&self) -> u8 {
        match self.governor {
            Governor::Manual => self.max_cpu,
            Governor::Auto => self.share.min(self.max_cpu),
        }
    }

    /// Ends a pass: the governor chooses a new share, as [`Cause`] describes.
    pub fn end_pass(&mut self, totals: Totals, is_memory_short: bool) -> Review {
        let last = core::mem::replace(&mut self.last_pass, totals);
        let pass = Totals {
            scanned: totals.scanned.saturating_sub(last.scanned),
            merged: totals.merged.saturating_sub(last.merged),
        };
        let cause = Cause::of(pass, is_memory_short);
        self.share = match cause {
            Cause::Rich | Cause::Short => self.share.saturating_mul(2).min(self.max_cpu),
            Cause::Steady => self.share,
            Cause::Poor => (self.share / 2).max(LEAST_SHARE),
        };
        Review { pass, cause }
    }
}

impl Cause {
    fn of(pass: Totals, is_memory_short: bool) -> Self {
        let is_one_of = |many: u64| pass.merged.saturating_mul(many) >= pass.scanned.max(1);
        if is_one_of(RICH_PASS) {
            Cause::Rich
        } else if is_memory_short && pass.merged > 0 {
            Cause::Short
        } else if is_one_of(POOR_PASS) {
            Cause::Steady
        } else {
            Cause::Poor
        }
    }
}

impl Account {
    /// CPU time of the thread since the last call of [`Self::rest`], in nanoseconds.
    pub fn ran_since(&self, clocks: Clocks) -> u64 {
        self.last
            .map_or(0, |last| clocks.ran.saturating_sub(last.ran))
    }

    /// Returns how long to rest now, in nanoseconds. A change of the rules clears the debt.
    pub fn rest(&mut self, pacer: &Pacer, clocks: Clocks) -> u64 {
        let share = pacer.share();
        if self.rules != pacer.rules {
            self.rules = pacer.rules;
            self.credit = 0;
        }
        let last = self.last.replace(clocks).unwrap_or(clocks);
        if share == WHOLE_CPU {
            return 0;
        }
        let earned = percent_of(share, clocks.now.saturating_sub(last.now));
        let spent = signed(clocks.ran.saturating_sub(last.ran));
        let credit = self.credit.saturating_add(earned).saturating_sub(spent);
        self.credit = credit.min(MOST_CREDIT);
        if self.credit > -GRAIN {
            return 0;
        }
        let owed = self.credit.unsigned_abs();
        owed.saturating_mul(WHOLE_CPU.into()) / u64::from(share.max(LEAST_SHARE))
    }
}

/// `percent` percent of `ns` nanoseconds.
fn percent_of(percent: u8, ns: u64) -> i64 {
    signed(ns / u64::from(WHOLE_CPU)).saturating_mul(percent.into())
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}
