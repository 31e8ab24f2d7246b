// SPDX-License-Identifier: GPL-2.0

//! The expected content of a page.
//!
//! Contents are computed word by word when they are needed: a stored copy could itself be merged,
//! and be wrong together with the page that it verifies.

use guest::memory::content;
use guest::memory::content::WORDS;
use guest::rng::Rng;

/// Number of contents that workers of all users share, besides the page of zeros.
const LETTERS: u64 = 16;
/// Number of words that may be changed before a page has to be refilled.
const POKES: usize = 16;

/// The content of a whole page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// All zeros.
    #[default]
    Zero,
    /// One of the shared contents.
    Letter(u64),
    /// As that letter, except for the last word.
    Near(u64),
    /// A content that no other page has.
    Unique(u64),
}

impl Content {
    /// A random content, often one of the shared ones.
    pub fn any(rng: &mut Rng) -> Self {
        match rng.below(20) {
            0..=11 => Content::letter(rng),
            12 | 13 => Content::Zero,
            14..=16 => Content::Near(1 + rng.below(LETTERS)),
            _ => Content::unique(rng),
        }
    }

    /// A shared content.
    pub fn letter(rng: &mut Rng) -> Self {
        Content::Letter(1 + rng.below(LETTERS))
    }

    /// A content that no other page has.
    pub fn unique(rng: &mut Rng) -> Self {
        Content::Unique(rng.number() | (1 << 63))
    }

    /// Word `index` of it.
    pub fn word(self, index: usize) -> u64 {
        match self {
            Content::Zero => 0,
            Content::Near(id) if index == WORDS - 1 => !content::word(id, index),
            Content::Letter(id) | Content::Near(id) | Content::Unique(id) => {
                content::word(id, index)
            }
        }
    }

    /// Its bytes.
    pub fn bytes(self) -> Vec<u8> {
        content::bytes(|index| self.word(index))
    }

    /// The shared content with this word at `index`, if there is one.
    pub fn of_word(index: usize, word: u64) -> Option<Self> {
        let letters = (1..=LETTERS).flat_map(|id| [Content::Letter(id), Content::Near(id)]);
        std::iter::once(Content::Zero)
            .chain(letters)
            .find(|content| content.word(index) == word)
    }
}

/// A page: its content, and the words that were changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    content: Content,
    pokes: Vec<(usize, u64)>,
}

impl Page {
    /// A page filled with `content`.
    pub fn of(content: Content) -> Self {
        Page {
            content,
            pokes: Vec::new(),
        }
    }

    /// The content that it was filled with.
    pub fn content(&self) -> Content {
        self.content
    }

    /// Returns whether one more word may be changed.
    pub fn can_poke(&self) -> bool {
        self.pokes.len() < POKES
    }

    /// Changes a word.
    pub fn poke(&mut self, index: usize, value: u64) {
        self.pokes.retain(|&(other, _)| other != index);
        self.pokes.push((index, value));
    }

    /// Word `index`.
    pub fn word(&self, index: usize) -> u64 {
        let poked = self.pokes.iter().find(|&&(other, _)| other == index);
        poked.map_or_else(|| self.content.word(index), |&(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_pages_differ_in_the_last_word_only() {
        let (page, near) = (Page::of(Content::Letter(3)), Page::of(Content::Near(3)));
        assert!((0..WORDS - 1).all(|index| page.word(index) == near.word(index)));
        assert_ne!(page.word(WORDS - 1), near.word(WORDS - 1));
    }

    #[test]
    fn the_last_poke_counts() {
        let mut page = Page::of(Content::Zero);
        page.poke(5, 1);
        page.poke(5, 2);
        assert_eq!([page.word(4), page.word(5)], [0, 2]);
    }

    #[test]
    fn contents_are_told_by_a_word() {
        let content = Content::Letter(7);
        assert_eq!(Content::of_word(9, content.word(9)), Some(content));
        assert_eq!(Content::of_word(9, 12_345), None);
    }
}
