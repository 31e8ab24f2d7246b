// SPDX-License-Identifier: GPL-2.0

//! The module's tracepoints, as recorded by tracefs
//! ([`Documentation/trace/events.rst`](https://docs.kernel.org/trace/events.html)).

use std::collections::BTreeMap;
use std::fs;

use crate::expect;
use crate::kernel::procfs;
use crate::Context;
use crate::Result;

/// The directory with the descriptions of the events.
pub const DIR: &str = "/sys/kernel/tracing/events/ksm_v";
/// A separate trace instance, independent of the settings of other instances.
const INSTANCE: &str = "/sys/kernel/tracing/instances/ksm_v_test";
/// Buffer size of the trace instance per CPU: enough for every event of a test.
const BUFFER_KB: &str = "8192";

/// A recorded event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The name of the event, without the prefix `ksm_v_`.
    pub name: String,
    fields: BTreeMap<String, String>,
}

impl Event {
    /// Parses a line of a trace: task, CPU, flags and time, then the name, then the fields, separated
    /// by colons.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(3, ": ").skip(1);
        let name = parts.next()?.strip_prefix("ksm_v_")?.to_owned();
        let fields = parts.next()?.split_whitespace().map(|field| {
            let (name, value) = field.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        let fields = fields.collect::<Option<_>>()?;
        Some(Event { name, fields })
    }

    /// The value of a field as text.
    pub fn text(&self, field: &str) -> Result<&str> {
        let text = self.fields.get(field).map(String::as_str);
        text.ok_or_else(|| format!("{self:?} has no field {field}").into())
    }

    /// The value of a numeric field: decimal, or hexadecimal with `0x`.
    pub fn number(&self, field: &str) -> Result<i64> {
        let text = self.text(field)?;
        let number = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.context(|| format!("{field} of {self:?}"))
    }
}

/// Records events while it exists.
pub struct Recorder(());

impl Recorder {
    /// Starts recording all events of the module.
    pub fn start() -> Result<Self> {
        let recorder = Self::new()?;
        recorder.enable()?;
        Ok(recorder)
    }

    /// Starts recording a kernel event, given as `system/name`, for which `filter` is true.
    pub fn of_kernel(event: &str, filter: &str) -> Result<Self> {
        Self::of_kernel_events(&[(event, filter)])
    }

    /// Like [`Self::of_kernel`], for several events. Their order is right across CPUs.
    pub fn of_kernel_events(events: &[(&str, &str)]) -> Result<Self> {
        let recorder = Self::new()?;
        set("trace_clock", "global")?;
        for (event, filter) in events {
            set(&format!("events/{event}/filter"), filter)?;
            set(&format!("events/{event}/enable"), "1")?;
        }
        Ok(recorder)
    }

    fn new() -> Result<Self> {
        fs::create_dir(INSTANCE).context(|| INSTANCE)?;
        let recorder = Recorder(());
        set("buffer_size_kb", BUFFER_KB)?;
        Ok(recorder)
    }

    /// Records the events of a module that was loaded after the recorder started.
    pub fn enable(&self) -> Result {
        set("events/ksm_v/enable", "1")
    }

    /// The events recorded so far, in order.
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = self.complete()?;
        let lines = event_lines(&text);
        let parse = |line| Event::parse(line).ok_or_else(|| format!("no event: {line:?}").into());
        lines.map(parse).collect()
    }

    /// The events recorded so far, as lines of a trace.
    pub fn lines(&self) -> Result<Vec<String>> {
        Ok(event_lines(&self.complete()?).map(str::to_owned).collect())
    }

    /// The number of events recorded so far.
    pub fn count(&self) -> Result<usize> {
        Ok(event_lines(&self.complete()?).count())
    }

    /// The numbers that follow the text `before` in each line, in order.
    pub fn numbers(&self, before: &str) -> Result<Vec<i64>> {
        let number = |line: &str| -> Option<i64> {
            let rest = &line[line.find(before)? + before.len()..];
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-')?;
            rest[..end].parse().ok()
        };
        event_lines(&self.complete()?)
            .map(|line| number(line).ok_or_else(|| format!("no {before:?} in {line:?}").into()))
            .collect()
    }

    /// The whole trace; fails if events were lost.
    fn complete(&self) -> Result<String> {
        let text = procfs::read(&self.file("trace"))?;
        let (kept, written) = counts(&text).ok_or("trace: expected its counts, found none")?;
        expect::eq(
            "number of events in the buffer, of all written",
            written,
            kept,
        )?;
        Ok(text)
    }

    /// The path of a file of the trace instance.
    pub fn file(&self, name: &str) -> String {
        format!("{INSTANCE}/{name}")
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Removing the directory removes the instance and ends the recording, unless one of its files
        // is open.
        if let Err(error) = fs::remove_dir(INSTANCE) {
            eprintln!("{INSTANCE}: {error}");
        }
    }
}

fn set(file: &str, value: &str) -> Result {
    procfs::write(&format!("{INSTANCE}/{file}"), value)
}

/// The lines of a trace that are events.
fn event_lines(trace: &str) -> impl Iterator<Item = &str> {
    trace.lines().filter(|line| !line.starts_with('#'))
}

/// The number of events in the buffer and the number of events written.
pub(crate) fn counts(trace: &str) -> Option<(u64, u64)> {
    let counts = trace.lines().find_map(|line| {
        line.strip_prefix("# entries-in-buffer/entries-written: ")?
            .split_whitespace()
            .next()
    })?;
    let (kept, written) = counts.split_once('/')?;
    Some((kept.parse().ok()?, written.parse().ok()?))
}

/// The fields of one of the module's events, in order, each with its type.
pub fn format(event: &str) -> Result<Vec<String>> {
    let text = procfs::read(&format!("{DIR}/ksm_v_{event}/format"))?;
    let fields = text.lines().filter_map(|line| {
        let field = line.trim_start().strip_prefix("field:")?;
        let (field, _) = field.split_once(';')?;
        (!field.contains(" common_")).then(|| field.to_owned())
    });
    Ok(fields.collect())
}

/// The names of the module's events.
pub fn names() -> Result<Vec<String>> {
    let entries = fs::read_dir(DIR).context(|| DIR)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter_map(|name| Some(name.strip_prefix("ksm_v_")?.to_owned()))
        .collect();
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_trace_is_an_event() {
        let line = "     ksm_v_scand-118     [001] ...1.    12.690438: \
            ksm_v_merge: tgid=115 mm=00000000324aa5e2 addr=0x5ea000";
        let event = Event::parse(line).unwrap();
        assert_eq!(event.name, "merge");
        assert_eq!(event.number("tgid").unwrap(), 115);
        assert_eq!(event.number("addr").unwrap(), 0x5ea000);
        assert!(event.number("pfn").is_err());
        assert!(Event::parse("# tracer: nop").is_none());
        assert!(Event::parse("a-1 [001] 1.0: sched_switch: prev_pid=1").is_none());
    }

    #[test]
    fn a_trace_says_what_was_lost() {
        let header = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 85/90   #P:2\n";
        assert_eq!(counts(header), Some((85, 90)));
        assert_eq!(counts("# tracer: nop\n"), None);
    }
}
