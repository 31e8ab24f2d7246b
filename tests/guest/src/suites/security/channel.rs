// SPDX-License-Identifier: GPL-2.0

//! The copy-on-write channel: what the first write to a page reveals about other processes.
//!
//! Known from Bosman et al., "Dedup Est Machina" (IEEE S&P 2016), and earlier work: the attacker
//! fills pages with guesses, waits for the scanner and writes to each page. A write to a merged page
//! causes a fault and a copy. The attacker sees it in the duration of the write, and exactly in its
//! own page fault count.

use guest::expect;
use guest::expect::statistics::critical_distance;
use guest::expect::statistics::kolmogorov_smirnov;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::process::peer::attack;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::rng;
use guest::rng::Rng;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    writes_tell_who_has_a_page_with_domain_global,
    writes_tell_nothing_of_other_users,
    writes_to_doubles_tell_nothing_of_other_users,
    writes_to_zeros_tell_nothing_of_other_users,
    writes_tell_nothing_of_other_processes_with_domain_process,
    writes_tell_workers_what_their_siblings_have,
    writes_tell_nothing_of_the_workers_of_a_server,
];

/// The number of the attacker's guesses; the victim has half of them.
const GUESSES: u64 = 2048;
/// The content of the first guess.
const FIRST: u64 = 10_000;
/// The probability that a run fails without any leak: 1 in 1,000,000. The right guesses and the order
/// of writes are random, so a busy machine disturbs right and wrong guesses alike.
const SIGNIFICANCE: f64 = 1e-6;
/// The number of scanner passes: twice as many as needed.
const PASSES: u64 = 6;
/// The CPU that the attacker runs on.
const CPU: u64 = 1;

/// The attacker's records, separated into guesses that the victim has and guesses that it does not
/// have.
struct Notes {
    right: Vec<Note>,
    wrong: Vec<Note>,
}

/// The attacker's record of one write.
#[derive(Clone, Copy)]
struct Note {
    cycles: u64,
    faults: u64,
}

impl Notes {
    /// The distance between the distributions of `observed` for right and for wrong guesses.
    fn distance(&self, observed: impl Fn(&Note) -> u64 + Copy) -> f64 {
        let of = |notes: &[Note]| -> Vec<u64> { notes.iter().map(observed).collect() };
        kolmogorov_smirnov(&of(&self.right), &of(&self.wrong))
    }

    fn distances(&self, what: &str) -> (f64, f64) {
        let distances = (
            self.distance(|note| note.cycles),
            self.distance(|note| note.faults),
        );
        println!(
            "security: {what}: Kolmogorov-Smirnov D of times {:.4}, of faults {:.4}, critical {:.4}",
            distances.0,
            distances.1,
            self.critical()
        );
        distances
    }

    fn critical(&self) -> f64 {
        critical_distance(self.right.len(), self.wrong.len(), SIGNIFICANCE)
    }
}

/// Performs the attack: the attacker has `copies` pages with each guess and writes to the first copies.
fn attack(attacker: &Peer, victim: &Peer, copies: usize) -> Result<Notes> {
    let guesses = attacker.anon(GUESSES, Ids::each(FIRST))?;
    for _ in 1..copies {
        attacker.anon(GUESSES, Ids::each(FIRST))?;
    }
    let right = drawn_half();
    let victims = victim.map(Kind::Anon, GUESSES / 2)?;
    let held = (0..GUESSES).filter(|&guess| right[guess as usize]);
    for (place, guess) in held.enumerate() {
        victim.fill(victims.page(place as u64), Ids::same(FIRST + guess))?;
    }
    scanner::scan(PASSES)?;
    let notes = write_and_note(attacker, guesses)?;
    let of = |wanted: bool| -> Vec<Note> {
        let both = notes.iter().zip(&right);
        let chosen = both.filter(|(_, &right)| right == wanted);
        chosen.map(|(&note, _)| note).collect()
    };
    Ok(Notes {
        right: of(true),
        wrong: of(false),
    })
}

/// Chooses the guesses that the victim has: a random half.
fn drawn_half() -> Vec<bool> {
    let mut rng = Rng::new(rng::seed());
    let mut right: Vec<bool> = (0..GUESSES).map(|guess| guess % 2 == 0).collect();
    for end in (1..right.len()).rev() {
        right.swap(end, rng.below(end as u64 + 1) as usize);
    }
    right
}

/// Makes the attacker write to each page once, in random order.
fn write_and_note(attacker: &Peer, span: Span) -> Result<Vec<Note>> {
    let place = attacker.map(Kind::Anon, attack::pages_of_notes(span.pages))?;
    attacker.touch(place)?;
    attacker.ask("cpu", &[CPU])?;
    attacker.ask("probe", &[span.addr, span.pages, place.addr, rng::seed()])?;
    let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
    let notes = attacker.read(place)?;
    let notes = notes.chunks_exact(attack::NOTE_BYTES as usize);
    let notes = notes.map(|note| Note {
        cycles: number(&note[..8]),
        faults: number(&note[8..]),
    });
    Ok(notes.take(span.pages as usize).collect())
}

/// The attack must see the channel here; otherwise the other tests would prove nothing.
fn writes_tell_who_has_a_page_with_domain_global(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let notes = attack(&lab.alice()?, &lab.peer(User::Bob)?, 1)?;
    let (times, faults) = notes.distances("domain=global");
    expect::within("distance of the fault counts", 0.99..=1.0, faults)?;
    expect::within("distance of the times", notes.critical()..=1.0, times)
}

fn expect_hidden(notes: &Notes, what: &str) -> Result {
    let (times, faults) = notes.distances(what);
    expect::within(
        "distance of the fault counts",
        0.0..=notes.critical(),
        faults,
    )?;
    expect::within("distance of the times", 0.0..=notes.critical(), times)
}

fn total_faults(notes: &[Note]) -> u64 {
    notes.iter().map(|note| note.faults).sum()
}

fn writes_tell_nothing_of_other_users(lab: &Lab) -> Result {
    let notes = attack(&lab.alice()?, &lab.peer(User::Bob)?, 1)?;
    expect_hidden(&notes, "domain=user")?;
    // Nothing was merged.
    let faults = total_faults(&notes.right) + total_faults(&notes.wrong);
    expect::within("faults at first writes", 0..=GUESSES / 100, faults)
}

/// The attacker's own duplicates are merged, so every write causes a fault and a copy, whether the
/// victim has the page or not.
fn writes_to_doubles_tell_nothing_of_other_users(lab: &Lab) -> Result {
    let notes = attack(&lab.alice()?, &lab.peer(User::Bob)?, 2)?;
    expect_hidden(&notes, "domain=user, two copies of each guess")?;
    let faults = total_faults(&notes.right) + total_faults(&notes.wrong);
    expect::within(
        "faults at first writes",
        GUESSES..=GUESSES + GUESSES / 100,
        faults,
    )
}

fn writes_tell_nothing_of_other_processes_with_domain_process(lab: &Lab) -> Result {
    knob::set("domain", "process")?;
    let notes = attack(&lab.alice()?, &lab.alice()?, 1)?;
    expect_hidden(&notes, "domain=process")
}

/// A worker of a server that runs as Alice.
fn worker(master: &Peer) -> Result<Peer> {
    let worker = master.fork()?;
    worker.become_user(User::Alice)?;
    Ok(worker)
}

/// The counterpart of the next test: the attack sees a worker's pages from within the family.
fn writes_tell_workers_what_their_siblings_have(lab: &Lab) -> Result {
    let master = lab.peer(User::Root)?;
    let notes = attack(&worker(&master)?, &worker(&master)?, 1)?;
    let (times, faults) = notes.distances("a sibling");
    expect::within("distance of the fault counts", 0.99..=1.0, faults)?;
    expect::within("distance of the times", notes.critical()..=1.0, times)
}

/// The attacker has the worker's ids. It is dumpable, or as undumpable as the worker.
fn writes_tell_nothing_of_the_workers_of_a_server(lab: &Lab) -> Result {
    for (division, dumpable) in [("user", true), ("user", false), ("global", true)] {
        scanner::settle_knobs()?;
        knob::set("domain", division)?;
        let master = lab.peer(User::Root)?;
        let attacker = lab.alice()?;
        attacker.set_dumpable(dumpable)?;
        let notes = attack(&attacker, &worker(&master)?, 1)?;
        let what = format!("domain={division}, a worker and an outsider, dumpable: {dumpable}");
        expect_hidden(&notes, &what)?;
        let faults = total_faults(&notes.right) + total_faults(&notes.wrong);
        expect::within("faults at first writes", 0..=GUESSES / 100, faults)?;
    }
    Ok(())
}

/// Pages of zeros are merged into the kernel's shared zero page, whether or not other processes have
/// such pages, too.
fn writes_to_zeros_tell_nothing_of_other_users(lab: &Lab) -> Result {
    let faults = |zeros_of_victim: u64| -> Result<u64> {
        let victim = lab.peer(User::Bob)?;
        if zeros_of_victim > 0 {
            victim.anon(zeros_of_victim, Ids::ZERO)?;
        }
        let attacker = lab.alice()?;
        let zeros = attacker.anon(256, Ids::ZERO)?;
        scanner::scan(PASSES)?;
        Ok(total_faults(&write_and_note(&attacker, zeros)?))
    };
    let (without, with) = (faults(0)?, faults(256)?);
    expect::eq("faults where the victim has pages of zeros", without, with)?;
    expect::eq("faults at first writes", 256, with)
}
