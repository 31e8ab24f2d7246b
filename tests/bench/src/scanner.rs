// SPDX-License-Identifier: GPL-2.0

//! The two scanners, driven through their knobs, and the run time of their threads.

use guest::task;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

/// How long to wait for a pass.
const PATIENCE: Duration = Duration::from_secs(300);

/// A scanner: its directory, its thread, and how to open its knobs.
pub struct Scanner {
    name: &'static str,
    directory: &'static str,
    thread: &'static str,
    /// What its `run` knob says while it is started.
    run: &'static str,
    /// Which knob says for how many milliseconds it pauses after a pass.
    pause: &'static str,
    /// Knobs and values for a scan in one go, of registered memory only.
    opened: &'static [(&'static str, &'static str)],
    /// Which file counts pages merged with the zero page.
    zero_pages: &'static str,
    index_bytes: fn(&Self) -> u64,
}

/// Names of scanners.
pub const IDLE: &str = "idle";
/// Mainline's.
pub const KSMD: &str = "ksmd";
/// Ours.
pub const KSM_V: &str = "ksm_v";

impl Scanner {
    /// One that does not scan: mainline's, which is not let.
    pub fn idle() -> Self {
        Scanner {
            name: IDLE,
            run: "0",
            ..Self::ksmd()
        }
    }

    /// Mainline's.
    pub fn ksmd() -> Self {
        Scanner {
            name: KSMD,
            directory: "/sys/kernel/mm/ksm",
            thread: "ksmd",
            run: "1",
            pause: "sleep_millisecs",
            opened: &[
                ("pages_to_scan", "100000"),
                // Else it skips most pages in most passes, and a pass is no pass.
                ("smart_scan", "0"),
                // As ksm_v does.
                ("use_zero_pages", "1"),
            ],
            zero_pages: "ksm_zero_pages",
            index_bytes: |_| slab_bytes("ksm_"),
        }
    }

    /// Ours.
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
                // As smart_scan of ksmd.
                ("max_interval", "1"),
            ],
            zero_pages: "zero_pages",
            index_bytes: |ksm_v| ksm_v.read("index_bytes"),
        }
    }

    /// Mainline's, free to leave out what it does by default. It is stopped only between the
    /// scans of `pages_to_scan` pages.
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

    /// Ours, free to leave out what it does by default. Stopped after a batch at the latest.
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

    /// Ours, with its defaults, but of registered memory only.
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

    /// Ours, as package/ksm-veridian.conf advises for servers.
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

    /// Lets its thread run on one CPU only.
    pub fn pin(&self, cpu: u64) {
        let pinned = task::pin(self.thread_id(), cpu);
        pinned.unwrap_or_else(|error| panic!("{} on CPU {cpu}: {error}", self.thread));
    }

    /// Lets it scan without pauses.
    pub fn start(&self) {
        self.start_with_pauses(Duration::ZERO);
    }

    /// Lets it scan, with a pause after each pass.
    pub fn start_with_pauses(&self, pause: Duration) {
        self.open();
        self.write(self.pause, &pause.as_millis().to_string());
        self.resume();
    }

    /// Lets it scan with the pauses that its knobs set.
    pub fn start_with_own_pauses(&self) {
        self.open();
        self.resume();
    }

    fn open(&self) {
        for (knob, value) in self.opened {
            self.write(knob, value);
        }
    }

    /// Stops it; what is merged stays merged.
    pub fn pause(&self) {
        self.write("run", "0");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.write("run", self.run);
    }

    /// Stops it and unmerges everything.
    pub fn stop(&self) {
        self.write("run", "2");
        self.pause();
    }

    /// Completed passes.
    pub fn passes(&self) -> u64 {
        self.read("full_scans")
    }

    /// Pages merged away.
    pub fn pages_sharing(&self) -> u64 {
        self.read("pages_sharing")
    }

    /// Pages merged with the zero page.
    pub fn zero_pages(&self) -> u64 {
        self.read(self.zero_pages)
    }

    /// Bytes of its tables.
    pub fn index_bytes(&self) -> u64 {
        (self.index_bytes)(self)
    }

    /// Waits for `count` more completed passes.
    pub fn wait_for_passes(&self, count: u64) {
        self.wait_until_passes(self.passes() + count);
    }

    /// Waits until so many passes are completed in all.
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

    /// Has so many threads scan.
    pub fn set_threads(&self, threads: usize) {
        self.write("threads", &threads.to_string());
    }

    /// Pages looked at so far.
    pub fn pages_scanned(&self) -> u64 {
        self.read("pages_scanned")
    }

    fn thread_id(&self) -> i32 {
        match task::named(self.thread)[..] {
            [id] => id,
            ref found => panic!("expected one thread {}, found {found:?}", self.thread),
        }
    }

    /// Its run time, and the pages it has looked at in that: the end of a pass is noticed late.
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

/// What a scanner has used up, for what.
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

/// Bytes of the objects in use of all slab caches whose names begin like that.
fn slab_bytes(prefix: &str) -> u64 {
    let path = "/proc/slabinfo";
    let text = fs::read_to_string(path).unwrap_or_else(|err| panic!("{path}: {err}"));
    let caches = text.lines().filter(|line| line.starts_with(prefix));
    // Name, objects in use, objects, bytes of each.
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
