// SPDX-License-Identifier: GPL-2.0

//! Pacing: how much of one CPU the scanner takes, and when it rests.
//!
//! [`Account::rest`] keeps a thread's run time below a share of one CPU. The share is the most that
//! it may take (`max_cpu`), or less, where [`Governor::Auto`] chooses it by what the last pass
//! brought. All threads of the scanner have the same.

/// Shares of a CPU are in percent; all of it is no limit.
const WHOLE_CPU: u8 = 100;
/// What the governor begins with, and the least that it leaves: memory changes, so that the
/// scanner has to go on looking.
const FIRST_SHARE: u8 = 5;
const LEAST_SHARE: u8 = 1;
/// Run time that is saved up while a thread sleeps, at most, in nanoseconds.
const MOST_CREDIT: i64 = 10_000_000;
/// Run time that is owed before a thread rests, in nanoseconds: sleeping is not worth it for
/// less, and run times are measured by ticks.
const GRAIN: i64 = 2_000_000;
/// A pass that merged one page of this many was worth more time …
const RICH_PASS: u64 = 100;
/// … and one that merged less than one of this many was worth less.
const POOR_PASS: u64 = 1000;

/// Who says how fast the scanner is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Governor {
    /// Whoever sets its rate and its pauses.
    #[default]
    Manual,
    /// What merging brings, and whether memory is short.
    Auto,
}

/// What two clocks say, in nanoseconds from any beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// The time.
    pub now: u64,
    /// Time for which the thread has run.
    pub ran: u64,
}

/// Totals at the end of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pages looked at.
    pub scanned: u64,
    /// Pages merged.
    pub merged: u64,
}

/// Why the governor chooses the share that it does after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The pass merged many of its pages: the share doubles.
    Rich,
    /// Memory is short, and the pass merged some: as above.
    Short,
    /// The pass merged neither many nor few: the share stays.
    Steady,
    /// The pass merged few: the share halves.
    Poor,
}

/// What is known at the end of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Review {
    /// What was done since the end of the last one.
    pub pass: Totals,
    /// What the governor goes by, or would.
    pub cause: Cause,
}

/// Says what share of a CPU each thread may take.
pub struct Pacer {
    governor: Governor,
    max_cpu: u8,
    /// What the governor allows of it.
    share: u8,
    last_pass: Totals,
    /// How often somebody has set the rules.
    rules: u32,
}

/// What a thread has taken of its share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    last: Option<Clocks>,
    /// Run time that is left, in nanoseconds; owed, where negative.
    credit: i64,
    /// By which rules that is.
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

    /// Sets the most that a thread may take of one CPU, in percent: 1 to 100, which is no limit. What
    /// is out of range becomes the nearest.
    pub fn set_max_cpu(&mut self, percent: u8) {
        self.max_cpu = percent.clamp(LEAST_SHARE, WHOLE_CPU);
        self.rules = self.rules.wrapping_add(1);
    }

    /// The most that a thread may take of one CPU, in percent.
    pub fn max_cpu(&self) -> u8 {
        self.max_cpu
    }

    /// Sets who says how fast the scanner is.
    pub fn set_governor(&mut self, governor: Governor) {
        if governor != self.governor {
            self.governor = governor;
            self.share = FIRST_SHARE;
            self.rules = self.rules.wrapping_add(1);
        }
    }

    /// Who says how fast the scanner is.
    pub fn governor(&self) -> Governor {
        self.governor
    }

    /// The share of one CPU that a thread takes now, at most, in percent.
    pub fn share(&self) -> u8 {
        match self.governor {
            Governor::Manual => self.max_cpu,
            Governor::Auto => self.share.min(self.max_cpu),
        }
    }

    /// Takes note of the end of a pass: the governor chooses anew, as [`Cause`] says.
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
    /// For how long the thread has run since [`Self::rest`] was called last, in nanoseconds.
    pub fn ran_since(&self, clocks: Clocks) -> u64 {
        self.last
            .map_or(0, |last| clocks.ran.saturating_sub(last.ran))
    }

    /// Says how long to rest now, in nanoseconds. What is owed by other rules is forgotten.
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

/// `percent` of a number of nanoseconds.
fn percent_of(percent: u8, ns: u64) -> i64 {
    signed(ns / u64::from(WHOLE_CPU)).saturating_mul(percent.into())
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}
