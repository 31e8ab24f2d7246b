// SPDX-License-Identifier: GPL-2.0

//! A run of pages of this process with their shadow. Each change to the memory also changes the
//! shadow; [`Region::expect`] records changes that the kernel makes.

use std::io;

use guest::memory::content::PAGE_SIZE;
use guest::memory::content::WORDS;
use guest::process::peer::memory;
use guest::rng::Rng;
use guest::Context;
use guest::Result;
use guest::Span;

use crate::shadow::Content;
use crate::shadow::Page;
use crate::tally;
use crate::tally::Tally;

/// Pages and their expected contents.
///
/// It does not own the memory: dropping a region leaves it mapped.
#[derive(Clone, Debug)]
pub struct Region {
    addr: u64,
    pages: Vec<Page>,
    /// Content of pages that were never written, or were discarded: zeros, or the file's content.
    backing: Content,
}

/// Creation and splitting.
impl Region {
    /// Maps private anonymous memory, all zeros.
    pub fn map(pages: u64) -> io::Result<Self> {
        memory::map_anywhere(pages).map(Self::zeros)
    }

    /// Maps memory and fills it with random contents.
    pub fn filled(pages: u64, rng: &mut Rng) -> io::Result<Self> {
        let mut region = Self::map(pages)?;
        for index in 0..pages {
            region.fill(index, Content::any(rng));
        }
        Ok(region)
    }

    /// Memory that is already mapped and all zeros.
    pub fn zeros(span: Span) -> Self {
        Self::backed(span, Content::Zero)
    }

    /// Memory that is already mapped from a file with this content in all pages.
    pub fn backed(span: Span, backing: Content) -> Self {
        Region {
            addr: span.addr,
            pages: vec![Page::of(backing); span.pages as usize],
            backing,
        }
    }

    /// Content of pages that were never written, or were discarded.
    pub fn backing(&self) -> Content {
        self.backing
    }

    /// Its address range.
    pub fn span(&self) -> Span {
        Span::new(self.addr, self.pages.len() as u64)
    }

    /// The number of pages.
    pub fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Returns whether it has no pages.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// A random run of 1 to `most` pages: its first page and length. There must be a page.
    pub fn some(&self, rng: &mut Rng, most: u64) -> (u64, u64) {
        let first = rng.below(self.len());
        (first, 1 + rng.below((self.len() - first).min(most)))
    }

    /// Splits off the pages from `index` on.
    pub fn split_off(&mut self, index: u64) -> Region {
        Region {
            addr: self.span().part(index, 0).addr,
            pages: self.pages.split_off(index as usize),
            backing: self.backing,
        }
    }

    /// The same pages, at another address.
    pub fn moved_to(self, addr: u64) -> Region {
        Region { addr, ..self }
    }

    /// Changes the length to `count` pages; new pages were never written.
    pub fn resized(mut self, count: u64) -> Region {
        self.pages.resize(count as usize, Page::of(self.backing));
        self
    }

    /// Unmaps it.
    pub fn unmap(self) -> io::Result<()> {
        memory::unmap(self.span())
    }
}

/// Reading and writing.
impl Region {
    /// The expected content of page `index`.
    pub fn page(&self, index: u64) -> &Page {
        &self.pages[index as usize]
    }

    /// Writes a whole page.
    pub fn fill(&mut self, index: u64, content: Content) {
        for word in 0..WORDS {
            memory::poke(self.place(index, word), content.word(word));
        }
        self.expect(index, content);
    }

    /// Writes a word; refills the page instead if too many words were written.
    pub fn poke(&mut self, index: u64, word: usize, value: u64) {
        self.make_room(index);
        memory::poke(self.place(index, word), value);
        self.expect_word(index, word, value);
    }

    /// Refills the page if no further word of it may be changed.
    pub fn make_room(&mut self, index: u64) {
        if !self.page(index).can_poke() {
            self.fill(index, self.page(index).content());
        }
    }

    /// Records the content that page `index` now has by other means than this region's.
    pub fn expect(&mut self, index: u64, content: Content) {
        self.pages[index as usize] = Page::of(content);
    }

    /// As [`Region::expect`], for the content that another page had.
    pub fn expect_page(&mut self, index: u64, page: Page) {
        self.pages[index as usize] = page;
    }

    /// Records the value of a word. A page can have at most 16 such words.
    pub fn expect_word(&mut self, index: u64, word: usize, value: u64) {
        self.pages[index as usize].poke(word, value);
    }

    /// Records that the contents of pages were discarded.
    pub fn expect_discarded(&mut self, first: u64, count: u64) {
        (first..first + count).for_each(|index| self.expect(index, self.backing));
    }

    /// Address of a word.
    pub fn place(&self, index: u64, word: usize) -> u64 {
        self.span().page(index).addr + word as u64 * 8
    }

    /// Compares page `index` with its expected content.
    pub fn verify(&self, index: u64, tally: &Tally) -> Result {
        self.verify_read(index, tally, |word| {
            Ok(memory::peek(self.place(index, word)))
        })
    }

    /// As [`Region::verify`], for words that were read by other means.
    pub fn verify_read(
        &self,
        index: u64,
        tally: &Tally,
        mut read: impl FnMut(usize) -> io::Result<u64>,
    ) -> Result {
        let page = self.page(index);
        for word in 0..WORDS {
            let found = read(word).context(|| "reading a page")?;
            if found != page.word(word) {
                tally.add(tally::MISMATCHES, 1);
                return Err(self.mismatch(index, word, found).into());
            }
        }
        tally.add(tally::BYTES_VERIFIED, PAGE_SIZE);
        Ok(())
    }

    /// Compares `count` pages from `first` on.
    pub fn verify_some(&self, first: u64, count: u64, tally: &Tally) -> Result {
        (first..first + count).try_for_each(|index| self.verify(index, tally))
    }

    /// Compares all pages.
    pub fn verify_all(&self, tally: &Tally) -> Result {
        self.verify_some(0, self.len(), tally)
    }

    fn mismatch(&self, index: u64, word: usize, found: u64) -> String {
        let (page, addr) = (self.page(index), self.place(index, word));
        let like = Content::of_word(word, found)
            .map_or_else(String::new, |content| format!(", as in {content:?}"));
        format!(
            "mismatch at {addr:#x}, page {index} of {}, word {word}: \
             expected {:#x} of {page:?}, found {found:#x}{like}",
            self.len(),
            page.word(word),
        )
    }
}
