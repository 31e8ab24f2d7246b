// SPDX-License-Identifier: GPL-2.0

//! Counts and records of calls to kernel functions
//! ([`Documentation/trace/kprobetrace.rst`](https://docs.kernel.org/trace/kprobetrace.html)).

use std::fs;
use std::fs::OpenOptions;
use std::io::Write;

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::events::counts;
use crate::Context;
use crate::Result;

const TRACING: &str = "/sys/kernel/tracing";
const GROUP: &str = "ksm_v_test";

/// The function that flushes TLBs on x86.
pub const FLUSH: &str = "flush_tlb_mm_range";

/// Counts the calls of a function while it exists.
pub struct CallCount {
    function: &'static str,
}

impl CallCount {
    /// Starts counting the calls of `function`.
    pub fn start(function: &'static str) -> Result<Self> {
        define(&format!("p:{GROUP}/{function} {function}"))?;
        let count = CallCount { function };
        let path = format!("{TRACING}/events/{GROUP}/{function}/enable");
        fs::write(&path, "1").context(|| path)?;
        Ok(count)
    }

    /// Makes each call slower: a trigger records a stack trace at its start.
    pub fn slow_down(&self) -> Result {
        let path = format!("{TRACING}/events/{GROUP}/{}/trigger", self.function);
        fs::write(&path, "stacktrace").context(|| path)
    }

    /// The number of calls so far.
    pub fn calls(&self) -> Result<u64> {
        let path = format!("{TRACING}/kprobe_profile");
        let text = fs::read_to_string(&path).context(|| path)?;
        // The columns are name, hits and misses.
        let mut hits = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(self.function)).then(|| words.next()?.parse().ok())?
        });
        hits.next()
            .ok_or("not there")
            .context(|| format!("{} in kprobe_profile", self.function))
    }
}

impl Drop for CallCount {
    fn drop(&mut self) {
        let function = self.function;
        // A leftover probe only counts calls, so errors are ignored.
        let _ = fs::write(
            format!("{TRACING}/events/{GROUP}/{function}/trigger"),
            "!stacktrace",
        );
        let _ = fs::write(format!("{TRACING}/events/{GROUP}/{function}/enable"), "0");
        let _ = define(&format!("-:{GROUP}/{function}"));
    }
}

/// A separate trace instance for calls.
const INSTANCE: &str = "/sys/kernel/tracing/instances/ksm_v_test_calls";

/// Records the starts and ends of the calls of a function while it exists.
pub struct CallRecorder {
    function: &'static str,
}

/// The start or the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The ID of the calling thread.
    pub thread: i32,
    /// Whether this is the end of the call.
    pub ends: bool,
}

impl CallRecorder {
    /// Starts recording the calls of `function`.
    pub fn start(function: &'static str) -> Result<Self> {
        fs::create_dir(INSTANCE).context(|| INSTANCE)?;
        let recorder = CallRecorder { function };
        // This clock orders the events of all CPUs.
        procfs::write(&format!("{INSTANCE}/trace_clock"), "counter")?;
        define(&format!("p:{GROUP}/begins {function}"))?;
        define(&format!("r:{GROUP}/ends {function}"))?;
        for event in ["begins", "ends"] {
            procfs::write(&format!("{INSTANCE}/events/{GROUP}/{event}/enable"), "1")?;
        }
        Ok(recorder)
    }

    /// Discards the calls recorded so far.
    pub fn clear(&self) -> Result {
        procfs::write(&format!("{INSTANCE}/trace"), "")
    }

    /// The calls recorded since then, in order; fails if any were lost.
    pub fn calls(&self) -> Result<Vec<Call>> {
        let text = procfs::read(&format!("{INSTANCE}/trace"))?;
        let (kept, written) = counts(&text).ok_or("trace: expected its counts, found none")?;
        expect::eq(
            "number of calls in the buffer, of all recorded",
            written,
            kept,
        )?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let call = |line: &str| {
            let (task, rest) = line.split_once('[')?;
            let (_, thread) = task.trim().rsplit_once('-')?;
            let event = rest.split(": ").nth(1)?;
            Some(Call {
                thread: thread.parse().ok()?,
                ends: event == "ends",
            })
        };
        let no_call = |line| format!("no call of {}: {line:?}", self.function).into();
        lines
            .map(|line| call(line).ok_or_else(|| no_call(line)))
            .collect()
    }
}

impl Drop for CallRecorder {
    fn drop(&mut self) {
        for event in ["begins", "ends"] {
            let _ = fs::write(format!("{INSTANCE}/events/{GROUP}/{event}/enable"), "0");
        }
        if let Err(error) = fs::remove_dir(INSTANCE) {
            eprintln!("{INSTANCE}: {error}");
        }
        for event in ["begins", "ends"] {
            let _ = define(&format!("-:{GROUP}/{event}"));
        }
    }
}

/// Appends a line to the kprobe definitions.
fn define(line: &str) -> Result {
    let path = format!("{TRACING}/kprobe_events");
    let file = OpenOptions::new().append(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .context(|| format!("{line} to {path}"))
}

/// Returns whether the kernel has a function of this name.
pub fn is_function(name: &str) -> bool {
    let symbols = procfs::read("/proc/kallsyms").unwrap_or_default();
    symbols
        .lines()
        .any(|line| line.split_whitespace().nth(2) == Some(name))
}

/// Returns whether the kernel can count calls.
pub fn is_possible() -> bool {
    fs::exists(format!("{TRACING}/kprobe_events")).unwrap_or(false)
}

/// Disables all kprobes while it exists.
pub struct NoProbes(());

impl NoProbes {
    const SWITCH: &'static str = "/sys/kernel/debug/kprobes/enabled";

    /// Switches them off.
    pub fn new() -> Result<Self> {
        procfs::write(Self::SWITCH, "0")?;
        Ok(NoProbes(()))
    }
}

impl Drop for NoProbes {
    fn drop(&mut self) {
        if procfs::write(Self::SWITCH, "1").is_err() {
            eprintln!("the kernel's probes are still off");
        }
    }
}
