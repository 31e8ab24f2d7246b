// SPDX-License-Identifier: GPL-2.0

//! A run of pages of this process with their shadow. Whatever is done to the memory is done to
//! the shadow too; what the kernel does to it is told by [`Region::expect`].

use std::io;

use guest::content::WORDS;
use guest::peer::memory;
use guest::rng::Rng;
use guest::Context;
use guest::Result;
use guest::Span;

use crate::shadow::Content;
use crate::shadow::Page;
use crate::tally;
use crate::tally::Tally;

/// Pages and what they have to hold.
///
/// It does not own the memory: a region that is dropped stays mapped.
#[derive(Clone, Debug)]
pub struct Region {
    addr: u64,
    pages: Vec<Page>,
    /// What a page holds that was never written, or was discarded: zeros, or those of a file.
    backing: Content,
}

/// Making and taking apart.
impl Region {
    /// Maps private anonymous memory, all zeros.
    pub fn map(pages: u64) -> io::Result<Self> {
        memory::map_anywhere(pages).map(Self::zeros)
    }

    /// Maps memory and fills it with contents of any kind.
    pub fn filled(pages: u64, rng: &mut Rng) -> io::Result<Self> {
        let mut region = Self::map(pages)?;
        for index in 0..pages {
            region.fill(index, Content::any(rng));
        }
        Ok(region)
    }

    /// Memory that is mapped already and all zeros.
    pub fn zeros(span: Span) -> Self {
        Self::backed(span, Content::Zero)
    }

    /// Memory that is mapped already, of a file all pages of which have this content.
    pub fn backed(span: Span, backing: Content) -> Self {
        Region {
            addr: span.addr,
            pages: vec![Page::of(backing); span.pages as usize],
            backing,
        }
    }

    /// What a page of it holds that was never written, or was discarded.
    pub fn backing(&self) -> Content {
        self.backing
    }

    /// Where it is.
    pub fn span(&self) -> Span {
        Span::new(self.addr, self.pages.len() as u64)
    }

    /// How many pages it has.
    pub fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Whether no page is left.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// A random run of its pages, at most `most`: the first, and how many. It must not be empty.
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

    /// As many pages as `count`; new ones were never written.
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
    /// What page `index` has to hold.
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

    /// Writes a word; fills the page anew instead where many words were written.
    pub fn poke(&mut self, index: u64, word: usize, value: u64) {
        self.make_room(index);
        memory::poke(self.place(index, word), value);
        self.expect_word(index, word, value);
    }

    /// Fills the page anew where no further word of it may be changed.
    pub fn make_room(&mut self, index: u64) {
        if !self.page(index).can_poke() {
            self.fill(index, self.page(index).content());
        }
    }

    /// Says what page `index` holds now, by other means than this region's.
    pub fn expect(&mut self, index: u64, content: Content) {
        self.pages[index as usize] = Page::of(content);
    }

    /// As [`Region::expect`], for what another page held.
    pub fn expect_page(&mut self, index: u64, page: Page) {
        self.pages[index as usize] = page;
    }

    /// Says what a word holds now. There may be 16 in a page.
    pub fn expect_word(&mut self, index: u64, word: usize, value: u64) {
        self.pages[index as usize].poke(word, value);
    }

    /// Says that what was written to pages was discarded.
    pub fn expect_discarded(&mut self, first: u64, count: u64) {
        (first..first + count).for_each(|index| self.expect(index, self.backing));
    }

    /// Address of a word.
    pub fn place(&self, index: u64, word: usize) -> u64 {
        self.span().page(index).addr + word as u64 * 8
    }

    /// Compares page `index` with what it has to hold.
    pub fn verify(&self, index: u64, tally: &Tally) -> Result {
        self.verify_read(index, tally, |word| {
            Ok(memory::peek(self.place(index, word)))
        })
    }

    /// As [`Region::verify`], for words that are read by other means.
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
        tally.add(tally::BYTES_VERIFIED, guest::content::PAGE_SIZE);
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
