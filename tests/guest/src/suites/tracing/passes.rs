// SPDX-License-Identifier: GPL-2.0

//! Passes, and the governor's choices after them.

use std::time::Instant;

use guest::expect;
use guest::ksm_v::events::Event;
use guest::ksm_v::events::Recorder;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::process::peer::Kind;
use guest::process::task;
use guest::tests;
use guest::Result;

use super::only;
use super::IDS;
use super::PAGES;

pub(super) const TESTS: &[Test] = tests![
    a_pass_begins_and_ends_with_its_number,
    the_end_of_a_pass_says_what_it_brought,
    the_governor_says_why_it_chooses_a_share,
    without_a_governor_no_share_is_chosen,
    short_passes_leave_other_cpus_alone,
];

fn named<'a>(events: &'a [Event], name: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.name == name).collect()
}

fn a_pass_begins_and_ends_with_its_number(lab: &Lab) -> Result {
    let _peers = only(lab, 2, IDS)?;
    // Completes a pass that was interrupted before.
    scanner::scan(1)?;
    let recorder = Recorder::start()?;
    let first = knob::number("full_scans")? as i64;
    scanner::scan(3)?;
    let events = recorder.events()?;
    let last = knob::number("full_scans")? as i64;
    let mut running = None;
    let mut ended = Vec::new();
    for event in &events {
        match event.name.as_str() {
            "start_scan" => running = Some(event.number("pass")?),
            "stop_scan" => {
                let pass = event.number("pass")?;
                // Only the first pass may have begun before the recording.
                if running.is_some() || !ended.is_empty() {
                    expect::eq("the pass that ends", Some(pass), running.take())?;
                }
                ended.push(pass);
            }
            _ => {}
        }
    }
    expect::eq("passes that ended", (first + 1..=last).collect(), ended)
}

fn the_end_of_a_pass_says_what_it_brought(lab: &Lab) -> Result {
    let _peers = only(lab, 3, IDS)?;
    let recorder = Recorder::start()?;
    scanner::scan(5)?;
    let events = recorder.events()?;
    let counts = scanner::expect_exact_counts("after five passes")?;
    let ends = named(&events, "stop_scan");
    let mut merged = 0;
    for end in &ends {
        merged += end.number("merged")?;
    }
    expect::eq(
        "pages merged in all passes",
        named(&events, "merge").len() as i64,
        merged,
    )?;
    let last = ends.last().ok_or("expected passes, found none")?;
    expect::eq(
        "pages that the last pass scanned",
        3 * PAGES as i64,
        last.number("scanned")?,
    )?;
    expect::eq("pages that the last pass merged", 0, last.number("merged")?)?;
    expect::eq("pages_shared", counts.shared as i64, last.number("shared")?)?;
    expect::eq(
        "pages_sharing",
        counts.sharing as i64,
        last.number("sharing")?,
    )
}

/// The CPU share that follows.
fn next_share(previous: i64, cause: &str) -> i64 {
    match cause {
        "rich" | "short" => (2 * previous).min(100),
        "poor" => (previous / 2).max(1),
        _ => previous,
    }
}

fn the_governor_says_why_it_chooses_a_share(lab: &Lab) -> Result {
    let _peers = only(lab, 3, IDS)?;
    let recorder = Recorder::start()?;
    knob::set("governor", "auto")?;
    scanner::scan(6)?;
    let events = recorder.events()?;
    let choices = named(&events, "pace");
    let ends = named(&events, "stop_scan");
    expect::eq("choices, one for each pass", ends.len(), choices.len())?;
    let mut causes = Vec::new();
    for (choice, end) in choices.iter().zip(&ends) {
        expect::eq("pass", end.number("pass")?, choice.number("pass")?)?;
        let (merged, scanned) = (end.number("merged")?, end.number("scanned")?);
        let cause = match choice.text("cause")? {
            // Memory may be short at any time.
            "short" if merged > 0 => "short",
            _ if merged * 100 >= scanned.max(1) => "rich",
            _ if merged * 1000 >= scanned.max(1) => "steady",
            _ => "poor",
        };
        expect::eq(format!("cause, of {end:?}"), cause, choice.text("cause")?)?;
        let expected = next_share(choice.number("previous")?, cause);
        expect::eq(
            format!("share, by {choice:?}"),
            expected,
            choice.number("share")?,
        )?;
        causes.push(cause);
    }
    expect::that(causes.contains(&"rich") && causes.contains(&"poor"), || {
        format!("causes: expected a rich and a poor pass, found {causes:?}")
    })
}

fn without_a_governor_no_share_is_chosen(lab: &Lab) -> Result {
    let _peers = only(lab, 2, IDS)?;
    let recorder = Recorder::start()?;
    scanner::merge()?;
    let events = recorder.events()?;
    expect::that(!named(&events, "stop_scan").is_empty(), || {
        "expected passes, found none"
    })?;
    expect::eq("shares chosen", 0, named(&events, "pace").len())
}

/// New pages wait in a batch of the CPU that faulted them in. Passes over other memory must not drain
/// these batches: the worker that drains them would take CPU time from the task.
fn short_passes_leave_other_cpus_alone(lab: &Lab) -> Result {
    const LEAST_PASSES: u64 = 100;
    // No other memory is in scope, and no two pages are equal.
    let _peers = only(lab, 1, IDS)?;
    let other = lab.alice()?;
    scanner::start()?;
    scanner::wait_passes(2)?;
    let is_drain = "function.function == lru_add_drain_per_cpu";
    let recorder = Recorder::of_kernel("workqueue/workqueue_execute_start", is_drain)?;
    let (start, first) = (Instant::now(), knob::number("full_scans")?);
    let passes = || knob::number("full_scans").map(|now| now - first);
    // At most once a second on each CPU; a pass may begin within a second.
    let most = || 2 * (start.elapsed().as_secs() + 1);
    // Many more passes than that, if the machine has the CPU time.
    let is_enough = |passes: u64| {
        passes >= LEAST_PASSES.max(10 * most()) || start.elapsed() > task::PATIENCE / 10
    };
    while !is_enough(passes()?) {
        let fresh = other.filled(Kind::Anon, 8, IDS)?;
        other.unmap(fresh)?;
    }
    let (passes, count) = (passes()?, recorder.count()? as u64);
    scanner::stop()?;
    let most = most();
    expect::that(count <= most, || {
        format!(
            "expected batches to be drained {most} times at most, found {count} in {passes} passes"
        )
    })
}
