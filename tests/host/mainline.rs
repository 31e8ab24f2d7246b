// SPDX-License-Identifier: GPL-2.0

//! Tests of mainline's settings and counts, and of its advisor against a transcript of the formulas in
//! `mm/ksm.c`.

use engine::advisor::Advisor;
use engine::advisor::Mode;
use engine::advisor::Pass;
use engine::knobs::MOST_PAGE_SHARING;
use engine::mainline::general_profit;
use engine::mainline::Advised;
use engine::mainline::MainlineSettings;
use engine::mainline::Passes;
use engine::KsmStats;
use engine::PAGE_SIZE;
use proptest::collection::vec;
use proptest::prelude::ProptestConfig;
use proptest::prop_assert_eq;
use proptest::proptest;

const S: u64 = 1_000_000_000;

fn advisor(target_scan_time: u64, max_cpu: u32, max_pages: u64) -> Advisor {
    let mut advisor = Advisor::default();
    advisor.set_target_scan_time(target_scan_time);
    advisor.max_cpu = max_cpu;
    advisor.max_pages_to_scan = max_pages;
    advisor
}

/// `struct advisor_ctx`, and the other values that `scan_time_advisor()` reads and writes.
#[derive(Default)]
struct Ctx {
    scan_time: u64,
    change: u64,
    cpu_time: u64,
}

/// `scan_time_advisor()`, line by line.
fn scan_time_advisor(ctx: &mut Ctx, advisor: &Advisor, pages_to_scan: u64, pass: Pass) -> u64 {
    let or_1 = |number: u64| if number == 0 { 1 } else { number };
    let scan_time = or_1(pass.took_ns / 1_000_000 / 1000);
    let cpu_time = pass.cpu_ns;
    let cpu_time_diff_ms = (cpu_time - ctx.cpu_time) / 1000 / 1000;
    let cpu_percent = or_1((cpu_time_diff_ms * 100) / (scan_time * 1000));
    let last_scan_time = if ctx.scan_time == 0 {
        scan_time
    } else {
        ctx.scan_time
    };
    let factor = or_1(advisor.target_scan_time() * 100 / scan_time);
    let change = or_1(scan_time * 100 / last_scan_time);
    let change = ((100 - 30) * ctx.change + 30 * change) / 100;
    let mut pages = pages_to_scan * 100 / factor;
    pages = pages * change / 100;
    let per_page_cost = or_1(pages_to_scan / cpu_percent);
    pages = pages.min(per_page_cost * u64::from(advisor.max_cpu));
    pages = pages.max(per_page_cost * 10);
    pages = pages.min(advisor.max_pages_to_scan);
    *ctx = Ctx {
        scan_time,
        change,
        cpu_time,
    };
    pages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_advisor_says_what_mainlines_says(
        passes in vec((0..2000 * S, 0..100u64), 1..12),
        target in 1..5000u64,
        max_cpu in 0..200u32,
        max_pages in 1..100_000u64,
        first in 0..50_000u32,
    ) {
        let mut advisor = advisor(target, max_cpu, max_pages);
        let (mut ctx, mut cpu_ns, mut pages) = (Ctx::default(), 0, first);
        for (took_ns, percent) in passes {
            cpu_ns += took_ns / 100 * percent;
            let pass = Pass { took_ns, cpu_ns };
            let expected = scan_time_advisor(&mut ctx, &advisor, pages.into(), pass);
            pages = advisor.advise(pages, pass);
            prop_assert_eq!(u64::from(pages), expected);
        }
    }
}

#[test]
fn the_advisor_survives_any_number() {
    let numbers = [0, 1, u64::MAX / 100, u64::MAX];
    for target in numbers {
        for max_pages in numbers {
            for took_ns in numbers {
                for cpu_ns in numbers {
                    let mut advisor = advisor(target, u32::MAX, max_pages);
                    for pages in [0, 1, u32::MAX] {
                        advisor.advise(pages, Pass { took_ns, cpu_ns });
                    }
                }
            }
        }
    }
}

#[test]
fn the_advisor_takes_over_pages_to_scan() {
    let mut mainline = MainlineSettings::default();
    assert_eq!(mainline.pages_to_scan(), 100);
    assert_eq!(mainline.set_pages_to_scan(7), Ok(()));
    let pass = Pass {
        took_ns: 100 * S,
        cpu_ns: S,
    };
    mainline.end_pass(pass);
    assert_eq!(mainline.pages_to_scan(), 7, "without an advisor");
    mainline.advisor.min_pages_to_scan = 600;
    mainline.set_advisor_mode(Mode::ScanTime);
    assert_eq!(mainline.pages_to_scan(), 600);
    assert_eq!(mainline.set_pages_to_scan(7), Err(Advised));
    mainline.end_pass(pass);
    let advised = mainline.pages_to_scan();
    assert_ne!(advised, 600);
    mainline.set_advisor_mode(Mode::ScanTime);
    assert_eq!(mainline.pages_to_scan(), advised, "no change");
    mainline.set_advisor_mode(Mode::None);
    assert_eq!(mainline.pages_to_scan(), 100);
}

#[test]
fn what_was_known_of_passes_is_forgotten_with_the_mode() {
    let pass = Pass {
        took_ns: 100 * S,
        cpu_ns: S,
    };
    let mut advised = MainlineSettings::default();
    for _ in 0..2 {
        advised.set_advisor_mode(Mode::ScanTime);
        advised.end_pass(pass);
        assert_eq!(advised.advisor, {
            let mut fresh = MainlineSettings::default();
            fresh.set_advisor_mode(Mode::ScanTime);
            fresh.end_pass(pass);
            fresh.advisor
        });
        advised.set_advisor_mode(Mode::None);
    }
}

#[test]
fn settings_become_those_of_the_engine() {
    let mut mainline = MainlineSettings::default();
    let settings = mainline.engine_settings();
    assert_eq!((settings.scan_rate(), settings.sleep_ms()), (100, 20));
    assert_eq!((settings.promote_after(), settings.max_interval()), (2, 8));
    assert_eq!(settings.max_page_sharing(), 256);
    assert_eq!(mainline.set_pages_to_scan(0), Ok(()));
    mainline.smart_scan = false;
    mainline.set_max_page_sharing(1);
    let settings = mainline.engine_settings();
    assert_eq!((settings.scan_rate(), settings.max_interval()), (0, 1));
    assert_eq!(settings.max_page_sharing(), 2);
    mainline.set_max_page_sharing(u32::MAX);
    assert_eq!(
        mainline.engine_settings().max_page_sharing(),
        MOST_PAGE_SHARING
    );
    assert_eq!(mainline.max_page_sharing(), u32::MAX);
}

fn stats(pages_shared: u64, pages_sharing: u64) -> KsmStats {
    KsmStats {
        pages_shared,
        pages_sharing,
        ..KsmStats::default()
    }
}

#[test]
fn volatile_is_what_was_met_and_is_nothing_else() {
    let mut passes = Passes::default();
    assert_eq!(passes.pages_volatile(0, 0, &stats(0, 0)), 0);
    // The first pass has seen 30 pages so far.
    assert_eq!(passes.pages_volatile(30, 0, &stats(1, 4)), 25);
    assert_eq!((passes.seen(30), passes.last_seen()), (30, 0));
    passes.end_pass(100, true);
    assert_eq!((passes.seen(130), passes.last_seen()), (30, 100));
    assert_eq!(passes.pages_volatile(100, 20, &stats(1, 9)), 70);
    // The second pass has seen fewer so far.
    assert_eq!(passes.pages_volatile(130, 20, &stats(1, 9)), 70);
    passes.end_pass(150, true);
    assert_eq!(passes.pages_volatile(150, 20, &stats(1, 9)), 20);
    // The counts are read at different moments, but the result is never negative.
    assert_eq!(passes.pages_volatile(150, 50, &stats(10, 90)), 0);
    passes.reset(170);
    assert_eq!(passes.pages_volatile(170, 0, &stats(0, 0)), 0);
    assert_eq!(passes.pages_volatile(175, 0, &stats(0, 0)), 5);
}

#[test]
fn passes_count_where_something_was_registered() {
    let mut passes = Passes::default();
    for (is_any_registered, expected) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
        passes.end_pass(0, is_any_registered);
        assert_eq!(passes.full_scans(), expected);
    }
    passes.reset(0);
    assert_eq!(passes.full_scans(), 0);
}

#[test]
fn profit_may_be_a_loss() {
    assert_eq!(general_profit(3, 100), 3 * PAGE_SIZE as i64 - 100);
    assert_eq!(general_profit(0, 100), -100);
    assert_eq!(general_profit(u64::MAX, 0), i64::MAX);
    assert_eq!(general_profit(0, u64::MAX), -i64::MAX);
}
