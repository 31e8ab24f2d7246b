// SPDX-License-Identifier: GPL-2.0

//! Pages that are known by samples of their contents, until samples are not enough.

use engine::Frame;
use engine::Glance;
use engine::KsmScanner;
use engine::Target;
use engine::Verdict;
use engine::PAGE_SIZE;
use model::memory::Memory;

use super::key;
use super::make;
use super::scanner;
use super::Alike;
use super::A;
use super::B;
use super::D;
use super::OTHER;

/// The pages are compared once, and known by their whole contents from then on.
#[test]
fn pages_of_one_sample_are_told_apart() {
    let mut scanner = scanner(2);
    scanner.scan(Frame(1), D, &Alike(1));
    let sample = key(scanner.scan(Frame(2), D, &Alike(2)));
    scanner.differed(sample, Frame(2), D, &Alike(1));
    assert_eq!(scanner.get_stats().pages_unshared, 0);
    for pass in 0..5 {
        scanner.set_promote_after(100);
        for page in 0..50 {
            let verdict = scanner.scan(Frame(page), D, &Alike(page));
            assert_eq!(verdict, Verdict::Wait, "page {page} in pass {pass}");
        }
        assert_eq!(scanner.get_stats().pages_unshared, 50);
        scanner.end_pass(|_| None);
    }
    scanner.set_promote_after(1);
    let whole = key(scanner.scan(Frame(90), D, &Alike(9)));
    assert_eq!(scanner.target(whole, D), Some(Target::Twin(Frame(9))));
}

#[test]
fn a_sample_that_one_page_has_is_enough_again() {
    let mut scanner = scanner(1);
    scanner.scan(Frame(1), D, &Alike(1));
    let sample = key(scanner.scan(Frame(2), D, &Alike(2)));
    scanner.differed(sample, Frame(2), D, &Alike(1));
    let glance = |scanner: &mut KsmScanner<Memory>| {
        let keys = scanner.keys();
        let glimpse = keys.glimpse(keys.salt(D), &Alike(1));
        scanner.glance(Frame(1), glimpse)
    };
    assert_eq!(glance(&mut scanner), Glance::Look);
    scanner.end_pass(|_| None);
    assert_eq!(glance(&mut scanner), Glance::Look);
    scanner.scan(Frame(1), D, &Alike(1));
    scanner.end_pass(|_| None);
    assert_eq!(glance(&mut scanner), Glance::Wait);
}

#[test]
fn a_shared_frame_is_found_by_its_whole_content_where_its_sample_is_not_enough() {
    let mut scanner = scanner(2);
    scanner.scan(Frame(1), D, &Alike(1));
    let sample = key(scanner.scan(Frame(2), D, &Alike(1)));
    assert!(make(&mut scanner, sample, D, 10));
    assert_eq!(scanner.scan(Frame(3), D, &Alike(3)), Verdict::Merge(sample));
    scanner.differed(sample, Frame(3), D, &Alike(1));
    assert_eq!(scanner.scan(Frame(3), D, &Alike(3)), Verdict::Wait);
    let whole = key(scanner.scan(Frame(4), D, &Alike(1)));
    assert_eq!(scanner.target(whole, D), Some(Target::Shared(Frame(10))));
    // A recount removes its content under the new key, too.
    scanner.recount(|_| None);
    assert_eq!(scanner.target(whole, D), None);
}

/// Once the engine had forgotten that the sample is ambiguous, equal pages got a second frame. The soak
/// suite `many_sharers` found this, with writers changing words outside the sample.
#[test]
fn a_shared_frame_known_by_its_whole_content_stays_the_only_one() {
    let mut scanner = scanner(1);
    scanner.scan(Frame(1), D, &Alike(1));
    let sample = key(scanner.scan(Frame(2), D, &Alike(1)));
    assert!(make(&mut scanner, sample, D, 10));
    scanner.differed(sample, Frame(3), D, &Alike(1));
    for page in 20..25 {
        scanner.end_pass(|_| Some(2));
        let whole = key(scanner.scan(Frame(page), D, &Alike(1)));
        assert_eq!(scanner.target(whole, D), Some(Target::Shared(Frame(10))));
    }
    scanner.end_pass(|_| None);
    let keys = scanner.keys();
    let glimpse = keys.glimpse(keys.salt(D), &Alike(1));
    assert_eq!(scanner.glance(Frame(30), glimpse), Glance::Wait);
}

/// Two threads race: one merges by the sample just after the other has merged by the whole content.
#[test]
fn a_frame_that_is_told_apart_late_displaces_no_other_of_its_content() {
    let mut scanner = scanner(2);
    scanner.scan(Frame(1), D, &Alike(1));
    let sample = key(scanner.scan(Frame(2), D, &Alike(2)));
    scanner.differed(sample, Frame(2), D, &Alike(1));
    scanner.scan(Frame(3), D, &Alike(1));
    let whole = key(scanner.scan(Frame(4), D, &Alike(1)));
    assert_ne!(whole, sample);
    assert!(make(&mut scanner, whole, D, 20));
    assert!(make(&mut scanner, sample, D, 10));
    scanner.differed(sample, Frame(5), D, &Alike(1));
    assert_eq!(scanner.target(whole, D), Some(Target::Shared(Frame(20))));
}

/// Pages that were being filled when they were scanned had a common sample, and equal contents when
/// they were compared. So the shared frame got a key by which it could not be found, and equal pages
/// got a second frame. The soak suite `many_sharers` found this, too.
#[test]
fn a_page_that_changed_after_it_was_looked_at_is_not_of_its_key() {
    let mut scanner = scanner(2);
    scanner.scan(Frame(1), D, &A);
    let sample = key(scanner.scan(Frame(2), D, &A));
    assert!(scanner.keys().is_of(sample, D, &A));
    assert!(!scanner.keys().is_of(sample, D, &B));
    assert!(!scanner.keys().is_of(sample, OTHER, &A));

    let (one, other) = ([1; PAGE_SIZE], Alike(1));
    scanner.scan(Frame(3), D, &Alike(1));
    let alike = key(scanner.scan(Frame(4), D, &Alike(2)));
    assert!(
        scanner.keys().is_of(alike, D, &Alike(3)),
        "as far as a sample says"
    );
    scanner.differed(alike, Frame(4), D, &other);
    scanner.scan(Frame(3), D, &Alike(1));
    let whole = key(scanner.scan(Frame(5), D, &Alike(1)));
    assert!(scanner.keys().is_of(whole, D, &Alike(1)));
    assert!(!scanner.keys().is_of(whole, D, &Alike(2)));
    assert!(!scanner.keys().is_of(whole, D, &one));
}

/// A twin whose content has changed says nothing about the sample.
#[test]
fn a_sample_is_enough_still_where_a_twin_has_changed() {
    let mut scanner = scanner(2);
    scanner.scan(Frame(1), D, &A);
    let sample = key(scanner.scan(Frame(2), D, &A));
    scanner.differed(sample, Frame(2), D, &B);
    assert_eq!(scanner.target(sample, D), Some(Target::Twin(Frame(2))));
    assert_eq!(key(scanner.scan(Frame(3), D, &A)), sample);
}

#[test]
fn a_page_that_begins_blank_is_no_page_of_zeros() {
    let mut scanner = scanner(1);
    let mut page = [0; PAGE_SIZE];
    assert_eq!(scanner.scan(Frame(1), D, &page), Verdict::Zero);
    page[PAGE_SIZE - 1] = 1;
    for frame in 1..3 {
        let keys = scanner.keys();
        let glimpse = keys.glimpse(keys.salt(D), &page);
        assert_ne!(scanner.glance(Frame(frame), glimpse), Glance::Wait);
        assert_ne!(scanner.look(Frame(frame), D, &page), Verdict::Zero);
    }
}
