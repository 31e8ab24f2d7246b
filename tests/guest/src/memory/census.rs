// SPDX-License-Identifier: GPL-2.0

//! The reference for the module's counts: the page tables of all processes, read by the test itself.

use std::collections::BTreeMap;
use std::fs;

use crate::kernel::procfs;
use crate::memory::content::PAGE_SIZE;
use crate::memory::pagemap;
use crate::memory::pagemap::FlagsOf;
use crate::memory::pagemap::Frame;
use crate::process::task;
use crate::Result;
use crate::Span;

/// Where a frame is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The process.
    pub pid: i32,
    /// The address of the page.
    pub addr: u64,
}

impl Place {
    /// Describes the mapping: process, program name, address and VMA flags.
    fn describe(&self) -> String {
        let Place { pid, addr } = *self;
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let flags = procfs::vma_flags(pid, addr).unwrap_or_default();
        format!(
            "{} {pid} at {addr:#x} ({})",
            comm.trim_end(),
            flags.join(" ")
        )
    }
}

/// All merged frames of the system and the mappings of each.
///
/// The shared zero page is not included.
#[derive(Debug, Default)]
pub struct Census {
    frames: BTreeMap<Frame, Vec<Place>>,
}

impl Census {
    /// Reads the page tables of all processes, which should be idle meanwhile.
    pub fn take() -> Result<Self> {
        let flags = FlagsOf::open()?;
        let mut mapped = BTreeMap::<Frame, Vec<Place>>::new();
        for pid in task::all() {
            for (frame, place) in private_pages(pid) {
                mapped.entry(frame).or_default().push(place);
            }
        }
        let mut frames = BTreeMap::new();
        for (frame, places) in mapped {
            if flags.get(frame)?.ksm() {
                frames.insert(frame, places);
            }
        }
        Ok(Census { frames })
    }

    /// The expected `pages_shared`: the number of merged frames that are mapped.
    pub fn shared(&self) -> u64 {
        self.frames.len() as u64
    }

    /// The expected `pages_sharing`: the number of mappings beyond the first of each merged frame.
    pub fn sharing(&self) -> u64 {
        let mappings: usize = self.frames.values().map(Vec::len).sum();
        (mappings - self.frames.len()) as u64
    }

    /// The merged frames and where each is mapped.
    pub fn frames(&self) -> impl Iterator<Item = (Frame, &[Place])> {
        self.frames
            .iter()
            .map(|(&frame, places)| (frame, &places[..]))
    }

    /// Describes some of the frames for a failure message: the number of mappings and the processes.
    pub fn sample(&self) -> String {
        let line = |(frame, places): (&Frame, &Vec<Place>)| {
            let mappings = frame.mappings().unwrap_or(0);
            let by: Vec<String> = places.iter().map(Place::describe).collect();
            format!("  {frame:?}, mapped {mappings} times: {}", by.join(", "))
        };
        let lines: Vec<String> = self.frames.iter().take(12).map(line).collect();
        lines.join("\n")
    }

    /// The processes that map a frame.
    pub fn mappers(&self, frame: Frame) -> Vec<i32> {
        let places = self
            .frames
            .get(&frame)
            .map_or(&[][..], |places| &places[..]);
        let mut pids: Vec<i32> = places.iter().map(|place| place.pid).collect();
        pids.dedup();
        pids
    }
}

/// The present anonymous pages of a process; empty if the process just ended.
pub fn private_pages(pid: i32) -> Vec<(Frame, Place)> {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else {
        return Vec::new();
    };
    maps.lines()
        .filter(|line| !line.ends_with("[vsyscall]"))
        .filter_map(procfs::mapping)
        .map(|range| Span::new(range.start, (range.end - range.start) / PAGE_SIZE))
        .flat_map(|span| pages_of(pid, span))
        .collect()
}

fn pages_of(pid: i32, span: Span) -> Vec<(Frame, Place)> {
    let entries = pagemap::entries(pid, span).unwrap_or_default();
    let place = |index: usize| Place {
        pid,
        addr: span.addr + index as u64 * PAGE_SIZE,
    };
    entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| !entry.of_file())
        .filter_map(|(index, entry)| Some((entry.frame()?, place(index))))
        .collect()
}

/// The number of pages merged into the zero page, summed over all processes.
pub fn zero_pages() -> u64 {
    let of = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/ksm_stat")).ok()?;
        procfs::field(&text, "ksm_zero_pages")
    };
    task::all().into_iter().filter_map(of).sum()
}
