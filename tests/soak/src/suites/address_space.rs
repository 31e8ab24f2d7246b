// SPDX-License-Identifier: GPL-2.0

//! Address spaces that change under the scanner: mappings made, moved, resized, protected,
//! discarded and replaced at random, while pages in them are merged.

use guest::Context;
use guest::Result;

use crate::child;
use crate::region::Region;
use crate::shadow::Content;
use crate::steps;
use crate::suite::Suite;
use crate::worker::Step;
use crate::worker::Worker;

mod advice;
mod growth;
mod mapping;
mod protection;

/// The suite.
pub const SUITE: Suite = Suite::new(
    "address_space",
    "random mmap, munmap, mremap, mprotect, madvise, brk, MAP_FIXED, file copies, stacks",
    work,
);

/// Most pages of a worker.
const PAGES: u64 = 768;
/// Most regions of a worker.
const REGIONS: usize = 24;
/// Most pages of a new region.
const NEW_PAGES: u64 = 64;

/// All memory that a worker works on; there is always a region.
struct Space {
    regions: Vec<Region>,
}

const STEPS: &[Step<Space>] = &[
    ("fill pages", 60, fill),
    ("write a word", 40, poke),
    ("verify pages", 60, verify),
    ("mmap", 10, mapping::map),
    ("mmap, MAP_FIXED over pages", 8, mapping::map_over),
    ("mmap a file, MAP_PRIVATE", 6, mapping::map_file),
    ("munmap", 4, mapping::unmap),
    ("munmap pages in the middle", 6, mapping::unmap_middle),
    ("mremap, move", 10, mapping::relocate),
    ("mremap, move over pages", 6, mapping::relocate_over),
    ("mremap, shrink", 5, mapping::shrink),
    ("mremap, grow", 8, mapping::grow),
    ("mremap, MREMAP_DONTUNMAP", 6, mapping::move_contents),
    ("mprotect, PROT_READ", 8, protection::read_only),
    ("mprotect, PROT_NONE", 6, protection::none),
    ("mlock", 3, protection::lock),
    ("madvise, that keeps contents", 20, advice::keeps),
    ("madvise, and its opposite", 10, advice::there_and_back),
    ("madvise, that discards contents", 12, advice::discards),
    ("madvise, MADV_FREE", 6, advice::free),
    ("madvise, guard pages", 5, advice::guard),
    ("brk", 5, growth::heap),
    ("the stack grows", 4, growth::stack),
    ("a mapping grows down", 3, growth::down),
    ("fork, write in both", 4, fork),
];

fn work(worker: &mut Worker) -> Result {
    let first = Region::filled(NEW_PAGES, &mut worker.rng).context(|| "mmap")?;
    let mut space = Space {
        regions: vec![first],
    };
    worker.work(&mut space, STEPS)?;
    worker.finish(&space.regions)
}

impl Space {
    /// A random region.
    fn any(&mut self, worker: &mut Worker) -> &mut Region {
        let index = self.any_index(worker);
        &mut self.regions[index]
    }

    fn any_index(&self, worker: &mut Worker) -> usize {
        worker.rng.below(self.regions.len() as u64) as usize
    }

    /// Removes and returns a random region. It may be the last one: the caller must add one.
    fn take(&mut self, worker: &mut Worker) -> Region {
        let index = self.any_index(worker);
        self.regions.swap_remove(index)
    }

    /// Adds a region, unless it is empty.
    fn put(&mut self, region: Region) {
        if !region.is_empty() {
            self.regions.push(region);
        }
    }

    fn pages(&self) -> u64 {
        self.regions.iter().map(Region::len).sum()
    }

    /// Returns whether more may be mapped.
    fn has_room(&self) -> bool {
        self.regions.len() < REGIONS && self.pages() < PAGES
    }
}

/// Fills pages with contents that other pages may have.
fn fill_some(region: &mut Region, worker: &mut Worker, most: u64) {
    let (first, count) = region.some(&mut worker.rng, most);
    for index in first..first + count {
        region.fill(index, Content::any(&mut worker.rng));
    }
}

fn fill(space: &mut Space, worker: &mut Worker) -> Result {
    fill_some(space.any(worker), worker, 8);
    Ok(())
}

fn poke(space: &mut Space, worker: &mut Worker) -> Result {
    steps::poke(space.any(worker), worker)
}

fn verify(space: &mut Space, worker: &mut Worker) -> Result {
    steps::verify_some(space.any(worker), worker)
}

fn fork(space: &mut Space, worker: &mut Worker) -> Result {
    let mut own = worker.fork();
    let child = child::fork(|| {
        for _ in 0..4 {
            verify(space, &mut own)?;
            fill(space, &mut own)?;
        }
        space.any(&mut own).verify_all(&own.tally)
    })?;
    fill(space, worker)?;
    child.wait()
}
