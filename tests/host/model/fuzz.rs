// SPDX-License-Identifier: GPL-2.0

//! Checks that accept any string of bytes: entry points for the fuzzer and for the replay of its
//! corpus.
//!
//! A story is a sequence of records of four octets, so a mutation of one record leaves the others
//! alone. The first record is the setting, the others are operations, each a code and three arguments.
//! Every string of bytes is a story; arguments are taken modulo the number of choices.

use crate::knob;
use crate::letters::Letter;
use crate::letters::ALPHABET;
use crate::memory::Plan;
use crate::story::Op;
use crate::story::Outcome;
use crate::story::Setting;
use crate::story::Story;
use crate::story::SLOTS;
use crate::world::World;
use engine::Domain;
use engine::HashKind;
use std::cell::RefCell;

/// Octets of a record.
const RECORD: usize = 4;
/// Largest number of operations of a story; the rest is ignored.
const OPS: usize = 40;
/// Largest number of floods in a story: one costs as much as a hundred other operations, and two make
/// the index grow twice.
const FLOODS: usize = 2;

/// Largest number of bytes of a story.
pub const LONGEST_STORY: usize = RECORD * (1 + OPS);

/// A target: its name, which is also the name of its corpus, and its check.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 2] = [("engine", engine), ("parse", parse)];

/// Plays the story in `data`.
///
/// # Panics
///
/// If the engine, the reference and the machine disagree.
pub fn engine(data: &[u8]) {
    let story = Shown(story(data));
    let events = RefCell::default();
    let mut world = World::new(story.0.setting.clone(), &events);
    for op in &story.0.ops {
        world.step(op);
    }
}

/// Parses the text in `data` as a number below a limit, which the first octet chooses, and as a word.
///
/// # Panics
///
/// If the engine and the standard library disagree.
pub fn parse(data: &[u8]) {
    let Some((&limit, text)) = data.split_first() else {
        return;
    };
    let limits = [0, 1, 255, u32::MAX.into(), u64::MAX - 1, u64::MAX];
    let max = pick(&limits, limit);
    let number = engine::parse::decimal(text, max);
    assert_eq!(number, knob::decimal(text, max), "up to {max}");
    assert_eq!(engine::parse::word(text, &knob::WORDS), knob::word(text));
    let part = engine::parse::process_part(text).map(|part| (part.pid, part.range));
    assert_eq!(part, knob::process_part(text));
}

/// Prints the story after a failure.
struct Shown(Story);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.0);
        }
    }
}

fn story(data: &[u8]) -> Story {
    let mut records = data.chunks(RECORD).map(|octets| {
        let mut record = [0; RECORD];
        record[..octets.len()].copy_from_slice(octets);
        record
    });
    let setting = setting(records.next().unwrap_or_default());
    let mut floods = 0;
    let ops = records.take(OPS).map(op).filter(|op| {
        floods += usize::from(matches!(op, Op::Flood(_)));
        floods <= FLOODS || !matches!(op, Op::Flood(_))
    });
    Story {
        setting,
        ops: ops.collect(),
    }
}

fn setting([hash, memory, promote_after, seed]: [u8; RECORD]) -> Setting {
    Setting {
        // The bytewise hash is slow, and differs only in its collisions.
        hash: match hash {
            u8::MAX => HashKind::Bytewise,
            _ => HashKind::Wide,
        },
        seed: seed.into(),
        plan: plan(memory),
        promote_after,
    }
}

fn op([code, a, b, c]: [u8; RECORD]) -> Op {
    match code % 16 {
        0 => Op::Map {
            first: slot(a),
            count: 1 + usize::from(a) / SLOTS % 4,
            domain: domain(b),
            letter: letter(c),
        },
        1 => Op::MaxPageSharing(u32::from(a) % 8),
        2 => Op::Write {
            slot: slot(a),
            letter: letter(b),
            report: c % 2 == 1,
        },
        3 => Op::Fork {
            from: slot(a),
            to: slot(b),
            domain: (c >= 128).then(|| domain(c)),
        },
        4 => Op::Unmap { slot: slot(a) },
        5 => Op::Free { slot: slot(a) },
        6 | 7 => Op::Scan {
            slot: slot(a),
            outcome: outcome(b),
        },
        8 => Op::Pass {
            outcome: outcome(a),
        },
        9 => Op::EndPass,
        10 if a < 128 => Op::Recount,
        10 => Op::Interval {
            longest: a % 16,
            remembered_for: b % 16,
        },
        11 => Op::ForgetContents,
        12 => Op::Init,
        13 => Op::PromoteAfter(a),
        14 => Op::Flood(pick(&[3, 10, 50, 250], a)),
        _ => Op::Memory(plan(a)),
    }
}

fn slot(octet: u8) -> usize {
    usize::from(octet) % SLOTS
}

fn domain(octet: u8) -> Domain {
    Domain(pick(&[1, 2, 0, u64::MAX], octet))
}

fn letter(octet: u8) -> Letter {
    Letter(u32::from(octet) % ALPHABET)
}

fn outcome(octet: u8) -> Outcome {
    let all = [
        Outcome::Merge,
        Outcome::Fail,
        Outcome::Fresh,
        Outcome::KeptHuge,
    ];
    pick(&all, octet)
}

/// For the lower half of the values all allocations succeed, for a quarter the first ones do, and for
/// the rest the bits decide in turn.
fn plan(octet: u8) -> Plan {
    match octet {
        0..128 => Plan::Ample,
        128..192 => Plan::Only(usize::from(octet) % 8),
        192.. => Plan::Repeat((0..6).map(|bit| (octet >> bit) & 1 == 1).collect()),
    }
}

fn pick<T: Copy>(choices: &[T], octet: u8) -> T {
    choices[usize::from(octet) % choices.len()]
}
