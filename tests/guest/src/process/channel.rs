// SPDX-License-Identifier: GPL-2.0

//! The copy-on-write channel: what the first write to a page reveals about other processes.
//!
//! Known from Bosman et al., "Dedup Est Machina" (IEEE S&P 2016), and earlier work: the attacker
//! fills pages with guesses, waits for the scanner and writes to each page. A write to a merged page
//! causes a fault and a copy. The attacker sees it in the duration of the write, and exactly in its
//! own page fault count.

use crate::expect::statistics::critical_distance;
use crate::expect::statistics::kolmogorov_smirnov;
use crate::memory::content::Ids;
use crate::process::peer::attack;
use crate::process::peer::Kind;
use crate::process::peer::Peer;
use crate::rng::Rng;
use crate::Result;
use crate::Span;

/// The probability that [`Notes::critical`] is exceeded without any leak: 1 in 1,000,000.
const SIGNIFICANCE: f64 = 1e-6;
/// The content of the first guess.
const FIRST: u64 = 10_000;
/// The CPU that the attacker runs on.
const CPU: u64 = 1;

/// An attack. The right guesses and the order of writes are random, so a busy machine disturbs right and
/// wrong guesses alike.
pub struct Attack<'a> {
    /// Who guesses.
    pub attacker: &'a Peer,
    /// Who has a page of half of the guesses.
    pub victim: &'a Peer,
    /// The number of guesses.
    pub guesses: u64,
    /// How many pages with each guess the attacker has. It writes to the first ones.
    pub copies: usize,
    /// The seed of all random choices.
    pub seed: u64,
}

impl Attack<'_> {
    /// Makes the pages, lets `scan` merge what it merges, and writes.
    pub fn run(&self, scan: impl FnOnce() -> Result) -> Result<Notes> {
        let guesses = self.attacker.anon(self.guesses, Ids::each(FIRST))?;
        for _ in 1..self.copies {
            self.attacker.anon(self.guesses, Ids::each(FIRST))?;
        }
        let is_right = drawn_half(self.guesses, self.seed);
        let held = (FIRST..).zip(&is_right).filter(|(_, &is_right)| is_right);
        let victims = self.victim.map(Kind::Anon, self.guesses / 2)?;
        self.victim.write(victims, held.map(|(guess, _)| guess))?;
        scan()?;
        let notes = write_and_note(self.attacker, guesses, self.seed)?;
        let mut noted = Notes::default();
        for (note, is_right) in notes.into_iter().zip(is_right) {
            let kind = if is_right {
                &mut noted.right
            } else {
                &mut noted.wrong
            };
            kind.push(note);
        }
        Ok(noted)
    }
}

/// Draws a random half of `count` guesses: those that the victim has.
fn drawn_half(count: u64, seed: u64) -> Vec<bool> {
    let mut rng = Rng::new(seed);
    let mut right: Vec<bool> = (0..count).map(|guess| guess % 2 == 0).collect();
    for end in (1..right.len()).rev() {
        right.swap(end, rng.below(end as u64 + 1) as usize);
    }
    right
}

/// Makes the attacker write to each page once, in random order.
pub fn write_and_note(attacker: &Peer, span: Span, seed: u64) -> Result<Vec<Note>> {
    let place = attacker.map(Kind::Anon, attack::pages_of_notes(span.pages))?;
    attacker.touch(place)?;
    attacker.ask("cpu", &[CPU])?;
    attacker.ask("probe", &[span.addr, span.pages, place.addr, seed])?;
    let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
    let notes = attacker.read(place)?;
    let notes = notes.chunks_exact(attack::NOTE_BYTES as usize);
    let notes = notes.map(|note| Note {
        cycles: number(&note[..8]),
        faults: number(&note[8..]),
    });
    Ok(notes.take(span.pages as usize).collect())
}

/// The attacker's record of one write.
#[derive(Clone, Copy)]
pub struct Note {
    cycles: u64,
    faults: u64,
}

/// The number of faults of all these writes.
pub fn total_faults(notes: &[Note]) -> u64 {
    notes.iter().map(|note| note.faults).sum()
}

/// The attacker's records, separated into guesses that the victim has and guesses that it does not
/// have.
#[derive(Default)]
pub struct Notes {
    right: Vec<Note>,
    wrong: Vec<Note>,
}

impl Notes {
    /// Adds the records of another attack.
    pub fn add(&mut self, other: Notes) {
        self.right.extend(other.right);
        self.wrong.extend(other.wrong);
    }

    /// The distance between the durations of writes for right and for wrong guesses.
    pub fn distance_of_times(&self) -> f64 {
        self.distance(|note| note.cycles)
    }

    /// The distance between the fault counts for right and for wrong guesses.
    pub fn distance_of_faults(&self) -> f64 {
        self.distance(|note| note.faults)
    }

    /// The distance between the distributions of `observed` for right and for wrong guesses. This is also the
    /// advantage of the best attacker who decides by a threshold: the probability that it says yes if the
    /// victim has the page, minus the probability that it says yes if not.
    fn distance(&self, observed: impl Fn(&Note) -> u64 + Copy) -> f64 {
        let of = |notes: &[Note]| -> Vec<u64> { notes.iter().map(observed).collect() };
        kolmogorov_smirnov(&of(&self.right), &of(&self.wrong))
    }

    /// The distance that so many records exceed by chance with a probability of one in a million.
    pub fn critical(&self) -> f64 {
        critical_distance(self.right.len(), self.wrong.len(), SIGNIFICANCE)
    }

    /// The number of faults at all first writes.
    pub fn faults(&self) -> u64 {
        total_faults(&self.right) + total_faults(&self.wrong)
    }
}
