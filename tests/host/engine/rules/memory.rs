// SPDX-License-Identifier: GPL-2.0

//! The memory of the index: how it grows and shrinks, and what happens when there is none.

use engine::Frame;
use engine::HashKind;
use engine::KsmScanner;
use engine::Target;
use engine::Verdict;
use model::memory::Memory;
use model::memory::Plan;

use super::key;
use super::make;
use super::merge_two;
use super::merges;
use super::scanner;
use super::scanner_with;
use super::Alike;
use super::Plain;
use super::A;
use super::D;

fn filler(number: u32) -> Plain {
    Plain(1000 + u64::from(number))
}

#[test]
fn the_index_grows_with_what_is_seen_and_shrinks_when_it_is_forgotten() {
    let mut scanner = scanner(3);
    for number in 0..800 {
        scanner.scan(Frame(number.into()), D, &filler(number));
    }
    assert_eq!(scanner.get_stats().pages_unshared, 800);
    let bytes = scanner.index_bytes();
    assert!((12 * 800..32 * 1024).contains(&bytes), "{bytes} bytes");
    scanner.end_pass(|_| None);
    assert_eq!(scanner.index_bytes(), bytes);
    merges(&mut scanner, 1);
    scanner.end_pass(|_| None);
    assert_eq!(scanner.get_stats().pages_unshared, 1);
    assert_eq!(scanner.index_bytes(), 85 * 12, "one block of 1024 bytes");
    scanner.end_pass(|_| None);
    assert_eq!(scanner.index_bytes(), 0);
    assert_eq!(scanner.index_failures(), 0);
}

/// A pass that makes the index grow may take a quarter more until its end.
#[test]
fn a_large_index_has_at_most_sixteen_bytes_for_a_content_after_a_pass() {
    let mut most = 0.0_f64;
    for all in (50_001..400_000).step_by(20_000) {
        let mut scanner = scanner(3);
        for number in 0..all {
            scanner.scan(Frame(number.into()), D, &filler(number));
            let contents = u64::from(number) + 1;
            if contents > 50_000 && contents % 1000 == 0 {
                most = most.max(scanner.index_bytes() as f64 / contents as f64);
            }
        }
        scanner.end_pass(|_| None);
        assert_eq!(scanner.get_stats().pages_unshared, u64::from(all));
        assert!(scanner.index_bytes() <= 16 * u64::from(all), "{all}");
    }
    assert!((16.0..=20.0).contains(&most), "{most}");
}

#[test]
fn frames_that_are_gone_give_their_memory_back() {
    let mut scanner = scanner(3);
    for frame in 0..500 {
        merge_two(&mut scanner, D, Plain(frame), frame);
    }
    assert_eq!(scanner.get_stats().pages_shared, 500);
    assert!(scanner.index_bytes() > 0);
    scanner.end_pass(|_| None);
    assert_eq!(scanner.get_stats().pages_shared, 0);
    assert_eq!(scanner.index_bytes(), 0);
}

#[test]
fn a_full_index_keeps_what_it_has_and_counts_the_rest() {
    const CONTENTS: u32 = 4000;
    let mut scanner = scanner_with(Plan::Only(16), 2);
    for number in 0..CONTENTS {
        let verdict = scanner.scan(Frame(number.into()), D, &filler(number));
        assert_eq!(verdict, Verdict::Wait);
    }
    let kept = scanner.get_stats().pages_unshared;
    assert!((16 * 60..16 * 86).contains(&kept), "{kept} in 16 blocks");
    let lost = u64::from(CONTENTS) - kept;
    assert_eq!(scanner.index_failures(), lost);
    // The scan goes on: contents in the index are promoted, others wait.
    let promoted = (0..CONTENTS)
        .filter(|&number| {
            let frame = Frame(5000 + u64::from(number));
            matches!(scanner.scan(frame, D, &filler(number)), Verdict::Merge(_))
        })
        .count();
    assert_eq!(promoted as u64, kept);
    assert_eq!(scanner.get_stats().pages_scanned, 2 * u64::from(CONTENTS));
    assert_eq!(scanner.index_failures(), 2 * lost);
    // Forgotten contents free their memory, and no other memory is available.
    scanner.end_pass(|_| None);
    scanner.end_pass(|_| None);
    scanner.scan(Frame(1), D, &filler(1000));
    assert_eq!(scanner.index_failures(), 2 * lost + 1);
    assert_eq!(scanner.get_stats().pages_unshared, 0);
}

#[test]
fn a_frame_for_which_there_is_no_memory_is_not_to_be_made() {
    let memory = Memory::new(Plan::Only(1));
    let mut scanner = KsmScanner::with(memory.clone(), HashKind::Wide, 0);
    scanner.set_promote_after(2);
    merges(&mut scanner, 1);
    let key = key(scanner.scan(Frame(2), D, &A));
    assert!(!scanner.announce(Frame(10), 1), "no table of frames");
    assert_eq!(scanner.index_failures(), 1);
    assert_eq!(scanner.get_stats().pages_shared, 0);
    assert_eq!(scanner.target(key, D), Some(Target::Twin(Frame(1))));
    memory.set_plan(Plan::Ample);
    assert!(make(&mut scanner, key, D, 10));
    assert_eq!(scanner.get_stats().pages_unshared, 0);
}

#[test]
fn for_want_of_memory_the_unstable_set_is_forgotten_in_parts() {
    const CONTENTS: u32 = 40_000;
    let mut scanner = scanner(2);
    let key = merge_two(&mut scanner, D, A, 10);
    for number in 0..CONTENTS {
        scanner.scan(Frame(5000 + u64::from(number)), D, &filler(number));
    }
    let (full, unshared) = (scanner.index_bytes(), scanner.get_stats().pages_unshared);
    let parts = scanner.forgettable_parts();
    assert!(parts > 1);
    scanner.forget_some();
    let left = scanner.get_stats().pages_unshared;
    assert!(left > 0 && left < unshared);
    assert!(scanner.index_bytes() < full);
    while scanner.forgettable_parts() > 0 {
        scanner.forget_some();
    }
    for _ in 0..16 {
        scanner.forget_some();
    }
    assert_eq!(scanner.get_stats().pages_unshared, 0);
    assert!(scanner.index_bytes() < full / 8);
    // Shared frames are still known.
    assert_eq!(scanner.scan(Frame(4), D, &A), Verdict::Merge(key));
}

/// If it were forgotten, its pages would be taken for equal again, compared, and found to differ.
#[test]
fn for_want_of_memory_no_ambiguous_sample_is_forgotten() {
    let mut scanner = scanner(2);
    scanner.scan(Frame(1), D, &Alike(1));
    let sample = key(scanner.scan(Frame(2), D, &Alike(2)));
    scanner.differed(sample, Frame(2), D, &Alike(1));
    for _ in 0..16 {
        scanner.forget_some();
    }
    for page in 10..20 {
        let verdict = scanner.scan(Frame(page), D, &Alike(page));
        assert_eq!(verdict, Verdict::Wait, "page {page}");
    }
}
