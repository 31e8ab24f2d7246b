// SPDX-License-Identifier: GPL-2.0

//! The limit of sharers of one frame.

use engine::Frame;
use engine::Target;
use engine::Verdict;

use super::make;
use super::merge_two;
use super::scanner;
use super::A;
use super::D;

#[test]
fn a_full_frame_takes_no_more_and_the_next_pages_get_a_further_one() {
    let mut scanner = scanner(2);
    scanner.set_max_page_sharing(3);
    let key = merge_two(&mut scanner, D, A, 10);
    assert_eq!(scanner.scan(Frame(3), D, &A), Verdict::Merge(key));
    // The caller found that the frame would have too many mappings.
    scanner.retire(key, Frame(3));
    assert_eq!(scanner.target(key, D), Some(Target::Twin(Frame(3))));
    assert_eq!(scanner.get_stats().pages_shared, 1);
    assert_eq!(scanner.get_stats().pages_unshared, 1);
    assert_eq!(scanner.scan(Frame(4), D, &A), Verdict::Merge(key));
    assert!(make(&mut scanner, key, D, 11));
    assert_eq!(scanner.target(key, D), Some(Target::Shared(Frame(11))));
    assert_eq!(scanner.get_stats().pages_shared, 2);
    // No entry is left when both are gone.
    scanner.end_pass(|_| None);
    assert_eq!(scanner.target(key, D), None);
    assert_eq!(scanner.get_stats().pages_shared, 0);
}

#[test]
fn a_retired_frame_returns_when_half_of_its_sharers_have_left() {
    let mut scanner = scanner(2);
    scanner.set_max_page_sharing(8);
    let key = merge_two(&mut scanner, D, A, 10);
    scanner.retire(key, Frame(3));
    scanner.scan(Frame(3), D, &A);
    scanner.end_pass(|_| Some(5));
    assert_eq!(scanner.target(key, D), Some(Target::Twin(Frame(3))));
    scanner.end_pass(|_| Some(4));
    assert_eq!(scanner.target(key, D), Some(Target::Shared(Frame(10))));
    assert_eq!(scanner.get_stats().pages_unshared, 0);
}

#[test]
fn a_retired_frame_does_not_displace_its_successor() {
    let mut scanner = scanner(2);
    let key = merge_two(&mut scanner, D, A, 10);
    scanner.retire(key, Frame(3));
    assert!(make(&mut scanner, key, D, 11));
    scanner.end_pass(|_| Some(1));
    assert_eq!(scanner.target(key, D), Some(Target::Shared(Frame(11))));
}

#[test]
fn the_documented_call_keeps_to_the_limit() {
    let mut scanner = scanner(1);
    scanner.set_max_page_sharing(0);
    assert_eq!(scanner.max_page_sharing(), 2);
    assert!(!scanner.scan_page(1, &A));
    assert!(scanner.scan_page(2, &A));
    // The third page starts a new entry.
    assert!(!scanner.scan_page(3, &A));
    assert!(scanner.scan_page(4, &A));
    assert_eq!(scanner.get_stats().pages_shared, 2);
    assert_eq!(scanner.get_stats().pages_sharing, 2);
}
