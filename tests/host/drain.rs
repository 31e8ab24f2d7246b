// SPDX-License-Identifier: GPL-2.0

//! Tests of when the LRU batches are drained.

use engine::drain::Drains;

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

#[test]
fn the_first_pass_begins_with_it() {
    assert!(Drains::default().begin_pass(0, 0));
}

#[test]
fn short_passes_begin_with_it_once_a_second() {
    let mut drains = Drains::default();
    let count = (0..1000).filter(|pass| drains.begin_pass(pass * 10 * MS, 0));
    assert_eq!(count.count(), 10);
}

#[test]
fn long_passes_all_begin_with_it() {
    let mut drains = Drains::default();
    assert!((0..100).all(|pass| drains.begin_pass(pass * S, 0)));
}

#[test]
fn the_pass_after_a_refusal_begins_with_it() {
    let mut drains = Drains::default();
    drains.begin_pass(0, 7);
    assert!(!drains.begin_pass(MS, 7));
    assert!(drains.begin_pass(2 * MS, 8));
    assert!(!drains.begin_pass(3 * MS, 8));
}

#[test]
fn whoever_is_in_a_hurry_need_not_wait() {
    let mut drains = Drains::default();
    drains.begin_pass(0, 0);
    drains.hurry();
    assert!(drains.begin_pass(MS, 0));
    assert!(!drains.begin_pass(2 * MS, 0));
}
