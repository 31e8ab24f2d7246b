// SPDX-License-Identifier: GPL-2.0

//! How often a content must be seen before its pages are merged, and how long it is remembered.

use engine::Frame;
use engine::Target;
use engine::Verdict;

use super::key;
use super::make;
use super::merges;
use super::scanner;
use super::A;
use super::B;
use super::D;

#[test]
fn two_frames_in_a_pass_count_as_two() {
    let mut scanner = scanner(2);
    assert!(!merges(&mut scanner, 1));
    assert!(merges(&mut scanner, 2));
}

#[test]
fn the_same_frame_twice_in_a_pass_counts_once() {
    let mut scanner = scanner(3);
    assert!(!merges(&mut scanner, 1));
    assert!(!merges(&mut scanner, 1));
    assert!(!merges(&mut scanner, 1));
    assert!(!merges(&mut scanner, 2));
    assert!(merges(&mut scanner, 3));
}

#[test]
fn the_same_frame_twice_in_a_pass_counts_once_with_another_in_between() {
    let mut scanner = scanner(4);
    for frame in [1, 2, 1] {
        assert!(!merges(&mut scanner, frame));
    }
    assert!(!merges(&mut scanner, 3), "the third sighting");
    assert!(merges(&mut scanner, 4));
}

#[test]
fn the_same_frame_counts_once_in_every_pass() {
    let mut scanner = scanner(3);
    for _ in 0..2 {
        assert!(!merges(&mut scanner, 1));
        scanner.end_pass(|_| None);
    }
    assert!(merges(&mut scanner, 2));
}

/// A frame was mistaken for one met before in the pass, although another frame of its content had been
/// met.
#[test]
fn a_frame_counts_in_a_pass_whichever_frame_was_met_before_it() {
    let mut scanner = scanner(4);
    assert!(!merges(&mut scanner, 1)); // 1
    scanner.end_pass(|_| None);
    assert!(!merges(&mut scanner, 2)); // 2
    assert!(!merges(&mut scanner, 1)); // 3
    assert!(!merges(&mut scanner, 1)); // met already
    assert!(merges(&mut scanner, 3)); // 4
}

#[test]
fn a_page_is_never_merged_with_itself() {
    let mut scanner = scanner(1);
    for _ in 0..300 {
        assert!(!merges(&mut scanner, 1));
        scanner.end_pass(|_| None);
    }
    assert!(merges(&mut scanner, 2));
}

#[test]
fn contents_not_seen_for_a_pass_are_forgotten() {
    let mut scanner = scanner(3);
    merges(&mut scanner, 1);
    merges(&mut scanner, 2);
    scanner.scan(Frame(3), D, &B);
    scanner.end_pass(|_| None);
    assert_eq!(scanner.get_stats().pages_unshared, 2, "seen in the pass");
    scanner.scan(Frame(3), D, &B);
    scanner.end_pass(|_| None);
    assert_eq!(scanner.get_stats().pages_unshared, 1, "one was not");
    assert!(!merges(&mut scanner, 1));
    assert!(!merges(&mut scanner, 2));
    assert!(merges(&mut scanner, 3));
}

#[test]
fn a_refuted_content_begins_anew() {
    let mut scanner = scanner(2);
    merges(&mut scanner, 1);
    let key = key(scanner.scan(Frame(2), D, &A));
    scanner.refuted(key, Frame(2));
    assert_eq!(scanner.target(key, D), Some(Target::Twin(Frame(2))));
    assert_eq!(scanner.get_stats().pages_unshared, 1);
    assert!(!merges(&mut scanner, 2));
    assert!(merges(&mut scanner, 3));
}

#[test]
fn another_twin_is_remembered_with_the_same_sightings() {
    let mut scanner = scanner(2);
    merges(&mut scanner, 1);
    let key = key(scanner.scan(Frame(2), D, &A));
    scanner.prefer_twin(key, Frame(2));
    assert_eq!(scanner.target(key, D), Some(Target::Twin(Frame(2))));
    assert!(!merges(&mut scanner, 2), "a page is not its own twin");
    assert!(merges(&mut scanner, 1));
    scanner.end_pass(|_| None);
    assert_eq!(scanner.get_stats().pages_unshared, 1);
    scanner.end_pass(|_| None);
    assert_eq!(scanner.get_stats().pages_unshared, 0, "forgotten in time");
}

/// Another mapping of the remembered frame counts once in a pass.
#[test]
fn another_twin_has_been_met() {
    let mut scanner = scanner(1);
    merges(&mut scanner, 1);
    scanner.end_pass(|_| None);
    let key = key(scanner.scan(Frame(2), D, &A));
    scanner.set_promote_after(3);
    scanner.prefer_twin(key, Frame(2));
    assert!(!merges(&mut scanner, 2));
    assert!(merges(&mut scanner, 1), "the third sighting");
}

#[test]
fn a_shared_frame_stays_the_target() {
    let mut scanner = scanner(1);
    merges(&mut scanner, 1);
    let key = key(scanner.scan(Frame(2), D, &A));
    assert!(make(&mut scanner, key, D, 9));
    scanner.prefer_twin(key, Frame(2));
    assert_eq!(scanner.target(key, D), Some(Target::Shared(Frame(9))));
}

#[test]
fn contents_are_remembered_until_the_next_visit() {
    for passes in 1..=8 {
        let mut scanner = scanner(2);
        scanner.remember_for(passes);
        assert!(!merges(&mut scanner, 1));
        scanner.remember_for(1);
        for _ in 0..passes {
            scanner.end_pass(|_| None);
            assert_eq!(scanner.get_stats().pages_unshared, 1);
        }
        // The content was seen elsewhere in the last pass, so it is remembered for exactly one more.
        assert!(merges(&mut scanner, 2));
        for kept in [1, 0] {
            scanner.end_pass(|_| None);
            assert_eq!(scanner.get_stats().pages_unshared, kept);
        }
    }
}

#[test]
fn what_is_seen_more_often_elsewhere_is_not_forgotten_earlier() {
    let mut scanner = scanner(9);
    scanner.remember_for(4);
    assert!(!merges(&mut scanner, 1));
    scanner.remember_for(1);
    assert!(!merges(&mut scanner, 2));
    for _ in 0..4 {
        scanner.end_pass(|_| None);
        assert_eq!(scanner.get_stats().pages_unshared, 1);
    }
    scanner.end_pass(|_| None);
    assert_eq!(scanner.get_stats().pages_unshared, 0);
}

#[test]
fn pages_seen_twice_are_promising_until_they_are_merged() {
    let mut scanner = scanner(3);
    let mut scan = |frame| scanner.scan(Frame(frame), D, &A);
    assert_eq!(scan(1), Verdict::Wait);
    assert_eq!(scan(1), Verdict::Wait);
    assert_eq!(scan(2), Verdict::Promising);
    assert!(matches!(scan(3), Verdict::Merge(_)));
}
