// SPDX-License-Identifier: GPL-2.0

//! Pages that all differ, more of them than any cache holds.

use engine::PAGE_SIZE;

/// A page.
pub type Page = [u8; PAGE_SIZE];

/// Bytes from one number in a page to the next: two cache lines.
const STRIDE: usize = 128;

/// Makes pages of which no two are equal. They differ in their first cache line already, which
/// comparisons are quickest with.
pub fn unlike_pages(count: usize) -> Vec<Page> {
    let mut state = 1;
    (0..count).map(|_| page(&mut state)).collect()
}

fn page(state: &mut u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    for bytes in page.chunks_exact_mut(STRIDE) {
        bytes[..8].copy_from_slice(&next(state).to_ne_bytes());
    }
    page
}

/// The next of a sequence of numbers that look random (splitmix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    engine::hash::mix(*state)
}
