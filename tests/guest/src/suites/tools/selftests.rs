// SPDX-License-Identifier: GPL-2.0

//! The kernel's KSM selftests (tools/testing/selftests/mm), built unchanged.

use guest::expect;
use guest::ksm_v::mainline::Mainline;
use guest::ksm_v::mainline::Server;
use guest::lab::Lab;
use guest::lab::TestOf;
use guest::process::program;
use guest::process::program::Outcome;
use guest::tests;
use guest::Result;

pub const TESTS: &[TestOf<Server>] = &[
    ("selftest_merge", |_, server| ksm_tests(server, "-M -p 10")),
    ("selftest_merge_many", |_, server| {
        ksm_tests(server, "-M -p 1000")
    }),
    ("selftest_merge_registered_by_prctl", |_, server| {
        ksm_tests(server, "-M -p 10 -t 1")
    }),
    ("selftest_unmerge", |_, server| ksm_tests(server, "-U")),
    ("selftest_zero_pages_as_others", |_, server| {
        ksm_tests(server, "-Z -p 10 -z 0")
    }),
    ("selftest_zero_pages", |_, server| {
        ksm_tests(server, "-Z -p 10 -z 1")
    }),
    ("selftest_merge_across_nodes", |_, server| {
        ksm_tests(server, "-N -m 1")
    }),
    ("selftest_merge_within_nodes", |_, server| {
        ksm_tests(server, "-N -m 0")
    }),
    ("selftest_merging_time", |_, server| {
        ksm_tests(server, "-P -s 20")
    }),
    ("selftest_merging_time_of_huge_pages", |_, server| {
        ksm_tests(server, "-H -s 20")
    }),
    ("selftest_unmerging_time", |_, server| {
        ksm_tests(server, "-D -s 20")
    }),
    ("selftest_time_of_copies", |_, server| {
        ksm_tests(server, "-C")
    }),
    // The same test as `selftest_functional`, but it finds merged pages by itself
    // (`tests/selftests/merged_pages.c`).
    ("selftest_functional_by_smaps", |_, server| {
        let place = format!("{PLACE}/by_smaps");
        expect_pass(server, &place, "./ksm_functional_tests")
    }),
];

/// A test that passes only with ksmd: the module does not maintain `/proc/PID/ksm_merging_pages`.
pub const TESTS_OF_KSMD: &[TestOf<Server>] = tests![selftest_functional];

/// The directory to which `scripts/test` copies the programs.
const PLACE: &str = "/run/selftests";

/// The exit status is 0 if the test passed, and 4 if it was skipped.
fn ksm_tests(server: Server, arguments: &str) -> Result {
    expect_pass(server, PLACE, &format!("./ksm_tests {arguments}"))
}

fn selftest_functional(_: &Lab, server: Server) -> Result {
    expect_pass(server, PLACE, "./ksm_functional_tests")
}

fn expect_pass(server: Server, directory: &str, line: &str) -> Result {
    let _ksm = Mainline::of(server)?;
    let attempt = || program::run(program::command(line).current_dir(directory));
    let mut outcome = attempt()?;
    // One of the tests once failed with ksmd while the machine was busy. This does not concern the
    // module.
    if server == Server::Ksmd && outcome.status == Some(1) {
        outcome = attempt()?;
    }
    let Outcome { status, text } = outcome;
    expect::that(status == Some(0) && !text.contains("# SKIP"), || {
        format!("{line} ended with status {status:?}: {text}")
    })
}
