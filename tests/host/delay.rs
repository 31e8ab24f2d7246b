// SPDX-License-Identifier: GPL-2.0

//! Tests of how long a pass waits for locked VMAs.

use engine::delay::Delays;

/// The pauses for one place that stays locked.
fn pauses(delays: &mut Delays) -> Vec<u32> {
    (0..=u8::MAX)
        .map_while(|times| delays.put_off(times))
        .collect()
}

#[test]
fn the_pauses_for_a_place_double_up_to_an_eighth_of_a_second_in_all() {
    assert_eq!(
        pauses(&mut Delays::default()),
        [1, 2, 4, 8, 16, 32, 64],
        "milliseconds"
    );
}

#[test]
fn many_places_together_delay_a_pass_by_a_quarter_of_a_second() {
    let mut delays = Delays::default();
    let waited: u32 = (0..1000).flat_map(|_| pauses(&mut delays)).sum();
    assert_eq!(waited, 256, "milliseconds");
    assert_eq!(delays.put_off(0), None);
}

#[test]
fn a_place_is_not_worth_more_because_another_one_was_not() {
    let mut delays = Delays::default();
    assert_eq!(delays.put_off(7), None);
    assert_eq!(delays.put_off(u8::MAX), None);
    assert_eq!(delays.put_off(0), Some(1));
}
