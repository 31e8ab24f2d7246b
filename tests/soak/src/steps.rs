// SPDX-License-Identifier: GPL-2.0

//! Steps of most suites: random work on the pages of a region.

use guest::memory::content::WORDS;
use guest::Result;

use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

/// Fills a page with a content that other pages may have.
pub fn fill(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    region.fill(index, Content::any(&mut worker.rng));
    Ok(())
}

/// Writes a random word to a page.
pub fn poke(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    let word = worker.rng.below(WORDS as u64) as usize;
    region.poke(index, word, worker.rng.number());
    Ok(())
}

/// Compares a page with its expected content.
pub fn verify(region: &mut Region, worker: &mut Worker) -> Result {
    let index = worker.rng.below(region.len());
    region.verify(index, &worker.tally)
}

/// As [`verify`], for up to eight neighbours.
pub fn verify_some(region: &mut Region, worker: &mut Worker) -> Result {
    let (first, count) = region.some(&mut worker.rng, 8);
    region.verify_some(first, count, &worker.tally)
}
