// SPDX-License-Identifier: GPL-2.0

//! The alerts for Prometheus (`Documentation/ksm_v-alerts.yaml`), by its own tool.

use guest::expect;
use guest::lab::Lab;
use guest::lab::Test;
use guest::process::program;
use guest::tests;
use guest::Result;

pub const TESTS: &[Test] = tests![alerts_fire_as_their_tests_say];

fn alerts_fire_as_their_tests_say(_lab: &Lab) -> Result {
    let text = program::output(&mut program::command("promtool test rules alerts.yaml"))?;
    expect::that(text.contains("SUCCESS"), || text.clone())
}
