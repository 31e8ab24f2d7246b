// SPDX-License-Identifier: GPL-2.0

//! Operations of an attacker who wants to learn about the memory of others, or to slow the scanner
//! down.

use std::io;

use super::memory;
use super::spawn::check;
use crate::memory::content::PAGE_SIZE;
use crate::memory::content::WORDS;
use crate::rng::Rng;
use crate::Span;

/// The number of bytes that `probe` records for each page: two words.
pub const NOTE_BYTES: u64 = 16;

/// The number of lanes of the scanner's wide hash: word `i` goes into lane `i % 8`.
const LANES: usize = 8;
/// The highest bit of a word. Multiplying by an odd number leaves it in place.
const TOP_BIT: u64 = 1 << 63;

/// Writes once to each page of a span, in random order. For page `i` it records two words at `notes +
/// i * NOTE_BYTES`: the duration of the write in cycles of the time stamp counter, and the number of
/// page faults.
pub(super) fn probe(span: Span, notes: u64, seed: u64) -> io::Result<()> {
    for index in shuffled(span.pages, seed) {
        let addr = span.page(index).addr;
        let faults = minor_faults()?;
        let cycles = time_of_write(addr, index);
        let faults = minor_faults()? - faults;
        memory::poke(notes + index * NOTE_BYTES, cycles);
        memory::poke(notes + index * NOTE_BYTES + 8, faults);
    }
    Ok(())
}

/// The numbers below `count` in random order (Fisher-Yates shuffle).
fn shuffled(count: u64, seed: u64) -> Vec<u64> {
    let mut rng = Rng::new(seed);
    let mut order: Vec<u64> = (0..count).collect();
    for end in (1..order.len()).rev() {
        order.swap(end, rng.below(end as u64 + 1) as usize);
    }
    order
}

fn time_of_write(addr: u64, value: u64) -> u64 {
    let before = cycles();
    memory::poke(addr, value);
    cycles() - before
}

/// Reads the counter after all previous accesses have completed.
#[cfg(target_arch = "x86_64")]
fn cycles() -> u64 {
    // SAFETY: The instructions only order accesses and read a counter; every x86-64 CPU has them.
    unsafe {
        std::arch::x86_64::_mm_mfence();
        std::arch::x86_64::_mm_lfence();
        std::arch::x86_64::_rdtsc()
    }
}

/// Reads the counter after all previous accesses have completed.
#[cfg(target_arch = "aarch64")]
fn cycles() -> u64 {
    let count;
    // SAFETY: The instructions only order accesses and read a counter that Linux lets every program
    // read.
    unsafe {
        std::arch::asm!("dsb sy", "isb", "mrs {}, cntvct_el0", out(reg) count);
    }
    count
}

/// The number of page faults of this process so far that read nothing from a disk.
fn minor_faults() -> io::Result<u64> {
    // SAFETY: The structure is valid if all bytes are zero.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: The call writes one `rusage` structure, which `usage` is.
    check(unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) }.into())?;
    Ok(usage.ru_minflt as u64)
}

/// Fills a span with pages that all differ but have the same 64-bit FNV-1a hash in eight lanes, for
/// every basis and multiplier: an even number of top bits is set in lane 0.
///
/// All other bits are zero, and the differing words are at the end of the page. So checking a page
/// for zeros, or comparing two pages, has to read them almost to the end.
pub(super) fn fill_colliding(span: Span) {
    for index in 0..span.pages {
        for position in 0..WORDS {
            let addr = span.page(index).addr + position as u64 * 8;
            memory::poke(addr, colliding_word(index, position));
        }
    }
}

/// Fills a span with pages that differ only in the word `position`. If it is near the end, the pages are
/// as similar as the colliding ones, but their hashes differ.
pub(super) fn fill_alike(span: Span, position: usize) {
    for index in 0..span.pages {
        memory::poke(span.page(index).addr + position as u64 * 8, index + 1);
    }
}

/// A word of page `index`: lane 0 encodes a nonzero number in the top bits of its words before the
/// last one, with the lowest bit in the last of them; the last word makes the number of top bits
/// even.
fn colliding_word(index: u64, position: usize) -> u64 {
    const LAST_ROW: usize = WORDS / LANES - 1;
    let (row, lane) = (position / LANES, position % LANES);
    let number = index + 1;
    let set = match (lane, row) {
        (0, LAST_ROW) => number.count_ones() % 2 == 1,
        (0, row) => (number >> (LAST_ROW - 1 - row)) & 1 == 1,
        _ => false,
    };
    if set {
        TOP_BIT
    } else {
        0
    }
}

/// The number of pages that the records of `probe` need for a span of `pages` pages.
pub fn pages_of_notes(pages: u64) -> u64 {
    (pages * NOTE_BYTES).div_ceil(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_drawn_once() {
        let mut order = shuffled(100, 7);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    /// The hash of lane 0 for a basis and an odd multiplier.
    fn lane(index: u64, basis: u64, multiplier: u64) -> u64 {
        (0..WORDS).step_by(LANES).fold(basis, |hash, position| {
            (hash ^ colliding_word(index, position)).wrapping_mul(multiplier)
        })
    }

    #[test]
    fn colliding_pages_collide_under_any_key_of_plain_fnv() {
        for key in [1, 7, 0x0000_0100_0000_01b3, u64::MAX] {
            let hash = |index| lane(index, key.rotate_left(9), key);
            assert!((1..100).all(|index| hash(index) == hash(0)), "{key:#x}");
        }
    }

    #[test]
    fn colliding_pages_differ_and_are_zeros_elsewhere() {
        let page = |index| -> Vec<u64> { (0..WORDS).map(|at| colliding_word(index, at)).collect() };
        for index in 0..1000 {
            assert_ne!(page(index), page(index + 1));
            assert!(page(index).iter().any(|&word| word != 0));
            let others = (0..WORDS).filter(|at| at % LANES != 0 || *at < 300);
            assert!(others.clone().all(|at| page(index)[at] == 0));
        }
    }
}
