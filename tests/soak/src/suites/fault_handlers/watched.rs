// SPDX-License-Identifier: GPL-2.0

//! Pages that are under userfaultfd from time to time, and may be merged otherwise.

use std::process;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::kernel::procfs;
use guest::process::peer::memory;
use guest::process::task;
use guest::process::userfaultfd::Fault;
use guest::process::userfaultfd::Userfaultfd;
use guest::process::userfaultfd::FEATURE_MOVE;
use guest::process::userfaultfd::MISSING;
use guest::process::userfaultfd::WRITE_PROTECT;
use guest::Context;
use guest::Result;
use guest::Span;

use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

use super::any_word;

/// Number of watched pages.
const PAGES: u64 = 32;
/// How long the report of a fault may take.
const PATIENCE: Duration = task::PATIENCE;
/// How long the scanner may continue what it began before the watch.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// Why the suite cannot run here.
pub fn lacking() -> Option<String> {
    let opened = Userfaultfd::open(FEATURE_MOVE);
    opened.err().map(|error| format!("userfaultfd: {error}"))
}

/// The pages, and their watch.
pub struct Watched {
    region: Region,
    faults: Userfaultfd,
    on: bool,
}

impl Watched {
    /// Maps the pages, without a watch.
    pub fn new(worker: &mut Worker) -> Result<Self> {
        Ok(Watched {
            region: Region::filled(PAGES, &mut worker.rng).context(|| "mmap")?,
            faults: Userfaultfd::open(FEATURE_MOVE).context(|| "userfaultfd")?,
            on: false,
        })
    }

    /// The pages.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Begins the watch, on merged or unmerged pages; or ends it: no page may be merged then.
    pub fn toggle(&mut self, worker: &mut Worker) -> Result {
        if self.on {
            return self.end();
        }
        self.begin()?;
        if worker.rng.below(2) == 0 {
            // Otherwise merged pages are watched, too.
            thread::sleep(UNDER_WAY);
            for index in 0..PAGES {
                self.region.fill(index, Content::letter(&mut worker.rng));
            }
            self.expect_none_merged()?;
            thread::sleep(UNDER_WAY);
            self.expect_none_merged()?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result {
        let registered = self
            .faults
            .register(self.region.span(), MISSING | WRITE_PROTECT);
        self.on = true;
        registered.context(|| "UFFDIO_REGISTER")
    }

    /// Ends the watch.
    pub fn end(&mut self) -> Result {
        if !self.on {
            return Ok(());
        }
        self.on = false;
        let ended = self.faults.unregister(self.region.span());
        ended.context(|| "UFFDIO_UNREGISTER")
    }

    fn expect_none_merged(&self) -> Result {
        let merged = procfs::smaps(process::id() as i32, self.region.span(), "KSM")?;
        expect::eq("merged memory under userfaultfd, in kB", 0, merged)
    }

    /// Removes a page; a reader waits until it is provided.
    pub fn provide(&mut self, worker: &mut Worker) -> Result {
        let (index, content) = (worker.rng.below(PAGES), Content::any(&mut worker.rng));
        let page = self.region.span().page(index);
        self.take_away(index)?;
        self.watching(
            page,
            move || {
                memory::peek(page.addr);
            },
            |faults, fault| {
                expect::that(!fault.write_protect, || "no page was write-protected")?;
                let provided = match content {
                    Content::Zero => faults.zero(page),
                    _ => faults.copy(page, &content.bytes()),
                };
                provided.context(|| "providing a page")
            },
        )?;
        self.region.expect(index, content);
        self.region.verify(index, &worker.tally)
    }

    /// Protects a page; a writer waits until it may write.
    pub fn protect(&mut self, worker: &mut Worker) -> Result {
        let (index, word) = (worker.rng.below(PAGES), any_word(worker));
        let (page, value) = (self.region.span().page(index), worker.rng.number());
        self.ensure_watched()?;
        if worker.rng.below(2) == 0 {
            self.region.fill(index, Content::letter(&mut worker.rng));
        }
        self.region.make_room(index);
        let protected = self.faults.write_protect(page, true);
        protected.context(|| "UFFDIO_WRITEPROTECT")?;
        thread::sleep(Duration::from_millis(worker.rng.below(8)));
        let (place, before) = (
            self.region.place(index, word),
            self.region.page(index).word(word),
        );
        self.watching(
            page,
            move || memory::poke(place, value),
            |faults, fault| {
                expect::that(fault.write_protect, || "the page was write-protected")?;
                expect::eq("a protected word", before, memory::peek(place))?;
                faults
                    .write_protect(page, false)
                    .context(|| "UFFDIO_WRITEPROTECT")
            },
        )?;
        self.region.expect_word(index, word, value);
        self.region.verify(index, &worker.tally)
    }

    /// Moves a page of `from` to a missing page. Merged pages cannot be moved.
    pub fn move_in(&mut self, from: &mut Region, worker: &mut Worker) -> Result {
        let (index, source) = (worker.rng.below(PAGES), worker.rng.below(from.len()));
        if worker.rng.below(2) == 0 {
            from.fill(source, Content::any(&mut worker.rng));
        }
        self.take_away(index)?;
        let page = self.region.span().page(index);
        match self.faults.move_page(from.span().page(source), page) {
            Ok(()) => {
                self.region.expect_page(index, from.page(source).clone());
                from.expect_discarded(source, 1);
                worker.tally.add("pages moved", 1);
            }
            Err(_) => {
                let provided = self.faults.copy(page, &Content::Letter(1).bytes());
                provided.context(|| "providing a page")?;
                self.region.expect(index, Content::Letter(1));
                worker.tally.add("pages that could not be moved", 1);
            }
        }
        from.verify(source, &worker.tally)?;
        self.region.verify(index, &worker.tally)
    }

    fn ensure_watched(&mut self) -> Result {
        if self.on {
            return Ok(());
        }
        self.begin()
    }

    fn take_away(&mut self, index: u64) -> Result {
        self.ensure_watched()?;
        let page = self.region.span().page(index);
        memory::advise(page, libc::MADV_DONTNEED as u64).context(|| "MADV_DONTNEED")
    }

    /// A thread does an access that must fault once at `page`; resolves the fault.
    fn watching(
        &mut self,
        page: Span,
        access: impl FnOnce() + Send,
        resolve: impl FnOnce(&Userfaultfd, Fault) -> Result,
    ) -> Result {
        thread::scope(|scope| {
            let thread = scope.spawn(access);
            let resolved = self.next(&thread).and_then(|fault| {
                expect::eq("address of the fault", page.addr, fault.page)?;
                resolve(&self.faults, fault)
            });
            if resolved.is_err() {
                // The thread must not wait forever.
                self.end()?;
            }
            resolved
        })
    }

    fn next(&mut self, thread: &thread::ScopedJoinHandle<'_, ()>) -> Result<Fault> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let done = thread.is_finished();
            let fault = self.faults.next(Duration::from_millis(20));
            if let Some(fault) = fault.context(|| "userfaultfd")? {
                return Ok(fault);
            }
            expect::that(!done, || "memory under userfaultfd: a fault was not told")?;
        }
        Err("memory under userfaultfd: who faults neither waits nor goes on".into())
    }
}
