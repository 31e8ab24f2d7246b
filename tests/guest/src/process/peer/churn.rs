// SPDX-License-Identifier: GPL-2.0

//! Random work of a peer on its own memory: it uses the operations that programs use, and knows at
//! any time what every page must contain.
//!
//! There are only a few contents, so that pages of other peers can always be merged with its pages.

use std::io;
use std::time::Duration;
use std::time::Instant;

use super::memory;
use super::memory::Kind;
use super::server;
use super::spawn;
use super::spawn::check;
use crate::memory::content;
use crate::memory::content::Ids;
use crate::memory::content::WORDS;
use crate::rng::Rng;
use crate::Span;

/// The number of pages of the memory that it works on.
pub const PAGES: u64 = 48;
/// The possible addresses of this memory.
pub const PLACES: [u64; 2] = [0x6000_0000_0000, 0x6100_0000_0000];
/// The address of its huge pages.
const HUGE_PLACE: u64 = 0x6200_0000_0000;
/// The number of small pages in a huge page.
const HUGE_PAGES: u64 = 512;
/// The highest content number in use; 0 and all numbers up to it are used.
const CONTENTS: u64 = 6;

/// The expected content of a page.
#[derive(Clone, Copy, Default)]
struct Page {
    /// The number of the content ...
    id: u64,
    /// ... except for this word.
    poked: Option<(usize, u64)>,
}

impl Page {
    fn word(self, index: usize) -> u64 {
        match self.poked {
            Some((poked, value)) if poked == index => value,
            _ => content::word(self.id, index),
        }
    }
}

struct Churn {
    rng: Rng,
    place: usize,
    pages: [Page; PAGES as usize],
}

type Step = fn(&mut Churn) -> Result<(), String>;

/// The possible steps; a step that is listed more often is more likely.
const STEPS: [Step; 22] = [
    Churn::write,
    Churn::write,
    Churn::write,
    Churn::write,
    Churn::write,
    Churn::poke,
    Churn::poke,
    Churn::zero,
    Churn::check_one,
    Churn::check_one,
    Churn::check_all,
    Churn::drop_some,
    Churn::unmap_some,
    Churn::relocate,
    Churn::fork,
    Churn::exec,
    Churn::protect,
    Churn::lock,
    Churn::register,
    Churn::lazy_free,
    Churn::page_out,
    Churn::huge,
];

/// The minimum number of steps, however slow the machine is.
pub const LEAST_STEPS: u64 = 20;

/// Works for `milliseconds`, and for at least `least` steps (default: [`LEAST_STEPS`]); returns the
/// number of steps, or a description of the error.
pub(super) fn run(seed: u64, milliseconds: u64, least: Option<u64>) -> Result<u64, String> {
    let least = least.unwrap_or(LEAST_STEPS);
    let (start, time) = (Instant::now(), Duration::from_millis(milliseconds));
    let mut churn = Churn {
        rng: Rng::new(seed),
        place: 0,
        pages: [Page::default(); PAGES as usize],
    };
    memory::map(churn.span(), Kind::Anon).map_err(|error| error.to_string())?;
    let mut steps = 0;
    while start.elapsed() < time || steps < least {
        let step = *churn.rng.pick(&STEPS);
        step(&mut churn).map_err(|why| format!("seed {seed}, step {steps}: {why}"))?;
        steps += 1;
    }
    churn.check_all()?;
    did("munmap", memory::unmap(churn.span()))?;
    Ok(steps)
}

fn did(what: &str, result: io::Result<()>) -> Result<(), String> {
    result.map_err(|error| format!("{what}: {error}"))
}

impl Churn {
    fn span(&self) -> Span {
        Span::new(PLACES[self.place], PAGES)
    }

    /// Picks a random part of the pages.
    fn some(&mut self) -> (u64, u64) {
        let first = self.rng.below(PAGES);
        let count = 1 + self.rng.below((PAGES - first).min(12));
        (first, count)
    }

    fn fill(&mut self, first: u64, count: u64, id: u64) {
        memory::fill(self.span().part(first, count), Ids::same(id));
        self.expect(first, count, id);
    }

    fn expect(&mut self, first: u64, count: u64, id: u64) {
        self.pages[first as usize..(first + count) as usize].fill(Page { id, poked: None });
    }

    fn check_page(&self, index: u64) -> Result<(), String> {
        let (page, addr) = (self.pages[index as usize], self.span().page(index).addr);
        for word in 0..WORDS {
            let (expected, found) = (page.word(word), memory::peek(addr + word as u64 * 8));
            if expected != found {
                return Err(format!(
                    "page {index}, word {word}: expected {expected:#x} of content {} poked {:?}, \
                     found {found:#x}",
                    page.id, page.poked
                ));
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), String> {
        let (first, count) = self.some();
        let id = 1 + self.rng.below(CONTENTS);
        self.fill(first, count.min(4), id);
        Ok(())
    }

    fn zero(&mut self) -> Result<(), String> {
        let index = self.rng.below(PAGES);
        self.fill(index, 1, 0);
        Ok(())
    }

    fn poke(&mut self) -> Result<(), String> {
        let index = self.rng.below(PAGES);
        let (word, value) = (self.rng.below(WORDS as u64) as usize, self.rng.number());
        let page = &mut self.pages[index as usize];
        if page.poked.is_some_and(|(other, _)| other != word) {
            return Ok(());
        }
        page.poked = Some((word, value));
        memory::poke(self.span().page(index).addr + word as u64 * 8, value);
        Ok(())
    }

    fn check_one(&mut self) -> Result<(), String> {
        let index = self.rng.below(PAGES);
        self.check_page(index)
    }

    fn check_all(&mut self) -> Result<(), String> {
        (0..PAGES).try_for_each(|index| self.check_page(index))
    }

    fn drop_some(&mut self) -> Result<(), String> {
        let (first, count) = self.some();
        self.expect(first, count, 0);
        let span = self.span().part(first, count);
        did(
            "MADV_DONTNEED",
            memory::advise(span, libc::MADV_DONTNEED as u64),
        )
    }

    fn unmap_some(&mut self) -> Result<(), String> {
        let (first, count) = self.some();
        self.expect(first, count, 0);
        let span = self.span().part(first, count);
        did("munmap", memory::unmap(span))?;
        did("mmap", memory::map(span, Kind::Anon))
    }

    /// `mremap` takes one VMA at a time, and flags of parts may have split the VMA.
    fn relocate(&mut self) -> Result<(), String> {
        let span = self.span();
        self.place = 1 - self.place;
        for index in 0..PAGES {
            let target = self.span().page(index).addr;
            did("mremap", memory::remap(span.page(index), target))?;
        }
        Ok(())
    }

    fn protect(&mut self) -> Result<(), String> {
        let (first, count) = self.some();
        let span = self.span().part(first, count);
        let all = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        did("mprotect", memory::protect(span, libc::PROT_NONE as u64))?;
        did("mprotect", memory::protect(span, libc::PROT_READ as u64))?;
        (first..first + count).try_for_each(|index| self.check_page(index))?;
        did("mprotect", memory::protect(span, all))
    }

    fn lock(&mut self) -> Result<(), String> {
        let (first, count) = self.some();
        let span = self.span().part(first, count);
        did("mlock", memory::lock(span))?;
        (first..first + count).try_for_each(|index| self.check_page(index))?;
        did("munlock", memory::unlock(span))
    }

    /// Registers pages with mainline's KSM, or unregisters them, which unmerges them.
    fn register(&mut self) -> Result<(), String> {
        let (first, count) = self.some();
        let span = self.span().part(first, count);
        let advice = *self
            .rng
            .pick(&[libc::MADV_MERGEABLE, libc::MADV_UNMERGEABLE]);
        did("MADV_(UN)MERGEABLE", memory::advise(span, advice as u64))
    }

    /// Freed pages contain either their old content or zeros until they are written.
    fn lazy_free(&mut self) -> Result<(), String> {
        let (first, count) = self.some();
        let span = self.span().part(first, count);
        did("MADV_FREE", memory::advise(span, libc::MADV_FREE as u64))?;
        let id = self.rng.below(CONTENTS + 1);
        self.fill(first, count, id);
        Ok(())
    }

    fn page_out(&mut self) -> Result<(), String> {
        let (first, count) = self.some();
        let span = self.span().part(first, count);
        did(
            "MADV_PAGEOUT",
            memory::advise(span, libc::MADV_PAGEOUT as u64),
        )?;
        (first..first + count).try_for_each(|index| self.check_page(index))
    }

    /// Makes a huge page whose parts equal pages of others.
    fn huge(&mut self) -> Result<(), String> {
        if self.rng.below(4) != 0 {
            return Ok(());
        }
        let span = Span::new(HUGE_PLACE, HUGE_PAGES);
        let (mine, common) = (Ids::each(self.rng.number() | (1 << 63)), Ids::same(1));
        did("mmap", memory::map(span, Kind::Anon))?;
        memory::fill(span, mine);
        memory::fill(span.part(0, 8), common);
        std::thread::sleep(Duration::from_millis(20));
        memory::check_contents(span.part(0, 8), common)?;
        let rest = Ids::each(mine.of(8));
        memory::check_contents(span.part(8, HUGE_PAGES - 8), rest)?;
        did("munmap", memory::unmap(span))
    }

    /// The child checks its parent's content and changes it; the parent must not see the change.
    fn fork(&mut self) -> Result<(), String> {
        self.in_child(|child| {
            child.check_all()?;
            for _ in 0..4 {
                child.write()?;
                child.poke()?;
            }
            child.check_all()
        })?;
        self.check_all()
    }

    fn exec(&mut self) -> Result<(), String> {
        use std::os::unix::process::CommandExt;
        self.in_child(|_| {
            let mut command = std::process::Command::new(spawn::SELF);
            Err(command.arg(server::NOTHING).exec().to_string())
        })
    }

    fn in_child(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        // SAFETY: This process has a single thread, so its child may run any code.
        let pid = unsafe { libc::fork() };
        did("fork", check(pid.into()).map(drop))?;
        if pid == 0 {
            if let Err(why) = body(self) {
                eprintln!("child: {why}");
                std::process::exit(1);
            }
            std::process::exit(0);
        }
        let mut status = 0;
        // SAFETY: `status` has room for the status.
        let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
        did("waitpid", check(waited.into()).map(drop))?;
        match status {
            0 => Ok(()),
            _ => Err(format!("a child ended with wait status {status:#x}")),
        }
    }
}
