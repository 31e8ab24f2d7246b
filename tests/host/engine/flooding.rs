// SPDX-License-Identifier: GPL-2.0

//! Pages that an attacker makes to collide. The attacker knows the code but not the seed.
//!
//! Each family of pages is made for one weakness of a hash: many of its pages collide in a hash with
//! this weakness, whatever its initial value is. The weaknesses are word-wise FNV-1a, a sum or an
//! exclusive or of words, and lanes that can be exchanged. In the scanner's index, each page must have
//! a key of its own, and be found as fast as pages of random words.

use crate::property;
use engine::content::WORDS;
use engine::hash::mix;
use engine::table::Entry;
use engine::table::Table;
use engine::HashKind;
use engine::KsmScanner;
use engine::PageHash;
use model::letters::Page;
use model::memory::Memory;
use proptest::prelude::any;
use std::cell::Cell;
use std::collections::HashSet;

/// Number of pages of a family.
const PAGES: u64 = 1 << BITS;
/// Number of choices that make a page of most families: each change is made or not.
const BITS: u32 = 9;
/// Lanes of the wide hash.
const LANES: usize = 8;
/// Number of words that all lanes take in one step, two each: words `i` and `i + ROW` go into one lane.
const ROW: usize = 2 * LANES;
/// Number of seeds tried in a run, newly drawn in each run.
const SEEDS: u32 = 6;

/// The words of a page, given its number in the family.
type Family = fn(u64) -> [u64; WORDS];

const FAMILIES: [(&str, Family); 14] = [
    ("random words", random),
    ("highest bits of two words of a lane", highest_bits),
    ("highest bits of two lanes", highest_bits_across),
    (
        "highest bits of the two words of a step",
        highest_bits_in_step,
    ),
    ("words of a step exchanged", exchanged_in_step),
    ("multiples of a high power of two", high_multiples),
    ("words of a lane exchanged", exchanged_in_lane),
    ("lanes exchanged", exchanged_lanes),
    ("rows exchanged", exchanged_rows),
    ("changes made up for in FNV-1a", made_up_for),
    ("changes made up for in a sum", made_up_in_sum),
    ("words inverted", inverted),
    ("one value everywhere", constant),
    ("one word that is not zero", single),
];

/// An ordinary page, and its words.
fn base() -> [u64; WORDS] {
    std::array::from_fn(|index| mix(index as u64 + 1))
}

fn chosen(page: u64) -> impl Iterator<Item = usize> {
    (0..BITS as usize).filter(move |bit| (page >> bit) & 1 == 1)
}

/// The base page with `change` made for each choice of the page.
fn changed(page: u64, change: impl Fn(&mut [u64; WORDS], usize)) -> [u64; WORDS] {
    let mut words = base();
    chosen(page).for_each(|choice| change(&mut words, choice));
    words
}

fn random(page: u64) -> [u64; WORDS] {
    std::array::from_fn(|index| mix((page << 32) | index as u64))
}

/// Two changes of the highest bit cancel out if only the low half of a product is kept.
fn highest_bits(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        words[2 * choice * ROW] ^= 1 << 63;
        words[(2 * choice + 1) * ROW] ^= 1 << 63;
    })
}

fn highest_bits_across(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        words[choice * ROW] ^= 1 << 63;
        words[choice * ROW + 2] ^= 1 << 63;
    })
}

fn highest_bits_in_step(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        words[choice * ROW] ^= 1 << 63;
        words[choice * ROW + 1] ^= 1 << 63;
    })
}

fn exchanged_in_step(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        words.swap(choice * ROW, choice * ROW + 1)
    })
}

/// A change added at the top stays at the top, and is subtracted there again.
fn high_multiples(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        let change = 3 << 60;
        let (first, second) = (2 * choice * ROW, (2 * choice + 1) * ROW);
        words[first] = words[first].wrapping_add(change);
        words[second] = words[second].wrapping_sub(change);
    })
}

fn exchanged_in_lane(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        words.swap(2 * choice * ROW + 1, (2 * choice + 1) * ROW + 1);
    })
}

/// Two whole lanes change places; three choices together select one of eight orders.
fn exchanged_lanes(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        let (from, to) = (choice % LANES, (choice * choice + 1) % LANES);
        // Only from some row on, so that no two choices cancel each other.
        for row in choice..WORDS / ROW {
            for word in 0..2 {
                words.swap(row * ROW + 2 * from + word, row * ROW + 2 * to + word);
            }
        }
    })
}

fn exchanged_rows(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        for word in 0..ROW {
            words.swap(2 * choice * ROW + word, (2 * choice + 1) * ROW + word);
        }
    })
}

/// Collisions of FNV-1a with its public basis and prime: after the first two words of a lane, the state
/// is the state of the base.
fn made_up_for(page: u64) -> [u64; WORDS] {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    let state = |word: u64| (BASIS ^ word).wrapping_mul(PRIME);
    let mut words = base();
    let before = state(words[0]);
    words[0] ^= page;
    words[ROW] ^= before ^ state(words[0]);
    words
}

fn made_up_in_sum(page: u64) -> [u64; WORDS] {
    let mut words = base();
    words[3 * ROW] = words[3 * ROW].wrapping_add(page);
    words[5 * ROW] = words[5 * ROW].wrapping_sub(page);
    words
}

/// Also the two's complement, up to one, of a factor of a product.
fn inverted(page: u64) -> [u64; WORDS] {
    changed(page, |words, choice| {
        words[2 * choice * ROW] = !words[2 * choice * ROW];
        words[(2 * choice + 1) * ROW] = !words[(2 * choice + 1) * ROW];
    })
}

fn constant(page: u64) -> [u64; WORDS] {
    [page + 1; WORDS]
}

fn single(page: u64) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    words[page as usize % WORDS] = 1 << (page * 7 % 64);
    words
}

fn pages(family: Family) -> impl Iterator<Item = Page> {
    (0..PAGES).map(move |page| Page(family(page)))
}

#[test]
fn the_pages_of_a_family_differ() {
    for (name, family) in FAMILIES {
        let different: HashSet<[u64; WORDS]> = (0..PAGES).map(family).collect();
        assert_eq!(different.len() as u64, PAGES, "{name}");
    }
}

/// The documented call merges pages with equal keys: it compares no bytes.
#[test]
fn no_two_pages_have_one_key() {
    property::holds(SEEDS, any::<u64>(), |seed| {
        for (name, family) in FAMILIES {
            let mut scanner = KsmScanner::with(Memory::default(), HashKind::Wide, seed);
            scanner.set_promote_after(1);
            for (frame, page) in pages(family).enumerate() {
                let merged = scanner.scan_page(frame as u64, &page);
                assert!(!merged, "{name}: page {frame}");
            }
        }
    });
}

thread_local! {
    /// Number of reads of an entry's key.
    static PROBES: Cell<u32> = const { Cell::new(0) };
}

/// An entry that is found like an entry of the index, and counts reads of its key.
#[derive(Clone, Copy, Default)]
struct Probe {
    key: u64,
    used: bool,
}

impl Entry for Probe {
    fn is_vacant(&self) -> bool {
        !self.used
    }

    fn hash(&self) -> u64 {
        PROBES.set(PROBES.get() + 1);
        if self.used {
            self.key
        } else {
            u64::MAX
        }
    }
}

/// Number of slots read to insert all pages of a family into a table and to find them again.
fn probes(seed: u64, family: Family) -> u32 {
    let hash = PageHash::new(HashKind::Wide, seed);
    let mut table = Table::<Probe, Memory>::new();
    PROBES.set(0);
    for page in pages(family) {
        let key = hash.of(&page);
        let probe = Probe { key, used: true };
        table.insert(&Memory::default(), probe).unwrap();
        assert!(table.get(key).is_some());
    }
    PROBES.get()
}

#[test]
fn finding_a_page_costs_at_most_twice_the_normal() {
    property::holds(SEEDS, any::<u64>(), |seed| {
        let normal = probes(seed, random);
        for (name, family) in FAMILIES {
            let cost = probes(seed, family);
            assert!(
                cost <= 2 * normal,
                "{name}: {cost} probes, normally {normal}"
            );
        }
    });
}
