// SPDX-License-Identifier: GPL-2.0

//! Unloading the module while others trace it or read its files.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::debugfs;
use guest::ksm_v::events;
use guest::ksm_v::events::Recorder;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::tests;
use guest::Context;
use guest::Result;

use super::only;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    is_unloaded_while_it_is_traced,
    is_unloaded_while_its_trace_is_read,
    stays_while_a_file_in_debugfs_is_open,
    is_unloaded_between_readers_of_debugfs,
];

/// Scans for a moment.
fn scan_a_little() -> Result {
    knob::set("promote_after", 1)?;
    knob::set("sleep_ms", 0)?;
    knob::set("scan_rate", 10_000)?;
    scanner::start()?;
    scanner::wait_passes(1)
}

fn expect_gone() -> Result {
    for path in [events::DIR, debugfs::DIR] {
        expect::that(!Path::new(path).exists(), || {
            format!("{path}: expected it to be gone")
        })?;
    }
    Ok(())
}

fn is_unloaded_while_it_is_traced(lab: &Lab) -> Result {
    let _peers = only(lab, 2, IDS)?;
    let recorder = Recorder::start()?;
    for _ in 0..5 {
        scan_a_little()?;
        expect::that(!recorder.events()?.is_empty(), || {
            "expected events, found none"
        })?;
        module::unload()?;
        expect_gone()?;
        module::load("")?;
        recorder.enable()?;
    }
    Ok(())
}

/// A reader that waits for events gets the events so far, and then none.
fn is_unloaded_while_its_trace_is_read(lab: &Lab) -> Result {
    let _peers = only(lab, 2, IDS)?;
    let recorder = Recorder::start()?;
    let done = AtomicBool::new(false);
    let path = recorder.file("trace");
    let read = || {
        let mut bytes = 0;
        while !done.load(Ordering::Relaxed) {
            bytes += std::fs::read(&path).map_or(0, |text| text.len());
        }
        bytes
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(read);
        let cycled = (0..5).try_for_each(|_| {
            scan_a_little()?;
            module::unload()?;
            module::load("")?;
            recorder.enable()
        });
        done.store(true, Ordering::Relaxed);
        let bytes = reader.join().map_err(|_| "the reader failed")?;
        expect::that(bytes > 0, || "expected something to read, found nothing")?;
        cycled
    })
}

fn stays_while_a_file_in_debugfs_is_open(_: &Lab) -> Result {
    for name in debugfs::FILES {
        let path = debugfs::path(name);
        let mut file = File::open(&path).context(|| path.clone())?;
        expect::errno(
            format!("unloading with {path} open"),
            libc::EAGAIN,
            module::try_unload(),
        )?;
        let mut text = String::new();
        file.read_to_string(&mut text).context(|| path.clone())?;
        expect::that(text.starts_with('#'), || format!("{path}: found {text:?}"))?;
    }
    module::unload()?;
    expect_gone()?;
    module::load("")
}

/// Readers either read the files or find that they are gone; the module can be unloaded while no file
/// is open.
fn is_unloaded_between_readers_of_debugfs(_: &Lab) -> Result {
    let done = AtomicBool::new(false);
    let read_all = || {
        while !done.load(Ordering::Relaxed) {
            for name in debugfs::FILES {
                // Any error is fine, as long as the call returns.
                let _ = std::fs::read(debugfs::path(name));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let unload = || {
        scanner::unmerge()?;
        for _ in 0..1000 {
            match module::try_unload() {
                Err(error) if module::is_in_use(&error) => {
                    std::thread::sleep(Duration::from_micros(700));
                }
                result => return result.context(|| "unloading between readers"),
            }
        }
        Err("unloading between readers: expected a moment without open files".into())
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(read_all), scope.spawn(read_all)];
        let cycled = (0..10).try_for_each(|_| {
            scan_a_little()?;
            unload()?;
            module::load("")
        });
        done.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| "a reader failed")?;
        }
        cycled
    })
}
