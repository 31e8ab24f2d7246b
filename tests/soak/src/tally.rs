// SPDX-License-Identifier: GPL-2.0

//! Counts of all processes of a suite, in shared memory: a killed process loses no counts.
//!
//! The first count of a name enters it. Its hash claims the slot. Several processes may write the
//! name at once, or again if a writer was killed: it is the same text.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use guest::process::peer::spawn::check;
use guest::rng::mix;
use guest::Context;
use guest::Result;

/// Number of bytes whose content was compared with the expected content.
pub const BYTES_VERIFIED: &str = "bytes verified";
/// Number of pages with a wrong content.
pub const MISMATCHES: &str = "mismatches";

/// Number of slots for names.
const SLOTS: usize = 256;
/// Longest name, in bytes.
const NAME: usize = 47;
/// Most workers.
pub const WORKERS: usize = 256;

/// The kind of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Number of operations.
    Operations = b'o',
    /// A sum of anything else.
    Sum = b's',
    /// The highest value.
    Peak = b'p',
}

/// The phases of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// The workers work, until their deadline.
    Work = 0,
    /// Everything has been unmerged; the workers verify their memory once more, and end.
    Unmerged = 1,
}

#[repr(C)]
struct Slot {
    /// 0: free.
    hash: AtomicU64,
    count: AtomicU64,
    kind: AtomicU8,
    name: [AtomicU8; NAME],
}

#[repr(C)]
struct Shared {
    phase: AtomicU32,
    /// When the work ends, in milliseconds of [`crate::clock`]; 0 before it has begun.
    deadline: AtomicU64,
    /// Number of workers that have set up their memory.
    ready: [AtomicBool; WORKERS],
    /// Number of workers that have done their work and wait for the next phase.
    arrived: [AtomicBool; WORKERS],
    slots: [Slot; SLOTS],
}

/// A count, with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// The counts of a suite.
#[derive(Clone, Copy)]
pub struct Tally(&'static Shared);

impl Tally {
    /// Makes a tally that all users may write to.
    pub fn create(path: &str) -> Result<Self> {
        let make = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)?;
            file.set_len(size_of::<Shared>() as u64)?;
            fs::set_permissions(path, Permissions::from_mode(0o666))?;
            map(&file)
        };
        make().context(|| path)
    }

    /// Opens an existing tally.
    pub fn open(path: &str) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        file.and_then(|file| map(&file)).context(|| path)
    }

    /// Counts one operation with this name.
    pub fn count(&self, operation: &str) {
        self.slot(Kind::Operations, operation)
            .count
            .fetch_add(1, Relaxed);
    }

    /// Adds to a sum.
    pub fn add(&self, name: &str, number: u64) {
        self.slot(Kind::Sum, name).count.fetch_add(number, Relaxed);
    }

    /// Keeps the highest value.
    pub fn peak(&self, name: &str, value: u64) {
        self.slot(Kind::Peak, name).count.fetch_max(value, Relaxed);
    }

    /// The sum with this name; 0 if nothing was added.
    pub fn sum(&self, name: &str) -> u64 {
        self.slot(Kind::Sum, name).count.load(Relaxed)
    }

    /// All counts, by kind and name.
    pub fn counts(&self) -> Vec<Count> {
        let mut counts: Vec<Count> = self.0.slots.iter().filter_map(Slot::read).collect();
        counts.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        counts
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Acquire) {
            0 => Phase::Work,
            _ => Phase::Unmerged,
        }
    }

    /// Begins a phase.
    pub fn begin(&self, phase: Phase) {
        self.0.phase.store(phase as u32, Release);
    }

    /// Records that a worker has set up its memory.
    pub fn be_ready(&self, worker: usize) {
        self.0.ready[worker].store(true, Release);
    }

    /// Returns whether a worker has set up its memory.
    pub fn is_ready(&self, worker: usize) -> bool {
        self.0.ready[worker].load(Acquire)
    }

    /// Starts the work, until `deadline`.
    pub fn start(&self, deadline: Duration) {
        let milliseconds = deadline.as_millis() as u64;
        self.0.deadline.store(milliseconds, Release);
    }

    /// When the work ends; `None` before it has begun.
    pub fn deadline(&self) -> Option<Duration> {
        let milliseconds = self.0.deadline.load(Acquire);
        (milliseconds > 0).then_some(Duration::from_millis(milliseconds))
    }

    /// Records that the work of a worker is done.
    pub fn arrive(&self, worker: usize) {
        self.0.arrived[worker].store(true, Release);
    }

    /// Returns whether the work of a worker is done.
    pub fn has_arrived(&self, worker: usize) -> bool {
        self.0.arrived[worker].load(Acquire)
    }

    fn slot(&self, kind: Kind, name: &str) -> &Slot {
        let hash = hash_of(kind, name);
        let place = |step: usize| &self.0.slots[(hash as usize).wrapping_add(step) % SLOTS];
        let found = (0..SLOTS).map(place).find(|slot| slot.claim(hash));
        let slot = found.expect("a suite counts fewer than 256 names");
        if slot.name[0].load(Relaxed) == 0 {
            slot.enter(kind, name);
        }
        slot
    }
}

impl Slot {
    /// Claims a free slot for this hash; returns whether the slot has this hash.
    fn claim(&self, hash: u64) -> bool {
        let before = self.hash.load(Relaxed);
        before == hash
            || before == 0
                && match self.hash.compare_exchange(0, hash, Relaxed, Relaxed) {
                    Ok(_) => true,
                    Err(other) => other == hash,
                }
    }

    fn enter(&self, kind: Kind, name: &str) {
        assert!(name.len() <= NAME, "{name:?} is too long a name");
        self.kind.store(kind as u8, Relaxed);
        // The first byte is written last: it shows that the others are there.
        for (place, &byte) in self.name.iter().zip(name.as_bytes()).rev() {
            place.store(byte, Release);
        }
    }

    fn read(&self) -> Option<Count> {
        if self.hash.load(Relaxed) == 0 {
            return None;
        }
        let bytes: Vec<u8> = self.name.iter().map(|byte| byte.load(Acquire)).collect();
        let kind = match self.kind.load(Relaxed) {
            b'o' => Kind::Operations,
            b'p' => Kind::Peak,
            _ => Kind::Sum,
        };
        Some(Count {
            kind,
            name: String::from_utf8_lossy(&bytes)
                .trim_end_matches('\0')
                .to_owned(),
            value: self.count.load(Relaxed),
        })
    }
}

/// Never 0.
fn hash_of(kind: Kind, name: &str) -> u64 {
    let mut hash = kind as u64;
    for &byte in name.as_bytes() {
        hash = mix(hash ^ u64::from(byte));
    }
    hash | 1
}

fn map(file: &File) -> std::io::Result<Tally> {
    // SAFETY: New memory at an address that the kernel chooses.
    let addr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    let addr = check(addr as i64)?;
    // SAFETY: The mapping is never removed, and the file is long enough. All access it as this type,
    // which consists of atomics, for which all bytes are valid.
    Ok(Tally(unsafe { &*(addr as *const Shared) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_by_kind_and_name() {
        let path = format!("/tmp/ksm_v_tally.{}", std::process::id());
        let (here, there) = (Tally::create(&path).unwrap(), Tally::open(&path).unwrap());
        fs::remove_file(&path).unwrap();
        here.count("fork");
        there.count("fork");
        there.add("fork", 5);
        here.peak("most", 7);
        here.peak("most", 3);
        let counts: Vec<(Kind, String, u64)> = here
            .counts()
            .into_iter()
            .map(|count| (count.kind, count.name, count.value))
            .collect();
        let expected = [
            (Kind::Operations, "fork".to_owned(), 2),
            (Kind::Peak, "most".to_owned(), 7),
            (Kind::Sum, "fork".to_owned(), 5),
        ];
        assert_eq!(counts, expected);
        assert_eq!(there.sum("fork"), 5);
    }
}
