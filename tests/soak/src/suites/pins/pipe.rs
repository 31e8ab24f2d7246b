// SPDX-License-Identifier: GPL-2.0

//! Pages given to a pipe (`vmsplice`): what is read from it later is what they held.

use guest::peer::pins::Spliced;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

/// Pages that are given to a pipe, and written to only while they are not in one.
const PAGES: u64 = 16;

/// Some pages, at times given to a pipe.
pub struct Pipe {
    region: Region,
    given: Option<(Spliced, u64)>,
}

impl Pipe {
    /// Pages, not given yet.
    pub fn new(worker: &mut Worker) -> Result<Self> {
        Ok(Pipe {
            region: Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?,
            given: None,
        })
    }

    /// Gives the pages to a pipe, or reads it, in turn.
    pub fn step(&mut self, worker: &mut Worker) -> Result {
        match self.given.take() {
            Some((pipe, pages)) => self.read(pipe, pages, worker),
            None => self.give(worker),
        }
    }

    fn give(&mut self, worker: &mut Worker) -> Result {
        for index in 0..PAGES {
            if worker.rng.below(2) == 0 {
                self.region.fill(index, Content::letter(&mut worker.rng));
            }
        }
        let (pipe, bytes) = Spliced::new(self.region.span()).context(|| "vmsplice")?;
        self.given = Some((pipe, bytes / guest::content::PAGE_SIZE));
        Ok(())
    }

    fn read(&self, mut pipe: Spliced, pages: u64, worker: &Worker) -> Result {
        for index in 0..pages {
            let page = pipe.read_page().context(|| "reading the pipe")?;
            let word = |word: usize| {
                let bytes = page[word * 8..][..8].try_into().expect("8 bytes");
                Ok(u64::from_ne_bytes(bytes))
            };
            self.region.verify_read(index, &worker.tally, word)?;
        }
        Ok(())
    }

    /// Compares the pages themselves, in a pipe or not.
    pub fn verify_all(&self, worker: &Worker) -> Result {
        self.region.verify_all(&worker.tally)
    }
}
