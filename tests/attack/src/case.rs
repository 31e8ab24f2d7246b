// SPDX-License-Identifier: GPL-2.0

//! The cases: who attacks whom, under which scanner with which settings.

use guest::kernel::cgroup::Cgroup;
use guest::ksm_v::knob;
use guest::ksm_v::mainline::Mainline;
use guest::ksm_v::mainline::Server;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::process::channel::Attack;
use guest::process::channel::Notes;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::Result;

/// The number of guesses in one attack; a case repeats it with new processes.
pub const GUESSES: u64 = 16_384;
/// The number of passes before the attacker writes: one more than merging needs.
const PASSES: u64 = 3;

/// What a case must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: the attacker learns no more than by guessing.
    Nothing,
    /// The victim's pages. These cases show that the attack works.
    Pages,
}

/// Who merges.
#[derive(Clone, Copy, Debug)]
enum Merger {
    /// The module, with these knobs.
    KsmV(&'static [(&'static str, &'static str)]),
    /// Mainline's scanner. Both processes have registered all their memory.
    Ksmd,
}

/// A case.
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// Attacker, victim and scanner.
    pub about: &'static str,
    /// What it must find.
    pub expected: Expected,
    merger: Merger,
    players: fn(&Lab) -> Result<Players>,
    /// How many pages with each guess the attacker has.
    copies: usize,
}

/// The two processes, and what has to live as long.
struct Players {
    attacker: Peer,
    victim: Peer,
    _master: Option<Peer>,
    _cgroups: Option<[Cgroup; 2]>,
}

impl Players {
    fn of(attacker: Peer, victim: Peer) -> Self {
        Players {
            attacker,
            victim,
            _master: None,
            _cgroups: None,
        }
    }
}

/// All cases.
pub const CASES: &[Case] = &[
    Case {
        name: "user",
        about: "another user, `domain` `user`",
        expected: Expected::Nothing,
        merger: Merger::KsmV(&[]),
        players: two_users,
        copies: 1,
    },
    Case {
        name: "doubles",
        about: "the same, and the attacker has each guess twice",
        expected: Expected::Nothing,
        merger: Merger::KsmV(&[]),
        players: two_users,
        copies: 2,
    },
    Case {
        name: "cgroup",
        about: "the same user in another cgroup, `domain` `cgroup`",
        expected: Expected::Nothing,
        merger: Merger::KsmV(&[("domain", "cgroup")]),
        players: two_cgroups,
        copies: 1,
    },
    Case {
        name: "process",
        about: "another process of the same user, `domain` `process`",
        expected: Expected::Nothing,
        merger: Merger::KsmV(&[("domain", "process")]),
        players: one_user,
        copies: 1,
    },
    Case {
        name: "worker",
        about: "a worker of a server that dropped root, and an outsider of the same user",
        expected: Expected::Nothing,
        merger: Merger::KsmV(&[]),
        players: a_worker,
        copies: 1,
    },
    Case {
        name: "zero",
        about: "another user, `domain` `global`, `content` `zero`",
        expected: Expected::Nothing,
        merger: Merger::KsmV(&[("domain", "global"), ("content", "zero")]),
        players: two_users,
        copies: 1,
    },
    Case {
        name: "same-user",
        about: "another process of the same user, `domain` `user`",
        expected: Expected::Pages,
        merger: Merger::KsmV(&[]),
        players: one_user,
        copies: 1,
    },
    Case {
        name: "global",
        about: "another user, `domain` `global`",
        expected: Expected::Pages,
        merger: Merger::KsmV(&[("domain", "global")]),
        players: two_users,
        copies: 1,
    },
    Case {
        name: "ksmd",
        about: "another user, mainline's ksmd",
        expected: Expected::Pages,
        merger: Merger::Ksmd,
        players: two_users,
        copies: 1,
    },
];

impl Case {
    /// Attacks once, with two new processes.
    pub fn play(&self, lab: &Lab, seed: u64) -> Result<Notes> {
        scanner::settle_knobs()?;
        let players = (self.players)(lab)?;
        let (attacker, victim) = (&players.attacker, &players.victim);
        let attack = Attack {
            attacker,
            victim,
            guesses: GUESSES,
            copies: self.copies,
            seed,
        };
        match self.merger {
            Merger::KsmV(knobs) => {
                for (name, value) in knobs {
                    knob::set(name, value)?;
                }
                attack.run(|| scanner::scan(PASSES))
            }
            Merger::Ksmd => {
                let ksmd = Mainline::of(Server::Ksmd)?;
                attacker.register_all()?;
                victim.register_all()?;
                attack.run(|| ksmd.scan(PASSES))
            }
        }
    }
}

fn two_users(lab: &Lab) -> Result<Players> {
    Ok(Players::of(lab.alice()?, lab.peer(User::Bob)?))
}

fn one_user(lab: &Lab) -> Result<Players> {
    let (attacker, victim) = lab.pair()?;
    Ok(Players::of(attacker, victim))
}

fn two_cgroups(lab: &Lab) -> Result<Players> {
    let (one, other) = (Cgroup::new("attacker")?, Cgroup::new("victim")?);
    let attacker = lab.peer_in(User::Alice, &one)?;
    let victim = lab.peer_in(User::Alice, &other)?;
    Ok(Players {
        _cgroups: Some([one, other]),
        ..Players::of(attacker, victim)
    })
}

fn a_worker(lab: &Lab) -> Result<Players> {
    let master = lab.peer(User::Root)?;
    let victim = master.fork()?;
    victim.become_user(User::Alice)?;
    Ok(Players {
        _master: Some(master),
        ..Players::of(lab.alice()?, victim)
    })
}
