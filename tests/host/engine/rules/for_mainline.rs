// SPDX-License-Identifier: GPL-2.0

//! What the files of mainline's KSM need: statistics, pages of zeros as contents, nodes as domains.

use engine::Domain;
use engine::Frame;
use engine::KsmScanner;
use engine::Target;
use engine::Verdict;
use engine::PAGE_SIZE;
use model::memory::Memory;
use std::collections::HashSet;

use super::key;
use super::make;
use super::merge_two;
use super::scanner;
use super::Plain;
use super::A;
use super::B;
use super::D;
use super::OTHER;

#[test]
fn a_content_is_at_rest_in_the_second_pass() {
    let mut scanner = scanner(10);
    scanner.set_max_interval(1);
    let mut ids = [1, 1, 1, 2, 3, 3].into_iter();
    for expected in [0, 1, 1, 0, 0, 1] {
        scanner.scan(Frame(1), D, &Plain(ids.next().unwrap()));
        scanner.end_pass(|_| None);
        assert_eq!(scanner.at_rest(), expected);
    }
    scanner.init();
    assert_eq!(scanner.at_rest(), 0);
}

#[test]
fn contents_with_several_frames_are_counted() {
    let mut scanner = scanner(2);
    let copies = |scanner: &mut KsmScanner<Memory>| {
        let copies = scanner.copies();
        (copies.contents, copies.frames)
    };
    let key = merge_two(&mut scanner, D, A, 10);
    merge_two(&mut scanner, D, B, 20);
    assert_eq!(copies(&mut scanner), (0, 0));
    // A retired frame is the only frame of its content until there is a further one.
    for (further, expected) in [(11, (1, 2)), (12, (1, 3))] {
        let before = copies(&mut scanner);
        scanner.retire(key, Frame(1));
        assert_eq!(copies(&mut scanner), before);
        assert!(make(&mut scanner, key, D, further));
        assert_eq!(copies(&mut scanner), expected);
    }
    assert_eq!(copies(&mut scanner), (1, 3));
}

#[test]
fn zeroes_can_be_a_content_like_others() {
    let mut scanner = scanner(2);
    let zeroes = [0; PAGE_SIZE];
    assert!(scanner.keys().inspect(D, &zeroes).is_none());
    let inspected = scanner.keys().inspect_any(D, &zeroes);
    assert_eq!(scanner.settle(Frame(1), inspected), Verdict::Wait);
    let key = key(scanner.settle(Frame(2), inspected));
    assert!(scanner.keys().is_of(key, D, &zeroes));
    assert_eq!(scanner.target(key, D), Some(Target::Twin(Frame(1))));
}

#[test]
fn each_node_of_a_domain_is_a_domain() {
    let domains = [D, OTHER].into_iter();
    let parts = domains.flat_map(|domain| (0..64).map(move |node| domain.on_node(node)));
    let parts: HashSet<Domain> = parts.chain([D, OTHER]).collect();
    assert_eq!(parts.len(), 2 * 64 + 2);
    let mut scanner = scanner(2);
    scanner.scan(Frame(1), D.on_node(0), &A);
    assert_eq!(scanner.scan(Frame(2), D.on_node(1), &A), Verdict::Wait);
}
