// SPDX-License-Identifier: GPL-2.0

//! Tests of the module in a guest.
//!
//! usage: `ksm_v_guest_tests SUITE [OPTION]... [FILTER]`, with the options of libtest; the suite
//! `all` stands for all suites. Must run as root in a directory with `ksm_v.ko`. `KSM_V_SEED` replays
//! random tests.

use std::process::ExitCode;

use guest::process::peer;
use guest::process::peer::server;
use guest::rng;
use libtest_mimic::Arguments;
use libtest_mimic::ColorSetting;
use libtest_mimic::Trial;

mod suites;

/// The name of a suite and the function that returns its tests.
type Suite = (&'static str, fn() -> Vec<Trial>);

const SUITES: &[Suite] = &[
    ("control", suites::control::trials),
    ("compat", suites::compat::trials),
    ("merge", suites::merge::trials),
    ("scalar", suites::merge::scalar_trials),
    ("cow", suites::cow::trials),
    ("unmerge", suites::unmerge::trials),
    ("reload", suites::reload::trials),
    ("movable", suites::movable::trials),
    ("left_alone", suites::left_alone::trials),
    ("survive", suites::survive::trials),
    ("tracing", suites::tracing::trials),
    ("security", suites::security::trials),
    ("fork", suites::fork::trials),
    ("device", suites::device::trials),
    ("inject", suites::inject::trials),
    ("kvm", suites::kvm::trials),
    ("flood", suites::security_flood::trials),
    ("lockdown", suites::security_lockdown::trials),
    ("locked", suites::security_lockdown::locked_trials),
    ("tools", suites::tools::trials),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(server::NOTHING) => ExitCode::SUCCESS,
        Some(server::ARGUMENT) => server::main(&arguments[2]),
        Some(name) => run_suite(name, &arguments[1..]),
        None => usage("no suite given"),
    }
}

fn usage(why: &str) -> ExitCode {
    let names: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
    eprintln!("{why}; suites: all, {}", names.join(", "));
    ExitCode::from(2)
}

fn run_suite(name: &str, arguments: &[String]) -> ExitCode {
    let trials: Vec<Trial> = SUITES
        .iter()
        .filter(|(suite, _)| name == "all" || name == *suite)
        .flat_map(|(_, trials)| trials())
        .collect();
    if trials.is_empty() {
        return usage(&format!("unknown suite {name:?}"));
    }
    if let Err(error) = peer::prepare() {
        eprintln!("the tests must run as root: {error}");
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_iter(arguments);
    // All tests share the module and its knobs, so they run one at a time.
    arguments.test_threads = Some(1);
    // Programs read the output, too, although the guest's serial port is a terminal.
    arguments.color = arguments.color.or(Some(ColorSetting::Never));
    println!("KSM_V_SEED={}", rng::seed());
    libtest_mimic::run(&arguments, trials).exit_code()
}
