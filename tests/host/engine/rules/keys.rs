// SPDX-License-Identifier: GPL-2.0

//! What the key of a page depends on: its domain, its content and the seed; and what happens when keys
//! collide.

use engine::hash::mix;
use engine::hash::unmix;
use engine::Domain;
use engine::Frame;
use engine::HashKind;
use engine::Key;
use engine::KsmScanner;
use engine::PageHash;
use engine::Target;
use engine::Verdict;
use engine::PAGE_SIZE;
use model::memory::Memory;
use std::collections::HashMap;
use std::collections::HashSet;

use super::key;
use super::make;
use super::merge_two;
use super::scanner;
use super::A;
use super::B;
use super::D;
use super::OTHER;
use super::SEED;

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
