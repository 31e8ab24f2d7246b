// SPDX-License-Identifier: GPL-2.0

//! The shared frames: how they are found, counted and lost.

use engine::Frame;
use engine::Target;
use engine::Verdict;

use super::key;
use super::make;
use super::merge_two;
use super::merges;
use super::scanner;
use super::Plain;
use super::A;
use super::B;
use super::D;
use super::OTHER;

#[test]
fn equal_pages_merge_into_a_shared_frame_at_first_sight() {
    let mut scanner = scanner(3);
    let key = merge_two(&mut scanner, D, A, 10);
    scanner.set_promote_after(255);
    for pass in 0..3 {
        assert_eq!(scanner.scan(Frame(20 + pass), D, &A), Verdict::Merge(key));
        assert_eq!(scanner.target(key, D), Some(Target::Shared(Frame(10))));
        scanner.merged(Frame(10), 3 + pass as u32);
        scanner.end_pass(|frame| (frame == Frame(10)).then_some(3 + pass as u32));
        assert_eq!(scanner.get_stats().pages_shared, 1);
        assert_eq!(scanner.get_stats().pages_sharing, 2 + pass);
    }
}

#[test]
fn a_shared_frame_that_is_gone_takes_its_content_along() {
    for gone in [None, Some(0)] {
        let mut scanner = scanner(3);
        let key = merge_two(&mut scanner, D, A, 10);
        let other = merge_two(&mut scanner, D, B, 11);
        scanner.recount(|frame| if frame == Frame(10) { gone } else { Some(5) });
        assert_eq!(scanner.target(key, D), None);
        assert_eq!(scanner.target(other, D), Some(Target::Shared(Frame(11))));
        assert_eq!(scanner.get_stats().pages_shared, 1);
        assert_eq!(scanner.get_stats().pages_sharing, 4);
    }
}

/// A reader of the frames releases the scanner now and then, which goes on merging.
#[test]
fn each_shared_frame_is_met_once_whatever_comes_and_goes() {
    const FIRST: u64 = 1000;
    const LAST: u64 = 1499;
    let mut scanner = scanner(3);
    for number in FIRST..=LAST {
        merge_two(&mut scanner, D, Plain(number), number);
    }
    let (mut last, mut met) = (None, Vec::new());
    loop {
        last = scanner.shared_frames_after(last).next();
        let Some(frame) = last else {
            break;
        };
        if frame.0 > LAST {
            continue;
        }
        met.push(frame.0);
        if frame.0 % 3 == 0 {
            scanner.recount(|other| (other != frame).then_some(2));
        } else {
            let further = LAST + frame.0;
            merge_two(&mut scanner, D, Plain(further), further);
        }
    }
    met.sort_unstable();
    assert_eq!(met, (FIRST..=LAST).collect::<Vec<_>>());
}

/// Two threads may merge pages of one content at the same time.
#[test]
fn a_second_frame_of_a_content_waits_for_the_place_of_the_first() {
    let mut scanner = scanner(3);
    let key = merge_two(&mut scanner, D, A, 10);
    assert!(!make(&mut scanner, key, D, 11));
    assert_eq!(scanner.get_stats().pages_shared, 2);
    scanner.end_pass(|_| Some(2));
    assert_eq!(scanner.target(key, D), Some(Target::Shared(Frame(10))));
    scanner.recount(|frame| (frame == Frame(11)).then_some(2));
    assert_eq!(scanner.target(key, D), None);
    scanner.end_pass(|_| Some(2));
    assert_eq!(scanner.target(key, D), Some(Target::Shared(Frame(11))));
    assert_eq!(scanner.get_stats().pages_shared, 1);
}

#[test]
fn a_frame_number_used_again_is_a_new_frame() {
    let mut scanner = scanner(3);
    let old = merge_two(&mut scanner, D, A, 10);
    let new = merge_two(&mut scanner, OTHER, B, 10);
    assert_eq!(scanner.target(old, D), None);
    assert_eq!(scanner.target(new, OTHER), Some(Target::Shared(Frame(10))));
    assert_eq!(scanner.get_stats().pages_shared, 1);
}

/// The merge may fail without a report to the engine.
#[test]
fn a_frame_that_was_announced_only_counts_for_nothing() {
    let mut scanner = scanner(2);
    let key = merge_two(&mut scanner, D, A, 10);
    assert!(scanner.announce(Frame(10), 5));
    assert_eq!(scanner.target(key, D), None);
    assert_eq!(scanner.get_stats().pages_shared, 0);
    scanner.end_pass(|_| None);
    assert_eq!(scanner.index_bytes(), 0);
}

/// Both sharers exit before the merge is reported, and a recount finds that.
#[test]
fn a_frame_that_was_gone_before_it_was_reported_leaves_its_content_mergeable() {
    let mut scanner = scanner(2);
    assert!(!merges(&mut scanner, 1));
    let key = key(scanner.scan(Frame(2), D, &A));
    assert!(scanner.announce(Frame(10), 1));
    scanner.recount(|_| None);
    assert!(!scanner.made(key, Frame(10), D, 2));
    assert_eq!(scanner.target(key, D), Some(Target::Twin(Frame(1))));
    assert_eq!(scanner.get_stats().pages_shared, 0);
}

#[test]
fn frames_are_counted_though_all_contents_are_forgotten() {
    let mut scanner = scanner(2);
    let key = merge_two(&mut scanner, D, A, 10);
    scanner.forget_contents();
    assert_eq!(scanner.target(key, D), None);
    scanner.end_pass(|_| Some(3));
    assert_eq!(scanner.target(key, D), None);
    assert_eq!(scanner.get_stats().pages_sharing, 2);
    scanner.end_pass(|_| None);
    assert_eq!(scanner.get_stats().pages_shared, 0);
}

/// As far as the scanner knows, its memory has failed.
#[test]
fn a_refuted_frame_is_counted_and_never_merged_into_again() {
    let mut scanner = scanner(2);
    let key = merge_two(&mut scanner, D, A, 10);
    scanner.refuted(key, Frame(1));
    for _ in 0..3 {
        assert_ne!(scanner.target(key, D), Some(Target::Shared(Frame(10))));
        assert_eq!(scanner.get_stats().pages_shared, 1);
        scanner.end_pass(|_| Some(1));
    }
}

#[test]
fn a_mapping_that_nobody_told_of_is_found_by_a_recount() {
    let mut scanner = scanner(2);
    let key = merge_two(&mut scanner, D, A, 10);
    assert!(scanner.unmerge_page(10));
    assert!(scanner.unmerge_page(10));
    assert!(!scanner.unmerge_page(10), "it has gone");
    assert_eq!(scanner.get_stats().pages_shared, 0);
    // A fork had added a mapping.
    scanner.recount(|_| Some(1));
    assert_eq!(scanner.get_stats().pages_shared, 1);
    assert_eq!(scanner.target(key, D), None);
}
