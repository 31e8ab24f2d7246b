// SPDX-License-Identifier: GPL-2.0

//! The rules beyond the documented API, each in the smallest story that shows it.
//!
//! This file has the contents and the steps that the stories have in common.

use engine::hash::mix;
use engine::Domain;
use engine::Frame;
use engine::HashKind;
use engine::Key;
use engine::KsmScanner;
use engine::Target;
use engine::Verdict;
use model::memory::Memory;
use model::memory::Plan;

mod for_mainline;
mod keys;
mod memory;
mod promotion;
mod samples;
mod shared_frames;
mod sharing_limit;

/// A content that differs from other such contents in every word, by its number.
#[derive(Clone, Copy)]
struct Plain(u64);

impl engine::Content for Plain {
    fn word(&self, index: usize) -> u64 {
        mix((self.0 << 16) | index as u64)
    }
}

/// A content that differs from other such contents only in its last word.
#[derive(Clone, Copy)]
struct Alike(u64);

impl engine::Content for Alike {
    fn word(&self, index: usize) -> u64 {
        if index == engine::content::WORDS - 1 {
            self.0
        } else {
            7
        }
    }
}

const A: Plain = Plain(2);
const B: Plain = Plain(3);
const D: Domain = Domain(1000);
const OTHER: Domain = Domain(1001);
const SEED: u64 = 42;

fn scanner(promote_after: u8) -> KsmScanner<Memory> {
    scanner_with(Plan::Ample, promote_after)
}

fn scanner_with(plan: Plan, promote_after: u8) -> KsmScanner<Memory> {
    let mut scanner = KsmScanner::with(Memory::new(plan), HashKind::Wide, SEED);
    scanner.set_promote_after(promote_after);
    scanner
}

/// Scans a page of content `A` in domain `D`; returns whether it is to be merged.
fn merges(scanner: &mut KsmScanner<Memory>, frame: u64) -> bool {
    matches!(scanner.scan(Frame(frame), D, &A), Verdict::Merge(_))
}

fn key(verdict: Verdict) -> Key {
    match verdict {
        Verdict::Merge(key) => key,
        other => panic!("{other:?}"),
    }
}

/// Makes the shared frame `shared` from two pages of this key; returns whether it is in the stable set.
fn make(scanner: &mut KsmScanner<Memory>, key: Key, domain: Domain, shared: u64) -> bool {
    assert!(scanner.announce(Frame(shared), 1));
    scanner.made(key, Frame(shared), domain, 2)
}

/// Merges frames 1 and 2, of this content and domain, into `shared`.
fn merge_two(scanner: &mut KsmScanner<Memory>, domain: Domain, content: Plain, shared: u64) -> Key {
    scanner.set_promote_after(2);
    scanner.scan(Frame(1), domain, &content);
    let key = key(scanner.scan(Frame(2), domain, &content));
    assert_eq!(scanner.target(key, domain), Some(Target::Twin(Frame(1))));
    assert!(make(scanner, key, domain, shared));
    key
}
