// SPDX-License-Identifier: GPL-2.0

//! Programs that record the module's events, with the commands from Documentation/tracing.md.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::process::peer::Peer;
use guest::process::program;
use guest::process::program::Daemon;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

use crate::suites::tracing;
use crate::suites::tracing::PAGES;

pub const TESTS: &[Test] = tests![
    perf_records_the_events,
    trace_cmd_records_the_events,
    bpftrace_runs_the_documented_script,
];

/// A recorder may take long to start and to write its data.
const TIMEOUT: Duration = task::PATIENCE;

/// The command that a recorder runs: it signals that recording has begun, and ends when it is told to.
const WORK: &str = "touch begun; until [ -e enough ]; do sleep 0.1; done\n";

/// Runs `recorder` while the pages of two processes are merged and those of the first are written to.
/// Returns the processes and the recorder's output.
fn record(lab: &Lab, name: &str, recorder: &mut Command) -> Result<([Peer; 2], String)> {
    for file in ["begun", "enough"] {
        let _ = fs::remove_file(file);
    }
    fs::write("work", WORK).context(|| "work")?;
    let mut peers = tracing::only(lab, 2, tracing::IDS)?;
    let daemon = Daemon::start(name, recorder)?;
    let begun = task::wait_until(TIMEOUT, || Path::new("begun").exists());
    expect::that(begun, || {
        format!("{name} records nothing: {}", daemon.output())
    })?;
    scanner::merge()?;
    let (first, span) = &peers[0];
    first.fill(*span, Ids::each(7000))?;
    fs::write("enough", "").context(|| "enough")?;
    daemon.finish(TIMEOUT)?;
    let text = fs::read_to_string(format!("{name}.log")).context(|| name)?;
    let (second, _) = peers.remove(1);
    let (first, _) = peers.remove(0);
    Ok(([first, second], text))
}

/// Expects one event for each merged page, and one for each written page.
fn expect_events([first, second]: &[Peer; 2], count: impl Fn(&str, i32) -> u64) -> Result {
    for (peer, event, pages) in [
        (first, "merge", PAGES),
        (second, "merge", PAGES),
        (first, "break", PAGES),
        (second, "break", 0),
    ] {
        let pid = peer.pid();
        expect::eq(format!("events {event} of {pid}"), pages, count(event, pid))?;
    }
    Ok(())
}

/// The number of lines about an event of a process, in the format of perf and trace-cmd.
fn lines(text: &str, event: &str, pid: i32) -> u64 {
    let (event, tgid) = (format!("ksm_v_{event}:"), format!("tgid={pid} "));
    let is_wanted = |line: &&str| line.contains(&event) && line.contains(&tgid);
    text.lines().filter(is_wanted).count() as u64
}

fn perf_records_the_events(lab: &Lab) -> Result {
    let mut command = program::command("perf record -a -e ksm_v:* sh work");
    let (peers, _) = record(lab, "perf", &mut command)?;
    let text = program::output(&mut program::command("perf script"))?;
    expect_events(&peers, |event, pid| lines(&text, event, pid))
}

fn trace_cmd_records_the_events(lab: &Lab) -> Result {
    let mut command = program::command("trace-cmd record -e ksm_v sh work");
    let (peers, _) = record(lab, "trace-cmd", &mut command)?;
    let text = program::output(&mut program::command("trace-cmd report"))?;
    expect_events(&peers, |event, pid| lines(&text, event, pid))
}

/// The script in the document.
fn script() -> Option<&'static str> {
    let document = include_str!("../../../../../Documentation/tracing.md");
    let from = &document[document.find("```\nBEGIN\n")? + 4..];
    Some(&from[..from.find("```")?])
}

/// The number in a line like `@merged[118]: 32`.
fn value(text: &str, map: &str, pid: i32) -> u64 {
    let key = format!("@{map}[{pid}]: ");
    let mut values = text.lines().filter_map(|line| line.strip_prefix(&key));
    values
        .next()
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

fn bpftrace_runs_the_documented_script(lab: &Lab) -> Result {
    let script = script().ok_or("expected a script in the document, found none")?;
    fs::write("script.bt", script).context(|| "script.bt")?;
    let mut command = program::command("bpftrace -c");
    let (peers, text) = record(lab, "bpftrace", command.arg("sh work").arg("script.bt"))?;
    expect_events(&peers, |event, pid| {
        let map = if event == "merge" { "merged" } else { "broken" };
        value(&text, map, pid)
    })?;
    let passes = text
        .lines()
        .filter(|line| line.starts_with("pass "))
        .count();
    expect::that(passes > 0, || format!("expected passes, found {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_their_whole_name_and_process() {
        let text = "a 1 [0] 1.0: ksm_v:ksm_v_merge: tgid=11 mm=0x1\n\
                    a 1 [0] 1.0: ksm_v:ksm_v_merge_zero: tgid=11 mm=0x1\n\
                    a-1 [0] 1.0: ksm_v_merge:     tgid=1 mm=0x1\n";
        assert_eq!(lines(text, "merge", 11), 1);
        assert_eq!(lines(text, "merge", 1), 1);
        assert_eq!(lines(text, "break", 1), 0);
    }

    #[test]
    fn values_of_maps_are_found_by_their_keys() {
        let text = "@merged[118]: 32\n@merged[11]: 3\n";
        assert_eq!(value(text, "merged", 11), 3);
        assert_eq!(value(text, "broken", 11), 0);
    }

    #[test]
    fn the_document_has_a_script() {
        assert!(script().is_some_and(|script| script.ends_with("}\n")));
    }
}
