// SPDX-License-Identifier: GPL-2.0

//! Tests of the documented API of `KsmScanner`, written from its documentation only.

use engine::stats::merge_ratio_x100;
use engine::stats::Histogram;
use engine::KsmStats;
use engine::PAGE_SIZE;
use model::letters::Letter;
use model::letters::ZERO;
use model::memory::Memory;

type KsmScanner = engine::KsmScanner<Memory>;

const A: Letter = Letter(2);
const B: Letter = Letter(3);

/// A scanner that has scanned frames 1 to `pages`, all with content `A`.
fn scanner_of_equal_pages(pages: u64) -> KsmScanner {
    let mut scanner = KsmScanner::new();
    for frame in 1..=pages {
        scanner.scan_page(frame, &A);
    }
    scanner
}

#[test]
fn a_histogram_has_a_class_for_each_power_of_two() {
    let mut histogram = Histogram::default();
    assert_eq!(histogram.classes().count(), 0);
    histogram.add(0);
    assert_eq!(histogram.classes().count(), 0);
    for size in [2, 3, 4, 7, 7] {
        histogram.add(size);
    }
    let classes: Vec<_> = histogram.classes().collect();
    assert_eq!(classes, [(1, 1, 0), (2, 3, 2), (4, 7, 3)]);
    histogram.add(u32::MAX);
    assert_eq!(histogram.classes().last(), Some((1 << 31, u32::MAX, 1)));
}

#[test]
fn defaults() {
    for scanner in [KsmScanner::new(), KsmScanner::default()] {
        assert_eq!(scanner.scan_rate(), 100);
        assert_eq!(scanner.sleep_ms(), 200);
        assert_eq!(scanner.promote_after(), 3);
        assert!(!scanner.is_enabled());
        assert_eq!(scanner.get_stats(), KsmStats::default());
        assert_eq!(scanner.full_scans(), 0);
        assert_eq!(scanner.index_bytes(), 0);
        assert_eq!(scanner.index_failures(), 0);
    }
}

#[test]
fn knobs_keep_what_they_are_set_to() {
    let mut scanner = KsmScanner::new();
    for value in [1, 2, 1000, u32::MAX] {
        scanner.set_scan_rate(value);
        scanner.set_sleep_ms(value);
        assert_eq!((scanner.scan_rate(), scanner.sleep_ms()), (value, value));
    }
    scanner.set_promote_after(255);
    assert_eq!(scanner.promote_after(), 255);
}

#[test]
fn zero_means_one_but_for_the_pause() {
    let mut scanner = KsmScanner::new();
    scanner.set_scan_rate(0);
    scanner.set_promote_after(0);
    scanner.set_sleep_ms(0);
    assert_eq!(scanner.scan_rate(), 1);
    assert_eq!(scanner.promote_after(), 1);
    assert_eq!(scanner.sleep_ms(), 0);
}

#[test]
fn enable_and_disable() {
    let mut scanner = KsmScanner::new();
    scanner.enable();
    assert!(scanner.is_enabled());
    scanner.enable();
    assert!(scanner.is_enabled());
    scanner.disable();
    assert!(!scanner.is_enabled());
}

#[test]
fn the_third_equal_page_is_merged_and_every_one_after_it() {
    let mut scanner = KsmScanner::new();
    assert!(!scanner.scan_page(1, &A));
    assert!(!scanner.scan_page(2, &A));
    assert_eq!(scanner.get_stats().pages_unshared, 1);
    assert!(scanner.scan_page(3, &A));
    assert!(scanner.scan_page(2, &A));
    assert!(scanner.scan_page(4, &A));
    assert!(!scanner.scan_page(5, &B));
    let stats = KsmStats {
        pages_shared: 1,
        pages_sharing: 3,
        pages_unshared: 1,
        pages_scanned: 6,
        merge_ratio_x100: 300,
    };
    assert_eq!(scanner.get_stats(), stats);
}

#[test]
fn a_shared_page_is_not_merged_with_itself() {
    let mut scanner = scanner_of_equal_pages(3);
    let before = scanner.get_stats();
    assert!(!scanner.scan_page(1, &A));
    let after = scanner.get_stats();
    assert_eq!(after.pages_sharing, before.pages_sharing);
}

/// Regression test: once the shared page was full and its content had a new entry, the page itself was
/// taken for one more page of its content.
#[test]
fn a_full_shared_page_is_not_merged_with_the_next_of_its_content() {
    let mut scanner = KsmScanner::new();
    scanner.set_promote_after(1);
    scanner.set_max_page_sharing(2);
    scanner.scan_page(1, &A);
    assert!(scanner.scan_page(2, &A));
    assert!(!scanner.scan_page(3, &A), "the first is full");
    let before = scanner.get_stats();
    assert!(!scanner.scan_page(1, &A), "the full one itself");
    let after = scanner.get_stats();
    assert_eq!(after.pages_shared, before.pages_shared);
    assert_eq!(after.pages_sharing, before.pages_sharing);
}

#[test]
fn promote_after_is_the_number_of_sightings() {
    for promote_after in [2, 3, 7, 254, 255] {
        let mut scanner = KsmScanner::new();
        scanner.set_promote_after(promote_after);
        for frame in 1..promote_after.into() {
            assert!(!scanner.scan_page(frame, &A), "{frame} of {promote_after}");
        }
        assert!(scanner.scan_page(promote_after.into(), &A));
    }
}

#[test]
fn pages_of_zeros_are_left_to_the_caller() {
    let mut scanner = KsmScanner::new();
    for frame in 1..6 {
        assert!(!scanner.scan_page(frame, &ZERO));
    }
    assert_eq!(scanner.get_stats().pages_scanned, 5);
    assert_eq!(scanner.get_stats().pages_unshared, 0);
}

#[test]
fn real_pages_are_compared_to_their_last_byte() {
    let page = [0x5a; PAGE_SIZE];
    for offset in [0, 1, 7, 8, 2049, PAGE_SIZE - 1] {
        let mut other = page;
        other[offset] ^= 0x80;
        let mut scanner = KsmScanner::new();
        scanner.set_promote_after(1);
        assert!(!scanner.scan_page(1, &page));
        assert!(!scanner.scan_page(2, &other), "offset {offset}");
        assert!(scanner.scan_page(3, &page.clone()));
    }
}

#[test]
fn unmerge_page_takes_mappings_off_and_the_frame_with_the_last() {
    let mut scanner = scanner_of_equal_pages(4);
    let shared_and_sharing = |scanner: &KsmScanner| {
        let stats = scanner.get_stats();
        (stats.pages_shared, stats.pages_sharing)
    };
    assert_eq!(shared_and_sharing(&scanner), (1, 2));
    assert!(!scanner.unmerge_page(2), "frame 2 is not shared");
    assert_eq!(shared_and_sharing(&scanner), (1, 2));
    assert!(scanner.unmerge_page(1));
    assert_eq!(shared_and_sharing(&scanner), (1, 1));
    assert!(scanner.unmerge_page(1));
    assert_eq!(shared_and_sharing(&scanner), (1, 0));
    assert!(scanner.scan_page(9, &A), "its last sharer can be joined");
    assert!(scanner.unmerge_page(1));
    assert!(scanner.unmerge_page(1));
    assert_eq!(shared_and_sharing(&scanner), (0, 0));
    assert!(!scanner.unmerge_page(1), "it is gone");
    assert!(!scanner.scan_page(10, &A), "so is its content");
}

#[test]
fn init_forgets_contents_but_not_knobs_and_totals() {
    let mut scanner = scanner_of_equal_pages(3);
    scanner.scan_page(4, &B);
    scanner.set_scan_rate(7);
    scanner.set_sleep_ms(8);
    scanner.set_promote_after(2);
    scanner.enable();
    scanner.end_pass(|_| Some(2));
    scanner.init();
    let stats = KsmStats {
        pages_scanned: 4,
        ..KsmStats::default()
    };
    assert_eq!(scanner.get_stats(), stats);
    assert_eq!(scanner.full_scans(), 1);
    assert_eq!(scanner.index_bytes(), 0);
    assert_eq!((scanner.scan_rate(), scanner.sleep_ms()), (7, 8));
    assert!(scanner.is_enabled());
    assert!(!scanner.unmerge_page(1));
    assert!(!scanner.scan_page(5, &A));
    assert!(scanner.scan_page(6, &A), "promotion after 2 sightings");
}

#[test]
fn merge_ratio_is_sharing_for_every_hundred_shared() {
    for (sharing, shared, ratio) in [
        (0, 0, 0),
        (5, 0, 0),
        (0, 7, 0),
        (1, 1, 100),
        (1, 3, 33),
        (2, 3, 66),
        (150, 2, 7500),
        (u64::MAX, 1, u64::MAX),
    ] {
        assert_eq!(merge_ratio_x100(sharing, shared), ratio);
    }
}
