// SPDX-License-Identifier: GPL-2.0

//! The knobs, each declared once: the name of its file, its values, and its default.
//!
//! The files in `/sys/kernel/mm/ksm_v` parse and show values as declared here (`sysfs/`), and settings
//! begin with the defaults declared here. The host test `knobs` compares the documents and the tools
//! with these declarations.
//!
//! # Examples
//!
//! ```
//! use engine::knobs;
//!
//! assert_eq!(knobs::THREADS.parse(b"64\n"), Some(64));
//! assert_eq!(knobs::THREADS.parse::<u32>(b"65\n"), None);
//! assert_eq!(knobs::MAX_INTERVAL.parse::<u8>(b"3"), None, "one of 1, 2, 4, 8");
//!
//! // Words are parsed to their positions.
//! assert_eq!(knobs::SCOPE.parse(b"registered\n"), Some(1));
//! ```

use crate::huge::HUGE_PARTS;
use crate::pace::LEAST_SHARE;
use crate::pace::WHOLE_CPU;
use crate::parse;
use crate::region::LONGEST_INTERVAL;
use core::ffi::CStr;

/// Largest number of page table entries that merges may map to one shared frame: enough that a content
/// of thousands of processes needs few copies. Whatever the limit is, [`crate::seats`] bounds what
/// forks add.
pub const MOST_PAGE_SHARING: u32 = 1 << 16;

/// The default of `max_page_sharing`. To migrate or swap out a shared page, the kernel visits each of its
/// mappings with the page locked: 3 us each, 3 ms in all. The limit costs at most one page in 1024.
const PAGE_SHARING: u32 = 1024;

/// Largest number of scanner threads.
pub const MOST_THREADS: u32 = 64;

/// The declaration of a knob: a file in `/sys/kernel/mm/ksm_v` that can be written and read.
/// `Documentation/ABI` describes what each knob does.
#[derive(Clone, Copy)]
pub struct Knob {
    /// The name of the file.
    pub name: &'static CStr,
    /// The values that it accepts.
    pub values: Values,
    /// The value after the module was loaded: a number, or the position of a word.
    pub default: u32,
}

/// The values that a knob accepts.
#[derive(Clone, Copy)]
pub enum Values {
    /// All numbers from `least` to `most`.
    Range {
        /// The smallest number.
        least: u32,
        /// The largest number.
        most: u32,
        /// What the numbers count, as documents and tools call it.
        unit: &'static str,
    },
    /// These numbers.
    OneOf(&'static [u32]),
    /// These words.
    Words(&'static [&'static str]),
    /// Amounts of memory, which [`crate::promise::Floor`] parses.
    Memory,
}

impl Knob {
    /// Parses a text that is written to the knob. Returns the number, or the position of the word;
    /// `None` if the knob does not accept the text, or accepts amounts of memory.
    pub fn parse<T: TryFrom<u32>>(&self, text: &[u8]) -> Option<T> {
        let value = match self.values {
            Values::Words(words) => u32::try_from(parse::word(text, words)?).ok()?,
            Values::Range { least, most, .. } => {
                number(text).filter(|number| (least..=most).contains(number))?
            }
            Values::OneOf(numbers) => number(text).filter(|number| numbers.contains(number))?,
            Values::Memory => return None,
        };
        T::try_from(value).ok()
    }

    /// The words that the knob accepts; none if it accepts numbers.
    pub const fn words(&self) -> &'static [&'static str] {
        match self.values {
            Values::Words(words) => words,
            Values::Range { .. } | Values::OneOf(_) | Values::Memory => &[],
        }
    }
}

fn number(text: &[u8]) -> Option<u32> {
    u32::try_from(parse::decimal(text, u32::MAX.into())?).ok()
}

/// 0 stops the scanner, 1 starts it, 2 stops it and unmerges everything.
pub const RUN: Knob = Knob {
    name: c"run",
    values: Values::OneOf(&[0, 1, 2]),
    default: 0,
};

/// Pages per cycle; 0 means 1.
pub const SCAN_RATE: Knob = Knob {
    name: c"scan_rate",
    values: Values::Range {
        least: 0,
        most: u32::MAX,
        unit: "pages",
    },
    default: 100,
};

/// Pause between two cycles.
pub const SLEEP_MS: Knob = Knob {
    name: c"sleep_ms",
    values: Values::Range {
        least: 0,
        most: u32::MAX,
        unit: "milliseconds",
    },
    default: 200,
};

/// Number of sightings after which an unknown content is merged.
pub const PROMOTE_AFTER: Knob = Knob {
    name: c"promote_after",
    values: Values::Range {
        least: 1,
        most: u8::MAX as u32,
        unit: "sightings",
    },
    default: 3,
};

/// Number of page table entries that merges may map to one shared frame.
pub const MAX_PAGE_SHARING: Knob = Knob {
    name: c"max_page_sharing",
    values: Values::Range {
        least: 2,
        most: MOST_PAGE_SHARING,
        unit: "mappings",
    },
    default: PAGE_SHARING,
};

/// Longest interval between two visits of a page, in passes.
pub const MAX_INTERVAL: Knob = Knob {
    name: c"max_interval",
    values: Values::OneOf(&[1, 2, 4, LONGEST_INTERVAL as u32]),
    default: LONGEST_INTERVAL as u32,
};

/// Number of mergeable parts at which a huge page is split; 0: huge pages are never split.
pub const HUGE_MIN_PARTS: Knob = Knob {
    name: c"huge_min_parts",
    values: Values::Range {
        least: 0,
        most: HUGE_PARTS,
        unit: "pages",
    },
    default: 64,
};

/// Whether new shared pages are movable.
pub const MOVABLE: Knob = Knob {
    name: c"movable",
    values: Values::OneOf(&[0, 1]),
    default: 1,
};

/// Largest share of one CPU that a thread may take.
pub const MAX_CPU: Knob = Knob {
    name: c"max_cpu",
    values: Values::Range {
        least: LEAST_SHARE as u32,
        most: WHOLE_CPU as u32,
        unit: "percent",
    },
    default: WHOLE_CPU as u32,
};

/// What sets the pace of the scanner: [`crate::pace::Governor`].
pub const GOVERNOR: Knob = Knob {
    name: c"governor",
    values: Values::Words(&["manual", "auto"]),
    default: 0,
};

/// Number of scanner threads.
pub const THREADS: Knob = Knob {
    name: c"threads",
    values: Values::Range {
        least: 1,
        most: MOST_THREADS,
        unit: "threads",
    },
    default: 1,
};

/// Which memory is scanned.
pub const SCOPE: Knob = Knob {
    name: c"scope",
    values: Values::Words(&["all", "registered"]),
    default: 0,
};

/// Which processes may share pages.
pub const DOMAIN: Knob = Knob {
    name: c"domain",
    values: Values::Words(&["user", "process", "cgroup", "global"]),
    default: 0,
};

/// What is done with processes that are not dumpable.
pub const UNDUMPABLE: Knob = Knob {
    name: c"undumpable",
    values: Values::Words(&["siblings", "leave"]),
    default: 0,
};

/// Which contents are merged.
pub const CONTENT: Knob = Knob {
    name: c"content",
    values: Values::Words(&["all", "zero"]),
    default: 0,
};

/// How much memory must be available so that merging goes on: [`crate::promise`].
pub const PROMISE_FLOOR: Knob = Knob {
    name: c"promise_floor",
    values: Values::Memory,
    default: 0,
};

/// Whether free swap space counts as available for that.
pub const PROMISE_SWAP: Knob = Knob {
    name: c"promise_swap",
    values: Values::OneOf(&[0, 1]),
    default: 0,
};

/// All knobs.
pub const ALL: [Knob; 17] = [
    RUN,
    SCAN_RATE,
    SLEEP_MS,
    PROMOTE_AFTER,
    MAX_PAGE_SHARING,
    MAX_INTERVAL,
    HUGE_MIN_PARTS,
    MOVABLE,
    MAX_CPU,
    GOVERNOR,
    THREADS,
    SCOPE,
    DOMAIN,
    UNDUMPABLE,
    CONTENT,
    PROMISE_FLOOR,
    PROMISE_SWAP,
];
