// SPDX-License-Identifier: GPL-2.0

//! Tests of pacing. They simulate a scanner that always wants to run, and rests as it is told.

use engine::pace::Account;
use engine::pace::Cause;
use engine::pace::Clocks;
use engine::pace::Governor;
use engine::pace::Pacer;
use engine::pace::Totals;
use proptest::collection::vec;
use proptest::prelude::ProptestConfig;
use proptest::prop_assert;
use proptest::proptest;

const MS: u64 = 1_000_000;

/// Runs for `bursts`, each followed by the rest that the pacer asks for and `late` more. Returns the
/// clocks.
fn run(pacer: &Pacer, bursts: &[u64], late: u64) -> Clocks {
    let (mut account, mut clocks) = (Account::default(), Clocks::default());
    account.rest(pacer, clocks);
    for burst in bursts {
        clocks.now += burst;
        clocks.ran += burst;
        let rest = account.rest(pacer, clocks);
        if rest > 0 {
            clocks.now += rest + late;
        }
    }
    clocks
}

fn paced(percent: u8) -> Pacer {
    let mut pacer = Pacer::new();
    pacer.set_max_cpu(percent);
    pacer
}

#[test]
fn there_is_no_limit_by_default() {
    let pacer = Pacer::new();
    assert_eq!((pacer.max_cpu(), pacer.share()), (100, 100));
    let clocks = run(&pacer, &[MS; 1000], 0);
    assert_eq!(clocks.now, clocks.ran);
}

#[test]
fn limits_out_of_range_become_the_nearest() {
    assert_eq!(paced(0).max_cpu(), 1);
    assert_eq!(paced(101).max_cpu(), 100);
    assert_eq!(paced(37).max_cpu(), 37);
}

#[test]
fn the_whole_share_is_used() {
    for percent in [1, 10, 50, 99] {
        let clocks = run(&paced(percent), &[MS / 4; 20_000], 0);
        let share = clocks.ran as f64 / clocks.now as f64 * 100.0;
        let off = (share - f64::from(percent)).abs() / f64::from(percent);
        assert!(off < 0.02, "{percent}: {share}");
    }
}

/// A machine that slept for a year must not make up for it.
#[test]
fn little_is_saved_up_while_nothing_runs() {
    let (pacer, mut account) = (paced(50), Account::default());
    account.rest(&pacer, Clocks::default());
    let mut clocks = Clocks {
        now: 365 * 24 * 3600 * 1000 * MS,
        ran: 0,
    };
    account.rest(&pacer, clocks);
    let start = clocks;
    while account.rest(&pacer, clocks) == 0 {
        clocks.now += MS;
        clocks.ran += MS;
    }
    assert!(clocks.ran - start.ran <= 30 * MS);
}

#[test]
fn a_new_limit_forgives_what_is_owed() {
    let (mut pacer, mut account) = (paced(1), Account::default());
    account.rest(&pacer, Clocks::default());
    let clocks = Clocks {
        now: 1000 * MS,
        ran: 1000 * MS,
    };
    assert!(account.rest(&pacer, clocks) > 90_000 * MS);
    pacer.set_max_cpu(50);
    assert_eq!(account.rest(&pacer, clocks), 0);
}

#[test]
fn each_thread_has_the_whole_share() {
    let (pacer, mut accounts) = (paced(10), [Account::default(); 2]);
    let busy = Clocks {
        now: 1000 * MS,
        ran: 100 * MS,
    };
    for account in &mut accounts {
        account.rest(&pacer, Clocks::default());
        assert_eq!(account.rest(&pacer, busy), 0);
    }
    let idle = Clocks {
        now: 1100 * MS,
        ran: 100 * MS,
    };
    let busier = Clocks {
        now: 1100 * MS,
        ran: 200 * MS,
    };
    assert_eq!(accounts[0].rest(&pacer, idle), 0);
    assert!(accounts[1].rest(&pacer, busier) > 0);
}

#[test]
fn clocks_that_go_back_do_no_harm() {
    let (pacer, mut account) = (paced(50), Account::default());
    let late = Clocks {
        now: u64::MAX,
        ran: u64::MAX,
    };
    assert_eq!(account.rest(&pacer, late), 0);
    assert_eq!(account.rest(&pacer, Clocks::default()), 0);
    account.rest(&pacer, late);
}

#[test]
fn the_governor_follows_what_merging_brings() {
    let mut pacer = Pacer::new();
    pacer.set_governor(Governor::Auto);
    assert_eq!(pacer.share(), 5);
    let mut totals = Totals::default();
    let mut pass = |pacer: &mut Pacer, merged: u64, is_memory_short: bool| {
        totals.scanned += 10_000;
        totals.merged += merged;
        pacer.end_pass(totals, is_memory_short);
        pacer.share()
    };
    assert_eq!(pass(&mut pacer, 100, false), 10);
    assert_eq!(pass(&mut pacer, 5000, false), 20);
    assert_eq!(pass(&mut pacer, 99, false), 20);
    assert_eq!(pass(&mut pacer, 10, false), 20);
    assert_eq!(pass(&mut pacer, 9, false), 10);
    assert_eq!(pass(&mut pacer, 9, true), 20);
    assert_eq!(pass(&mut pacer, 0, true), 10);
    for share in [5, 2, 1, 1] {
        assert_eq!(pass(&mut pacer, 0, false), share);
    }
    for share in [2, 4, 8, 16, 32, 64, 100, 100] {
        assert_eq!(pass(&mut pacer, 5000, false), share);
    }
}

#[test]
fn a_review_says_what_a_pass_brought_and_why_the_share_is_what_it_is() {
    let mut pacer = Pacer::new();
    let mut totals = Totals::default();
    for (merged, is_memory_short, cause) in [
        (100, false, Cause::Rich),
        (100, true, Cause::Rich),
        (99, false, Cause::Steady),
        (99, true, Cause::Short),
        (1, true, Cause::Short),
        (10, false, Cause::Steady),
        (9, false, Cause::Poor),
        (0, true, Cause::Poor),
    ] {
        let scanned = 10_000;
        totals.scanned += scanned;
        totals.merged += merged;
        let review = pacer.end_pass(totals, is_memory_short);
        assert_eq!(review.pass, Totals { scanned, merged });
        assert_eq!(review.cause, cause, "{merged}, {is_memory_short}");
    }
}

#[test]
fn the_governor_stays_below_the_limit() {
    let mut pacer = paced(12);
    pacer.set_governor(Governor::Auto);
    for merged in 1..10 {
        let scanned = merged;
        pacer.end_pass(Totals { scanned, merged }, false);
        assert!(pacer.share() <= 12);
    }
    assert_eq!(pacer.share(), 12);
    pacer.set_max_cpu(3);
    assert_eq!(pacer.share(), 3);
}

#[test]
fn a_pass_over_nothing_slows_down() {
    let mut pacer = Pacer::new();
    pacer.set_governor(Governor::Auto);
    pacer.end_pass(Totals::default(), true);
    assert_eq!(pacer.share(), 2);
}

#[test]
fn by_hand_the_governor_has_no_say() {
    let mut pacer = Pacer::new();
    assert_eq!(pacer.governor(), Governor::Manual);
    pacer.end_pass(Totals::default(), false);
    assert_eq!(pacer.share(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Apart from one burst that has begun, and the saved credit.
    #[test]
    fn the_share_is_never_exceeded(
        percent in 1..=99u8,
        bursts in vec(0..40 * MS, 1..500),
        late in 0..20 * MS,
    ) {
        let clocks = run(&paced(percent), &bursts, late);
        let slack = 40 * MS + 12 * MS;
        prop_assert!(clocks.ran <= clocks.now * u64::from(percent) / 100 + slack);
    }
}
