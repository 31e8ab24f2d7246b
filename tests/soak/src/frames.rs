// SPDX-License-Identifier: GPL-2.0

//! All frames of the system.

use std::fs::File;
use std::os::unix::fs::FileExt;

use guest::pagemap::Flags;
use guest::pagemap::Frame;
use guest::Context;
use guest::Result;

/// The merged frames of all memory.
pub fn merged() -> Result<Vec<Frame>> {
    let path = "/proc/kpageflags";
    let file = File::open(path).context(|| path)?;
    let (mut merged, mut bytes, mut first) = (Vec::new(), vec![0; 64 << 10], 0);
    loop {
        let length = file.read_at(&mut bytes, first * 8).context(|| path)?;
        if length == 0 {
            return Ok(merged);
        }
        let frames = bytes[..length].chunks_exact(8).zip(first..);
        merged.extend(frames.filter_map(|(entry, frame)| {
            let flags = Flags::new(u64::from_ne_bytes(entry.try_into().ok()?));
            flags.ksm().then_some(Frame(frame))
        }));
        first += length as u64 / 8;
    }
}

/// How often the merged frames are mapped, the most often mapped one first.
pub fn mappings_of_merged() -> Result<Vec<u64>> {
    let mut mappings: Vec<u64> = merged()?
        .into_iter()
        .map(Frame::mappings)
        .collect::<Result<_>>()?;
    mappings.sort_unstable_by(|a, b| b.cmp(a));
    Ok(mappings)
}
