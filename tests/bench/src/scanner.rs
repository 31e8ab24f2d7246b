// SPDX-License-Identifier: GPL-2.0

//! The two scanners, controlled by their knobs, and the run time of their threads.

use guest::process::task;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

/// Longest wait for a pass.
const PATIENCE: Duration = Duration::from_secs(300);

/// A scanner: its directory, its thread, and the values that open its knobs.
pub struct Scanner {
    name: &'static str,
    directory: &'static str,
    thread: &'static str,
    /// Value of its `run` knob that starts it.
    run: &'static str,
    /// The knob for its pause after a pass, in milliseconds.
    pause: &'static str,
    /// Knobs and values to scan without a pause, and only registered memory.
    opened: &'static [(&'static str, &'static str)],
    /// The file that counts pages merged with the zero page.
    zero_pages: &'static str,
    index_bytes: fn(&Self) -> u64,
}

/// Names of scanners.
pub const IDLE: &str = "idle";
/// The name of mainline's scanner.
pub const KSMD: &str = "ksmd";
/// The name of the module's scanner.
pub const KSM_V: &str = "ksm_v";

impl Scanner {
    /// No scanner: mainline's, which is never started.
    pub fn idle() -> Self {
        Scanner {
            name: IDLE,
            run: "0",
            ..Self::ksmd()
        }
    }

    /// Mainline's scanner.
    pub fn ksmd() -> Self {
        Scanner {
            name: KSMD,
            directory: "/sys/kernel/mm/ksm",
            thread: "ksmd",
            run: "1",
            pause: "sleep_millisecs",
            opened: &[
                ("pages_to_scan", "100000"),
                // With smart_scan, it skips most pages in most passes, and a pass is not a full one.
                ("smart_scan", "0"),
                // Like ksm_v.
                ("use_zero_pages", "1"),
            ],
            zero_pages: "ksm_zero_pages",
            index_bytes: |_| slab_bytes("ksm_"),
        }
    }

    /// The module's scanner.
    pub fn ksm_v() -> Self {
        Scanner {
            name: KSM_V,
            directory: "/sys/kernel/mm/ksm_v",
            thread: "ksm_v_scand",
            run: "1",
            pause: "sleep_ms",
            opened: &[
                // More pages than any work has: a pass is a cycle.
                ("scan_rate", "1000000"),
                ("scope", "registered"),
                // Off, like smart_scan of ksmd.
                ("max_interval", "1"),
            ],
            zero_pages: "zero_pages",
            index_bytes: |ksm_v| ksm_v.read("index_bytes"),
        }
    }

    /// The module's, merging zeroes only.
    pub fn ksm_v_for_zeroes() -> Self {
        Scanner {
            opened: &[
                ("scan_rate", "1000000"),
                ("scope", "registered"),
                ("max_interval", "1"),
                ("content", "zero"),
            ],
            ..Self::ksm_v()
        }
    }

    /// Mainline's, with its default optimisations. It stops only between two scans of
    /// `pages_to_scan` pages.
    pub fn ksmd_in_use() -> Self {
        Scanner {
            opened: &[
                ("pages_to_scan", "500"),
                ("smart_scan", "1"),
                ("use_zero_pages", "1"),
            ],
            ..Self::ksmd()
        }
    }

    /// The module's, with its default optimisations. It stops after a batch at the latest.
    pub fn ksm_v_in_use() -> Self {
        Scanner {
            opened: &[
                ("scan_rate", "100000"),
                ("scope", "registered"),
                ("max_interval", "8"),
            ],
            ..Self::ksm_v()
        }
    }

    /// Mainline's, with its defaults.
    pub fn ksmd_by_default() -> Self {
        Scanner {
            opened: &[
                ("pages_to_scan", "100"),
                ("sleep_millisecs", "20"),
                ("smart_scan", "1"),
            ],
            ..Self::ksmd()
        }
    }

    /// The module's, with its defaults, but only for registered memory.
    pub fn ksm_v_by_default() -> Self {
        Scanner {
            opened: &[
                ("scan_rate", "100"),
                ("sleep_ms", "200"),
                ("scope", "registered"),
                ("max_interval", "8"),
            ],
            ..Self::ksm_v()
        }
    }

    /// The module's, with the settings that package/ksm-veridian.conf advises for servers.
    pub fn ksm_v_of_server() -> Self {
        Scanner {
            opened: &[
                ("scan_rate", "2000"),
                ("sleep_ms", "20"),
                ("scope", "registered"),
                ("max_interval", "8"),
            ],
            ..Self::ksm_v()
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Restricts its thread to one CPU.
    pub fn pin(&self, cpu: u64) {
        let pinned = task::pin(self.thread_id(), cpu);
        pinned.unwrap_or_else(|error| panic!("{} on CPU {cpu}: {error}", self.thread));
    }

    /// Starts it without pauses.
    pub fn start(&self) {
        self.start_with_pauses(Duration::ZERO);
    }

    /// Starts it with a pause after each pass.
    pub fn start_with_pauses(&self, pause: Duration) {
        self.open();
        self.write(self.pause, &pause.as_millis().to_string());
        self.resume();
    }

    /// Starts it with the pauses that its knobs set.
    pub fn start_with_own_pauses(&self) {
        self.open();
        self.resume();
    }

    /// Opens its knobs.
    pub fn open(&self) {
        for (knob, value) in self.opened {
            self.write(knob, value);
        }
    }

    /// Stops it; merged pages stay merged.
    pub fn pause(&self) {
        self.write("run", "0");
    }

    /// Continues it.
    pub fn resume(&self) {
        self.write("run", self.run);
    }

    /// Stops it and unmerges everything.
    pub fn stop(&self) {
        self.write("run", "2");
        self.pause();
    }

    /// Merges the pages of a process at once. Only the module's scanner does that.
    pub fn merge_now(&self, pid: i32) {
        self.write("merge_now", &pid.to_string());
    }

    /// Number of completed passes.
    pub fn passes(&self) -> u64 {
        self.read("full_scans")
    }

    /// Number of pages merged away.
    pub fn pages_sharing(&self) -> u64 {
        self.read("pages_sharing")
    }

    /// Number of pages merged with the zero page.
    pub fn zero_pages(&self) -> u64 {
        self.read(self.zero_pages)
    }

    /// Size of its tables in bytes.
    pub fn index_bytes(&self) -> u64 {
        (self.index_bytes)(self)
    }

    /// Waits for `count` more completed passes.
    pub fn wait_for_passes(&self, count: u64) {
        self.wait_until_passes(self.passes() + count);
    }

    /// Waits until the number of completed passes is `goal`.
    pub fn wait_until_passes(&self, goal: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.passes() < goal {
            assert!(Instant::now() < deadline, "{} makes no progress", self.name);
            sleep(Duration::from_millis(2));
        }
    }

    /// Run time of its thread.
    pub fn cpu_ns(&self) -> u64 {
        task::run_time_ns(self.thread_id()).expect("a scanner's run time")
    }

    /// Sets the number of its threads.
    pub fn set_threads(&self, threads: usize) {
        self.write("threads", &threads.to_string());
    }

    /// Number of pages scanned so far.
    pub fn pages_scanned(&self) -> u64 {
        self.read("pages_scanned")
    }

    fn thread_id(&self) -> i32 {
        match task::named(self.thread)[..] {
            [id] => id,
            ref found => panic!("expected one thread {}, found {found:?}", self.thread),
        }
    }

    /// Its run time and its scanned pages, read together: the end of a pass is noticed late.
    pub fn usage(&self) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns(),
            pages: self.pages_scanned(),
        }
    }

    fn read(&self, knob: &str) -> u64 {
        let path = Path::new(self.directory).join(knob);
        let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path:?}: {err}"));
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("{path:?} says {text:?}"))
    }

    fn write(&self, knob: &str, value: &str) {
        let path = Path::new(self.directory).join(knob);
        fs::write(&path, value).unwrap_or_else(|err| panic!("{value} to {path:?}: {err}"));
    }
}

/// A scanner's run time, and the number of pages it scanned.
pub struct Usage {
    cpu_ns: u64,
    pages: u64,
}

impl Usage {
    /// Run time for each page since `start`.
    pub fn ns_per_page_since(&self, start: &Self) -> f64 {
        (self.cpu_ns - start.cpu_ns) as f64 / (self.pages - start.pages).max(1) as f64
    }
}

/// Bytes of the objects in use in all slab caches whose names begin with `prefix`.
fn slab_bytes(prefix: &str) -> u64 {
    let path = "/proc/slabinfo";
    let text = fs::read_to_string(path).unwrap_or_else(|err| panic!("{path}: {err}"));
    let caches = text.lines().filter(|line| line.starts_with(prefix));
    // Columns: name, objects in use, objects, bytes of each.
    caches
        .map(|line| {
            let mut numbers = line
                .split_whitespace()
                .skip(1)
                .map_while(|n| n.parse().ok());
            let used: u64 = numbers.next().unwrap_or(0);
            used * numbers.nth(1).unwrap_or(0)
        })
        .sum()
}
