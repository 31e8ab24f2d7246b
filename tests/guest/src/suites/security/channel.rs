// SPDX-License-Identifier: GPL-2.0

//! The copy-on-write channel ([`guest::process::channel`]): who learns by it what a victim has, and who does not.

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::process::channel::total_faults;
use guest::process::channel::write_and_note;
use guest::process::channel::Attack;
use guest::process::channel::Notes;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::rng;
use guest::tests;
use guest::Result;

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
/// The number of scanner passes: twice as many as needed.
const PASSES: u64 = 6;

/// Performs the attack: the attacker has `copies` pages with each guess and writes to the first copies.
fn attack(attacker: &Peer, victim: &Peer, copies: usize) -> Result<Notes> {
    let attack = Attack {
        attacker,
        victim,
        guesses: GUESSES,
        copies,
        seed: rng::seed(),
    };
    attack.run(|| scanner::scan(PASSES))
}

/// The distances of times and of faults, which this also prints.
fn distances(notes: &Notes, what: &str) -> (f64, f64) {
    let distances = (notes.distance_of_times(), notes.distance_of_faults());
    println!(
        "security: {what}: Kolmogorov-Smirnov D of times {:.4}, of faults {:.4}, critical {:.4}",
        distances.0,
        distances.1,
        notes.critical()
    );
    distances
}

/// The attack must see the channel here; otherwise the other tests would prove nothing.
fn writes_tell_who_has_a_page_with_domain_global(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let notes = attack(&lab.alice()?, &lab.peer(User::Bob)?, 1)?;
    let (times, faults) = distances(&notes, "domain=global");
    expect::within("distance of the fault counts", 0.99..=1.0, faults)?;
    expect::within("distance of the times", notes.critical()..=1.0, times)
}

fn expect_hidden(notes: &Notes, what: &str) -> Result {
    let (times, faults) = distances(notes, what);
    expect::within(
        "distance of the fault counts",
        0.0..=notes.critical(),
        faults,
    )?;
    expect::within("distance of the times", 0.0..=notes.critical(), times)
}

fn writes_tell_nothing_of_other_users(lab: &Lab) -> Result {
    let notes = attack(&lab.alice()?, &lab.peer(User::Bob)?, 1)?;
    expect_hidden(&notes, "domain=user")?;
    // Nothing was merged.
    expect::within("faults at first writes", 0..=GUESSES / 100, notes.faults())
}

/// The attacker's own duplicates are merged, so every write causes a fault and a copy, whether the
/// victim has the page or not.
fn writes_to_doubles_tell_nothing_of_other_users(lab: &Lab) -> Result {
    let notes = attack(&lab.alice()?, &lab.peer(User::Bob)?, 2)?;
    expect_hidden(&notes, "domain=user, two copies of each guess")?;
    expect::within(
        "faults at first writes",
        GUESSES..=GUESSES + GUESSES / 100,
        notes.faults(),
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
    let (times, faults) = distances(&notes, "a sibling");
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
        expect::within("faults at first writes", 0..=GUESSES / 100, notes.faults())?;
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
        Ok(total_faults(&write_and_note(
            &attacker,
            zeros,
            rng::seed(),
        )?))
    };
    let (without, with) = (faults(0)?, faults(256)?);
    expect::eq("faults where the victim has pages of zeros", without, with)?;
    expect::eq("faults at first writes", 256, with)
}
