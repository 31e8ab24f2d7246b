// SPDX-License-Identifier: GPL-2.0

//! All frames of the system.

use std::fs::File;
use std::os::unix::fs::FileExt;

use guest::memory::pagemap::Flags;
use guest::memory::pagemap::Frame;
use guest::Context;
use guest::Result;

/// The merged frames of all memory, except failed ones: the kernel keeps the flags of those even
/// when nobody uses them any more.
pub fn merged() -> Result<Vec<Frame>> {
    find("/proc/kpageflags", |entry| {
        let flags = Flags::new(entry);
        flags.ksm() && !flags.poisoned()
    })
}

/// The frames of all memory that are charged to the cgroup with this inode number.
pub fn charged_to(inode: u64) -> Result<Vec<Frame>> {
    find("/proc/kpagecgroup", |entry| entry == inode)
}

/// The frames with a wanted entry in a file that has 8 bytes for each frame.
fn find(path: &str, is_wanted: impl Fn(u64) -> bool) -> Result<Vec<Frame>> {
    let file = File::open(path).context(|| path)?;
    let (mut found, mut bytes, mut first) = (Vec::new(), vec![0; 64 << 10], 0);
    loop {
        let length = file.read_at(&mut bytes, first * 8).context(|| path)?;
        if length == 0 {
            return Ok(found);
        }
        let frames = bytes[..length].chunks_exact(8).zip(first..);
        found.extend(frames.filter_map(|(entry, frame)| {
            let entry = u64::from_ne_bytes(entry.try_into().ok()?);
            is_wanted(entry).then_some(Frame(frame))
        }));
        first += length as u64 / 8;
    }
}

/// The numbers of mappings of all merged frames, largest first.
pub fn mappings_of_merged() -> Result<Vec<u64>> {
    let mut mappings: Vec<u64> = merged()?
        .into_iter()
        .map(Frame::mappings)
        .collect::<Result<_>>()?;
    mappings.sort_unstable_by(|a, b| b.cmp(a));
    Ok(mappings)
}
