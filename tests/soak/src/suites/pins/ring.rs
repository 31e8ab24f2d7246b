// SPDX-License-Identifier: GPL-2.0

//! Buffers of an io_uring: long-term pins (`FOLL_LONGTERM`); the kernel writes to the pages.

use guest::process::peer::pins::Pinned;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

use super::any_word;

/// Number of pinned pages.
const PAGES: u64 = 8;
/// Most writes before they are unpinned.
const WRITES: u64 = 12;

/// A buffer that is pinned from time to time.
#[derive(Default)]
pub struct Ring(Option<Buffer>);

struct Buffer {
    pinned: Pinned,
    first: u64,
    writes: u64,
}

impl Ring {
    /// Pins pages, then lets the kernel write to them several times, then unpins them.
    pub fn step(&mut self, region: &mut Region, worker: &mut Worker) -> Result {
        self.0 = match self.0.take() {
            None => Some(Buffer::pin(region, worker)?),
            Some(buffer) if buffer.writes == 0 => {
                buffer.pinned.release().context(|| "unpinning")?;
                None
            }
            Some(buffer) => Some(buffer.write(region, worker)?),
        };
        Ok(())
    }
}

impl Buffer {
    /// Pins pages with widespread contents, which otherwise would be merged.
    fn pin(region: &mut Region, worker: &mut Worker) -> Result<Self> {
        let first = worker.rng.below(region.len() - PAGES + 1);
        for index in first..first + PAGES {
            if worker.rng.below(3) == 0 {
                region.fill(index, Content::letter(&mut worker.rng));
            }
        }
        let pinned = Pinned::new(region.span().part(first, PAGES));
        Ok(Buffer {
            pinned: pinned.context(|| "registering a buffer")?,
            first,
            writes: 1 + worker.rng.below(WRITES),
        })
    }

    /// Lets the kernel write a word; this process must see it.
    fn write(mut self, region: &mut Region, worker: &mut Worker) -> Result<Self> {
        let (index, word) = (self.first + worker.rng.below(PAGES), any_word(worker));
        if worker.rng.below(3) == 0 {
            region.fill(index, Content::letter(&mut worker.rng));
        }
        region.make_room(index);
        let value = worker.rng.number();
        let written = self.pinned.write(region.place(index, word), value);
        written.context(|| "a write to a registered buffer")?;
        region.expect_word(index, word, value);
        region.verify(index, &worker.tally)?;
        self.writes -= 1;
        Ok(self)
    }
}
