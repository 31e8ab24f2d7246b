// SPDX-License-Identifier: GPL-2.0

//! Pages given to a pipe (`vmsplice`): a later read from the pipe returns their old contents.

use std::process;

use guest::expect;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pagemap;
use guest::memory::pagemap::Entry;
use guest::memory::pagemap::Frame;
use guest::process::peer::pins::Spliced;
use guest::Context;
use guest::Result;

use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

/// Pages that go into a pipe, and are written to only while they are not in one.
const PAGES: u64 = 16;

/// Pages that are given to a pipe from time to time.
pub struct Pipe {
    region: Region,
    given: Option<Given>,
}

/// The pages in a pipe.
struct Given {
    pipe: Spliced,
    pages: u64,
    /// Their frames, if known and not merged. They must stay the same: the pipe sees writes of the
    /// process, as long as nobody forks.
    frames: Vec<Option<Frame>>,
}

impl Pipe {
    /// Pages that are not in a pipe yet.
    pub fn new(worker: &mut Worker) -> Result<Self> {
        Ok(Pipe {
            region: Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?,
            given: None,
        })
    }

    /// Alternates between giving the pages to a pipe and reading it.
    pub fn step(&mut self, worker: &mut Worker) -> Result {
        match self.given.take() {
            Some(given) => self.read(given, worker),
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
        self.given = Some(Given {
            pipe,
            pages: bytes / PAGE_SIZE,
            frames: self.frames(),
        });
        Ok(())
    }

    /// Frames of the pages that are not merged. Only root can read them.
    fn frames(&self) -> Vec<Option<Frame>> {
        let entries = pagemap::entries(process::id() as i32, self.region.span());
        let frame = |entry: &Entry| {
            let frame = entry.frame()?;
            (!frame.flags().ok()?.ksm()).then_some(frame)
        };
        entries.unwrap_or_default().iter().map(frame).collect()
    }

    fn expect_frames(&self, given: &Given) -> Result {
        let pages = given.frames.iter().zip(self.frames());
        for (before, now) in pages.take(given.pages as usize) {
            expect::that(before.is_none() || *before == now, || {
                format!("a page in a pipe was on {before:?}, found {now:?}")
            })?;
        }
        Ok(())
    }

    fn read(&self, mut given: Given, worker: &Worker) -> Result {
        self.expect_frames(&given)?;
        for index in 0..given.pages {
            let page = given.pipe.read_page().context(|| "reading the pipe")?;
            let word = |word: usize| {
                let bytes = page[word * 8..][..8].try_into().expect("8 bytes");
                Ok(u64::from_ne_bytes(bytes))
            };
            self.region.verify_read(index, &worker.tally, word)?;
        }
        Ok(())
    }

    /// Compares the pages with their expected contents, in a pipe or not.
    pub fn verify_all(&self, worker: &Worker) -> Result {
        self.region.verify_all(&worker.tally)
    }
}
