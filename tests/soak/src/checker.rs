// SPDX-License-Identifier: GPL-2.0

//! Asserts under every suite that no merged frame is mapped by processes of two users.
//!
//! Page tables change while they are read one after the other. A suspicious pair is therefore read
//! again, A, B, A, B, and is a failure only if both map the frame each time.

use std::collections::HashMap;
use std::time::Duration;

use guest::kernel::procfs;
use guest::memory::census;
use guest::memory::census::Place;
use guest::memory::pagemap;
use guest::memory::pagemap::FlagsOf;
use guest::memory::pagemap::Frame;
use guest::process::task;
use guest::Result;
use guest::Span;

use crate::clock;
use crate::tally::Phase;
use crate::worker::Worker;

/// The checker's name, in place of a suite's name, in a job.
pub const NAME: &str = "domain-checker";
/// Number of merged mappings that were checked.
pub const CHECKED: &str = "merged mappings checked for domains";

/// Length of a pause, in times of the last round: the suite needs the processors.
const PAUSE: u32 = 3;
/// Shortest pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause: the suite's end waits for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A process that maps a frame, and its user.
#[derive(Clone, Copy)]
struct Mapper {
    user: u64,
    place: Place,
}

/// Checks, round after round, while the suite works.
pub fn run(worker: &Worker) -> Result {
    nix::sys::prctl::set_dumpable(false)
        .map_err(|error| format!("keeping the checker's own memory as it is: {error}"))?;
    while worker.tally.phase() == Phase::Work {
        let start = clock::now();
        let checked = Round::default().check()?;
        worker.tally.add(CHECKED, checked);
        worker.tally.add("rounds of the domain checker", 1);
        let pause = (clock::now() - start) * PAUSE;
        std::thread::sleep(pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
    Ok(())
}

/// One round over all processes.
#[derive(Default)]
struct Round {
    merged: HashMap<Frame, bool>,
    mappers: HashMap<Frame, Mapper>,
}

impl Round {
    /// Returns the number of mappings of merged frames.
    fn check(mut self) -> Result<u64> {
        let (flags, mut checked) = (FlagsOf::open()?, 0);
        for pid in task::all() {
            let Some(user) = user_of(pid) else { continue };
            for (frame, place) in census::private_pages(pid) {
                if self.is_merged(frame, &flags)? {
                    checked += 1;
                    self.meet(frame, Mapper { user, place })?;
                }
            }
        }
        Ok(checked)
    }

    fn is_merged(&mut self, frame: Frame, flags: &FlagsOf) -> Result<bool> {
        if let Some(&merged) = self.merged.get(&frame) {
            return Ok(merged);
        }
        let merged = flags.get(frame)?.ksm();
        self.merged.insert(frame, merged);
        Ok(merged)
    }

    /// Records a process that maps a frame; checks it against the frame's earlier mappers.
    fn meet(&mut self, frame: Frame, mapper: Mapper) -> Result {
        let before = self.mappers.insert(frame, mapper);
        let Some(other) = before.filter(|other| other.user != mapper.user) else {
            return Ok(());
        };
        for confirmed in [other, mapper, other, mapper] {
            if !confirmed.maps_merged(frame) {
                return Ok(());
            }
        }
        Err(format!(
            "merged {frame:?} is mapped by process {} of user {} at {:#x} and by process {} of \
             user {} at {:#x}",
            other.place.pid,
            other.user,
            other.place.addr,
            mapper.place.pid,
            mapper.user,
            mapper.place.addr
        )
        .into())
    }
}

impl Mapper {
    /// Returns whether the process belongs to that user and maps the frame, merged, at this moment.
    fn maps_merged(&self, frame: Frame) -> bool {
        let Place { pid, addr } = self.place;
        let entries = pagemap::entries(pid, Span::new(addr, 1)).unwrap_or_default();
        let maps = entries.first().and_then(|entry| entry.frame()) == Some(frame);
        maps && user_of(pid) == Some(self.user) && frame.flags().is_ok_and(|flags| flags.ksm())
    }
}

/// The real user of a process; `None` if it has ended, or has no memory.
fn user_of(pid: i32) -> Option<u64> {
    let status = procfs::read(&format!("/proc/{pid}/status")).ok()?;
    procfs::field(&status, "VmSize")?;
    procfs::field(&status, "Uid")
}
