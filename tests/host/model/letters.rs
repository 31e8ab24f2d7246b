// SPDX-License-Identifier: GPL-2.0

//! A small alphabet of page contents, chosen to be easily confused.

use engine::content::WORDS;
use engine::Content;

/// A name for the content of a page. Different letters are different contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Letter(pub u32);

/// All bytes zero.
pub const ZERO: Letter = Letter(0);

/// Letters below this one are special cases.
pub const ALPHABET: u32 = 7;

impl Letter {
    /// The word at `index` of a page with this content.
    const fn spell(self, index: usize) -> u64 {
        let counting = index as u64;
        match (self.0, index) {
            (0, _) => 0,
            // Only the last bit of the page is set.
            (1, 511) => 1 << 63,
            (1, _) => 0,
            (2, _) => counting,
            // Like 2, with two words swapped that are hashed in the same lane.
            (3, 3) => 11,
            (3, 11) => 3,
            // Like 2, with two words swapped that are hashed in different lanes.
            (4, 3) => 4,
            (4, 4) => 3,
            // Like 2, except for the highest bit of the last word (5) or of the first word (6).
            (5, 511) => counting | (1 << 63),
            (6, 0) => 1 << 63,
            (3..ALPHABET, _) => counting,
            // Any number of other contents with a common beginning.
            (name, 511) => name as u64,
            _ => 7,
        }
    }

    /// The whole page, for callers that read it often.
    pub fn page(self) -> Page {
        let mut page = PAGES[self.0.min(ALPHABET) as usize];
        page.0[WORDS - 1] = self.spell(WORDS - 1);
        page
    }
}

impl Content for Letter {
    fn word(&self, index: usize) -> u64 {
        self.spell(index)
    }
}

/// A page, spelt out: its words.
#[derive(Clone, Copy)]
pub struct Page(pub [u64; WORDS]);

impl Content for Page {
    fn word(&self, index: usize) -> u64 {
        self.0[index]
    }
}

/// The special letters, and one of the others.
static PAGES: [Page; ALPHABET as usize + 1] = {
    let mut pages = [Page([0; WORDS]); ALPHABET as usize + 1];
    let mut at = 0;
    while at < pages.len() * WORDS {
        let (letter, index) = (at / WORDS, at % WORDS);
        pages[letter].0[index] = Letter(letter as u32).spell(index);
        at += 1;
    }
    pages
};

#[cfg(test)]
mod tests {
    use super::*;
    use engine::content::same;

    #[test]
    fn different_letters_are_different_contents() {
        let words =
            |letter: u32| -> Vec<u64> { (0..WORDS).map(|i| Letter(letter).word(i)).collect() };
        let all: std::collections::HashSet<Vec<u64>> = (0..ALPHABET + 3).map(words).collect();
        assert_eq!(all.len(), 10);
        assert!(ZERO.is_zero());
        assert!((1..ALPHABET + 3).all(|letter| !Letter(letter).is_zero()));
    }

    #[test]
    fn a_page_is_its_letter_spelt_out() {
        for letter in (0..ALPHABET + 3).map(Letter) {
            assert!(same(&letter, &letter.page()), "{letter:?}");
        }
    }

    #[test]
    fn only_equal_pages_are_the_same() {
        for one in (0..ALPHABET + 3).map(Letter) {
            for other in (0..ALPHABET + 3).map(Letter) {
                assert_eq!(same(&one, &other), one == other, "{one:?}, {other:?}");
            }
        }
    }
}
