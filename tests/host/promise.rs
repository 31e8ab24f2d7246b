// SPDX-License-Identifier: GPL-2.0

//! Tests of the floor: what it holds, and the worst minute.

use engine::promise::Balance;
use engine::promise::Floor;
use engine::promise::Memory;
use engine::promise::Promise;
use proptest::collection::vec;
use proptest::prop_assert_eq;
use proptest::proptest;

const PLENTY: Memory = Memory {
    total: 1 << 20,
    available: 1 << 19,
    free_swap: 0,
};

fn promise(floor: Floor) -> Promise {
    let mut promise = Promise::new();
    promise.set_floor(floor);
    promise
}

/// Reviews at these seconds and totals, and returns the worst minute.
fn worst(notes: &[(u64, u64)]) -> u64 {
    let mut promise = promise(Floor::Mib(1));
    for &(second, copies) in notes {
        promise.review(second, copies, PLENTY);
    }
    promise.worst()
}

#[test]
fn floors_are_mebibytes_or_percent() {
    let accepted = [
        ("0", Floor::OFF),
        ("1", Floor::Mib(1)),
        ("4294967295\n", Floor::Mib(u32::MAX)),
        ("0%", Floor::Percent(0)),
        ("25%\n", Floor::Percent(25)),
        ("100%", Floor::Percent(100)),
    ];
    for (text, floor) in accepted {
        assert_eq!(Floor::parse(text.as_bytes()), Some(floor), "{text:?}");
    }
    let refused = [
        "",
        "\n",
        "%",
        "-1",
        "+1",
        "1 %",
        "101%",
        "256%",
        "4294967296",
        "18446744073709551616%",
        "1M",
        "10%%",
        "10%\n\n",
        " 10%",
        "0x10",
        "10.5%",
    ];
    for text in refused {
        assert_eq!(Floor::parse(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn floors_are_written_as_they_are_read() {
    for text in ["0", "512", "0%", "100%"] {
        assert_eq!(Floor::parse(text.as_bytes()).unwrap().to_string(), text);
    }
}

#[test]
fn floors_count_pages_without_overflow() {
    assert_eq!(Floor::Mib(3).pages(0), 768);
    assert_eq!(Floor::Mib(u32::MAX).pages(0), u64::from(u32::MAX) * 256);
    assert_eq!(Floor::Percent(100).pages(12_345), 12_345);
    assert_eq!(Floor::Percent(1).pages(199), 1);
    assert!(Floor::Percent(0).is_off() && Floor::OFF.is_off());
}

#[test]
fn without_a_floor_nothing_is_held_or_counted() {
    let mut promise = Promise::new();
    for second in 0..5 {
        assert_eq!(
            promise.review(second, second * 1000, Memory::default()),
            None
        );
    }
    assert!(!promise.is_held());
    assert_eq!(promise.worst(), 0);
}

#[test]
fn merging_is_held_below_the_floor_and_goes_on_at_it() {
    let mut promise = promise(Floor::Mib(1));
    let with = |available| Memory {
        available,
        ..PLENTY
    };
    let balance = |available| {
        Some(Balance {
            available,
            wanted: 256,
        })
    };
    assert_eq!(promise.review(0, 0, with(256)), None);
    assert_eq!(promise.review(0, 0, with(255)), balance(255));
    assert_eq!(
        promise.review(0, 0, with(10)),
        None,
        "a decision is told once"
    );
    assert!(promise.is_held());
    assert_eq!(promise.review(0, 0, with(256)), balance(256));
    assert!(!promise.is_held());
}

#[test]
fn swap_counts_if_wanted() {
    let mut promise = promise(Floor::Percent(50));
    let memory = Memory {
        total: 1000,
        available: 300,
        free_swap: 200,
    };
    promise.review(0, 0, memory);
    assert!(promise.is_held());
    promise.set_swap_counted(true);
    promise.review(0, 0, memory);
    assert!(!promise.is_held());
}

#[test]
fn a_new_floor_forgets_the_worst_minute_and_keeps_the_rule_for_swap() {
    let mut promise = promise(Floor::Mib(1));
    promise.set_swap_counted(true);
    promise.review(0, 0, PLENTY);
    promise.review(1, 7, PLENTY);
    assert_eq!(promise.worst(), 7);
    promise.set_floor(Floor::Mib(1));
    promise.review(2, 9, PLENTY);
    assert_eq!(promise.worst(), 0);
    assert!(promise.is_swap_counted());
}

#[test]
fn copies_before_the_first_review_do_not_count() {
    assert_eq!(worst(&[(5, 1_000_000)]), 0);
}

#[test]
fn a_minute_ends_after_sixty_seconds() {
    assert_eq!(worst(&[(0, 0), (1, 10), (60, 30)]), 30);
    assert_eq!(worst(&[(0, 0), (1, 10), (61, 30)]), 20);
    assert_eq!(worst(&[(0, 0), (1, 10), (2, 20), (61, 25)]), 20);
}

#[test]
fn the_worst_minute_is_kept() {
    assert_eq!(worst(&[(0, 0), (1, 100), (200, 101), (400, 102)]), 100);
}

#[test]
fn a_longer_time_counts_as_its_average_minute() {
    assert_eq!(worst(&[(0, 0), (600, 1000)]), 100);
}

#[test]
fn counts_that_fall_are_no_copies() {
    assert_eq!(worst(&[(0, 1000), (1, 10), (2, 15)]), 5);
}

proptest! {
    /// Compares with a sum over all notes.
    #[test]
    fn the_worst_minute_is_the_largest_sum(steps in vec((0u64..=20, 0u64..1000), 1..200)) {
        let (mut second, mut copies) = (0, 0);
        let mut notes = vec![(0, 0)];
        for (passed, new) in steps {
            second += passed;
            copies += new;
            notes.push((second, copies));
        }
        let in_minute_before = |end: u64| -> u64 {
            let pairs = notes.windows(2).filter(|pair| pair[1].0 <= end && pair[1].0 + 60 > end);
            pairs.map(|pair| pair[1].1 - pair[0].1).sum()
        };
        let expected = notes.iter().map(|&(end, _)| in_minute_before(end)).max();
        prop_assert_eq!(Some(worst(&notes)), expected);
    }
}
