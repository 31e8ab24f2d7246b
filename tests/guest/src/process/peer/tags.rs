// SPDX-License-Identifier: GPL-2.0

//! Memory tags: four bits for each 16 bytes of memory, stored separately
//! ([`Documentation/arch/arm64/memory-tagging-extension.rst`](https://docs.kernel.org/arch/arm64/memory-tagging-extension.html)).
//!
//! The processor checks no tags here: they are only stored and read back.

use std::io;
use std::time::Duration;
use std::time::Instant;

use super::memory;
use super::memory::Kind;
use crate::memory::content::Ids;
use crate::memory::content::PAGE_SIZE;
use crate::rng::Rng;
use crate::Span;

/// `PROT_MTE` of arch/arm64/include/uapi/asm/mman.h.
pub const PROT_MTE: i32 = 0x20;

/// The number of bytes that share one tag.
const GRANULE: u64 = 16;
/// The position of the tag in a pointer.
const SHIFT: u32 = 56;
/// The number of different tags.
const TAGS: u64 = 16;
/// The memory stays untouched for less than this many microseconds before it gets tags.
const REST: u64 = 20_000;

/// Returns whether the processor has memory tags and the kernel lets programs use them.
pub fn are_there() -> bool {
    const HWCAP2_MTE: libc::c_ulong = 1 << 18;
    // SAFETY: The call only reads a value that the kernel gave the process at its start.
    cfg!(target_arch = "aarch64") && unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_MTE != 0
}

/// The tag of a granule; 0 for seed 0.
fn tag(seed: u64, granule: u64) -> u64 {
    seed * (granule + granule / TAGS + 1) % TAGS
}

/// Sets the tags of all granules of a span. The span must be mapped with `PROT_MTE`.
pub(super) fn set(span: Span, seed: u64) {
    for granule in 0..span.bytes() / GRANULE {
        store(span.addr + granule * GRANULE, tag(seed, granule));
    }
}

/// Expects the tags that `set` gave.
pub(super) fn check(span: Span, seed: u64) -> Result<(), String> {
    for granule in 0..span.bytes() / GRANULE {
        let (expected, found) = (tag(seed, granule), load(span.addr + granule * GRANULE));
        if expected != found {
            let page = granule * GRANULE / PAGE_SIZE;
            return Err(format!(
                "page {page} of {span:?}, tag {granule}: expected {expected}, found {found}"
            ));
        }
    }
    Ok(())
}

/// Repeats for `milliseconds`: maps and fills a span, waits for a while, in which the span may be
/// merged, enables tags, sets them, and checks contents and tags. Returns the number of rounds.
pub(super) fn storm(span: Span, ids: Ids, milliseconds: u64) -> Result<u64, String> {
    let (start, time) = (Instant::now(), Duration::from_millis(milliseconds));
    let (mut rng, mut rounds) = (Rng::new(span.addr), 0);
    while start.elapsed() < time {
        memory::map(span, Kind::Anon).map_err(text)?;
        memory::fill(span, ids);
        rest(&mut rng);
        let protection = libc::PROT_READ | libc::PROT_WRITE | PROT_MTE;
        memory::protect(span, protection as u64).map_err(text)?;
        check(span, 0)?;
        rest(&mut rng);
        let seed = 1 + rng.below(TAGS - 1);
        set(span, seed);
        rest(&mut rng);
        check(span, seed)?;
        memory::check_contents(span, ids)?;
        memory::unmap(span).map_err(text)?;
        rounds += 1;
    }
    Ok(rounds)
}

fn rest(rng: &mut Rng) {
    std::thread::sleep(Duration::from_micros(rng.below(REST)));
}

fn text(error: io::Error) -> String {
    error.to_string()
}

#[cfg(target_arch = "aarch64")]
fn store(addr: u64, tag: u64) {
    // SAFETY: The test passes only memory that it created; the instruction changes tags, not bytes.
    unsafe {
        std::arch::asm!(
            ".arch_extension memtag",
            "stg {tagged}, [{addr}]",
            tagged = in(reg) addr | tag << SHIFT,
            addr = in(reg) addr,
        );
    }
}

#[cfg(target_arch = "aarch64")]
fn load(addr: u64) -> u64 {
    let mut tagged = addr;
    // SAFETY: The test passes only memory that it created; the instruction only reads a tag.
    unsafe {
        std::arch::asm!(
            ".arch_extension memtag",
            "ldg {tagged}, [{addr}]",
            tagged = inout(reg) tagged,
            addr = in(reg) addr,
        );
    }
    tagged >> SHIFT
}

#[cfg(not(target_arch = "aarch64"))]
fn store(_addr: u64, _tag: u64) {}

#[cfg(not(target_arch = "aarch64"))]
fn load(addr: u64) -> u64 {
    addr >> SHIFT
}
