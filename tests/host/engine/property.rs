// SPDX-License-Identifier: GPL-2.0

//! Checks a property on random cases, and shrinks a failing case.

use proptest::strategy::Strategy;
use proptest::test_runner::Config;
use proptest::test_runner::TestRunner;

/// Runs `check`, which panics if the property does not hold, on `cases` values of `strategy`.
///
/// Prints the smallest failing value it finds. The value is not stored in a file: it belongs, spelt
/// out, in a test of its own.
pub fn holds<S: Strategy>(cases: u32, strategy: S, check: impl Fn(S::Value)) {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 20_000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&strategy, |value| {
        check(value);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
