// SPDX-License-Identifier: GPL-2.0

//! The rules beyond the documented API, each in the smallest story that shows it.

use engine::hash::mix;
use engine::hash::unmix;
use engine::Domain;
use engine::Frame;
use engine::Glance;
use engine::HashKind;
use engine::Key;
use engine::KsmScanner;
use engine::PageHash;
use engine::Target;
use engine::Verdict;
use engine::PAGE_SIZE;
use model::memory::Memory;
use model::memory::Plan;
use std::collections::HashMap;
use std::collections::HashSet;

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

// Promotion.

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

// Domains and contents.

#[test]
fn domains_share_nothing() {
    let mut scanner = scanner(1);
    for (domain, frame) in [(D, 1), (OTHER, 2), (Domain(0), 3), (Domain(u64::MAX), 4)] {
        assert_eq!(scanner.scan(Frame(frame), domain, &A), Verdict::Wait);
    }
    let key = merge_two(&mut scanner, D, B, 10);
    assert_eq!(scanner.scan(Frame(5), OTHER, &B), Verdict::Wait);
    assert_eq!(scanner.scan(Frame(6), D, &B), Verdict::Merge(key));
}

/// A domain whose contents have the same keys as in `domain`: keys are shorter than salts.
fn domain_of_the_same_keys(domain: Domain, seed: u64) -> Domain {
    let secret = mix(seed);
    Domain(unmix(mix(domain.0 ^ secret) ^ 2) ^ secret)
}

#[test]
fn a_shared_frame_is_no_target_of_a_domain_whose_keys_collide() {
    let mut scanner = scanner(2);
    let other = domain_of_the_same_keys(D, SEED);
    let key = merge_two(&mut scanner, D, A, 10);
    assert_eq!(scanner.scan(Frame(3), other, &A), Verdict::Merge(key));
    assert_eq!(scanner.target(key, other), None);
    assert_eq!(scanner.target(key, D), Some(Target::Shared(Frame(10))));
}

#[test]
fn keys_depend_on_the_seed() {
    let keys: HashSet<Key> = (0..50)
        .map(|seed| {
            let mut scanner = KsmScanner::with(Memory::default(), HashKind::Wide, seed);
            merge_two(&mut scanner, D, A, 10)
        })
        .collect();
    assert_eq!(keys.len(), 50);
}

/// Two pages with the same bytewise hash, different in their last 8 bytes.
fn colliding_pages() -> ([u8; PAGE_SIZE], [u8; PAGE_SIZE]) {
    let step = |hash: u32, octet: u8| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193);
    let beginning = [0; PAGE_SIZE - 8].into_iter().fold(0x811c_9dc5, step);
    let page = |end: u64| {
        let mut page = [0; PAGE_SIZE];
        page[PAGE_SIZE - 8..].copy_from_slice(&mix(end).to_ne_bytes());
        page
    };
    let mut ends = HashMap::new();
    for end in 1.. {
        let hash = mix(end).to_ne_bytes().into_iter().fold(beginning, step);
        if let Some(other) = ends.insert(hash, end) {
            return (page(other), page(end));
        }
    }
    unreachable!("there are more pages than hashes")
}

/// Different contents may have one key in the bytewise hash. The caller, which compares them, reports
/// that.
#[test]
fn a_collision_is_refuted_and_forgotten() {
    let (one, other) = colliding_pages();
    assert_ne!(one, other);
    let bytewise = PageHash::new(HashKind::Bytewise, 1);
    let wide = PageHash::new(HashKind::Wide, 1);
    assert_eq!(bytewise.of(&one), bytewise.of(&other));
    assert_ne!(wide.of(&one), wide.of(&other));

    let mut scanner = KsmScanner::with(Memory::default(), HashKind::Bytewise, 1);
    scanner.set_promote_after(2);
    tell_apart(&mut scanner, &one, &other);
    let collided = key(scanner.scan(Frame(2), D, &other));
    scanner.differed(collided, Frame(2), D, &one);
    assert_eq!(scanner.target(collided, D), Some(Target::Twin(Frame(2))));
    assert_eq!(key(scanner.scan(Frame(3), D, &other)), collided);
    assert!(make(&mut scanner, collided, D, 10));
    // Also where the other content is shared already.
    assert_eq!(key(scanner.scan(Frame(1), D, &one)), collided);
    scanner.refuted(collided, Frame(1));
    assert_eq!(scanner.target(collided, D), Some(Target::Twin(Frame(1))));
    assert_eq!(scanner.get_stats().pages_shared, 1, "it is mapped still");
    assert_eq!(scanner.get_stats().pages_unshared, 1);

    let mut wide = KsmScanner::with(Memory::default(), HashKind::Wide, 1);
    wide.set_promote_after(1);
    tell_apart(&mut wide, &one, &other);
    assert_eq!(wide.scan(Frame(2), D, &other), Verdict::Wait);
}

/// Makes pages with one sample known by their whole contents; `one` is on frame 1.
fn tell_apart(scanner: &mut KsmScanner<Memory>, one: &[u8; PAGE_SIZE], other: &[u8; PAGE_SIZE]) {
    scanner.scan(Frame(1), D, one);
    let sample = key(scanner.scan(Frame(2), D, other));
    scanner.differed(sample, Frame(2), D, one);
    assert_eq!(scanner.target(sample, D), None);
    assert_eq!(scanner.scan(Frame(1), D, one), Verdict::Wait);
}

// Samples.

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

/// The lowest bits of a hash select its slot, so they must depend on the highest bits of a page.
#[test]
fn wide_hash_spreads_high_bits() {
    struct HighBits(u64);
    impl engine::Content for HighBits {
        fn word(&self, index: usize) -> u64 {
            if index == 9 {
                self.0 << 53
            } else {
                1
            }
        }
    }
    let hash = PageHash::new(HashKind::Wide, 1);
    let slots: HashSet<u64> = (0..2048)
        .map(|bits| hash.of(&HighBits(bits)) % 4096)
        .collect();
    // For 2048 random hashes, 1612 are expected, plus or minus 18.
    assert!(slots.len() > 1500, "{} slots of 4096", slots.len());
}

// Shared frames.

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

// Memory.

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

#[test]
fn a_large_index_has_less_than_sixteen_bytes_for_a_content() {
    let mut scanner = scanner(3);
    for number in 0..400_000 {
        scanner.scan(Frame(number.into()), D, &filler(number));
        let contents = u64::from(number) + 1;
        if contents > 50_000 && contents % 1000 == 0 {
            assert!(scanner.index_bytes() <= 16 * contents, "{contents}");
        }
    }
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

// The limit of sharers.

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

// The statistics for mainline's files.

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
