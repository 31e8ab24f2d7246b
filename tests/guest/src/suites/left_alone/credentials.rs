// SPDX-License-Identifier: GPL-2.0

//! Processes with unusual credentials: one test for each row of the table in
//! `Documentation/security.md`.
//!
//! Alice guesses 16 pages of a process that shares an ID with her, and counts how many of her guesses
//! are merged with its pages: all or none.

use std::io;

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::child;
use guest::process::child::CAP_NET_RAW;
use guest::process::peer::become_user;
use guest::process::peer::server::register_all;
use guest::process::peer::spawn;
use guest::process::peer::Ids3;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::peer::User::Alice;
use guest::process::peer::User::Bob;
use guest::process::peer::User::Root;
use guest::process::privileged::expect_ids;
use guest::process::privileged::Gift;
use guest::process::privileged::Program;
use guest::process::privileged::SuidDumpable;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    an_ordinary_process_is_guessed,
    a_set_user_id_program_is_left_alone,
    a_set_user_id_program_is_left_alone_in_every_domain,
    a_set_user_id_program_that_made_itself_dumpable_is_left_alone,
    a_set_user_id_program_that_became_its_caller_is_left_alone,
    a_set_user_id_program_that_became_its_owner_is_left_alone,
    a_child_of_a_set_user_id_program_is_left_alone,
    a_set_group_id_program_is_left_alone,
    a_set_group_id_program_that_left_its_group_is_left_alone,
    a_program_with_a_file_capability_is_left_alone,
    a_program_that_dropped_its_file_capability_is_left_alone,
    suid_dumpable_1_bares_only_what_ptrace_would,
    suid_dumpable_2_bares_nothing,
    a_program_its_user_cannot_read_is_left_alone,
    a_process_with_mixed_user_ids_is_left_alone,
    a_process_with_mixed_group_ids_is_left_alone,
    a_user_in_another_group_is_another,
    a_server_that_dropped_its_ids_is_merged_if_registered,
    a_server_that_kept_its_capabilities_is_left_alone,
    who_drops_its_ids_and_executes_is_an_ordinary_process,
    capabilities_that_exceed_the_users_are_a_domain,
    capabilities_in_ones_own_namespace_are_none,
    an_undumpable_process_is_merged_if_registered,
];

const PAGES: u64 = 16;
const IDS: Ids = Ids::each(100);
const CONTROLS: Ids = Ids::each(500);

/// The number of pages guessed by `guesser` that are merged with pages of `victim`.
fn count_guessed(guesser: &Peer, victim: &Peer) -> Result<usize> {
    let (secret, guess) = (victim.anon(PAGES, IDS)?, guesser.anon(PAGES, IDS)?);
    scanner::scan(6)?;
    let (secret, guess) = (victim.frames(secret)?, guesser.frames(guess)?);
    let pairs = secret.iter().zip(&guess);
    Ok(pairs.filter(|(secret, guess)| secret == guess).count())
}

/// Expects that Alice guesses this many of the victim's pages. Pages of two of her own processes must
/// be merged meanwhile, or the result would prove nothing.
fn expect_guessed(lab: &Lab, what: &str, expected: u64, victim: &Peer) -> Result {
    let (alice, other) = lab.pair()?;
    let control = (alice.anon(PAGES, CONTROLS)?, other.anon(PAGES, CONTROLS)?);
    let found = count_guessed(&alice, victim)?;
    pages::expect_merged(&[(&alice, control.0), (&other, control.1)])?;
    expect::eq(
        format!("{what}: pages merged with guesses"),
        expected,
        found as u64,
    )
}

const ALL: u64 = PAGES;
const NONE: u64 = 0;

/// Whether the process that starts a program has registered its memory.
const REGISTERED: [bool; 2] = [false, true];

/// Executes a program as the user, with memory registered before or not.
fn execute(lab: &Lab, user: User, program: &str, registered: bool) -> Result<Peer> {
    lab.start(program, move || {
        become_user(user.id())?;
        register_if(registered)
    })
}

fn register_if(registered: bool) -> io::Result<()> {
    if registered {
        register_all()
    } else {
        Ok(())
    }
}

/// A process of root whose memory was registered by its starter or not.
fn daemon(lab: &Lab, registered: bool) -> Result<Peer> {
    execute(lab, Root, spawn::SELF, registered)
}

/// Alice executes a program with a gift; the program then runs `then`. Expects the given numbers of
/// guessed pages for registered and for unregistered memory.
fn expect_privileged(
    lab: &Lab,
    gift: Gift,
    expected: u64,
    then: impl Fn(&Peer) -> Result,
) -> Result {
    let program = Program::new(gift)?;
    for registered in REGISTERED {
        let victim = execute(lab, Alice, program.path(), registered)?;
        then(&victim)?;
        let what = format!("{gift:?}, registered: {registered}");
        expect_guessed(lab, &what, expected, &victim)?;
    }
    Ok(())
}

const SET_USER_ID: Gift = Gift::User(Root);
const SET_GROUP_ID: Gift = Gift::Group(Root);
const CAPABILITY: Gift = Gift::Capability(CAP_NET_RAW);

/// Expects the IDs of a set-user-ID program that Alice has executed.
fn expect_set_user_id(victim: &Peer) -> Result {
    expect_ids(victim.pid(), "Uid", [Alice, Root, Root, Root])
}

fn become_caller(victim: &Peer) -> Result {
    expect_set_user_id(victim)?;
    victim.set_user_ids([Some(Alice); 3])?;
    expect_ids(victim.pid(), "Uid", [Alice; 4])
}

fn leave_group(victim: &Peer) -> Result {
    expect_ids(victim.pid(), "Gid", [Alice, Root, Root, Root])?;
    victim.set_group_ids([Some(Alice); 3])?;
    expect_ids(victim.pid(), "Gid", [Alice; 4])
}

fn nothing(_: &Peer) -> Result {
    Ok(())
}

fn an_ordinary_process_is_guessed(lab: &Lab) -> Result {
    for registered in REGISTERED {
        let victim = execute(lab, Alice, spawn::SELF, registered)?;
        expect_guessed(lab, "an ordinary process", ALL, &victim)?;
    }
    Ok(())
}

fn a_set_user_id_program_is_left_alone(lab: &Lab) -> Result {
    expect_privileged(lab, SET_USER_ID, NONE, expect_set_user_id)?;
    expect_privileged(lab, Gift::User(Bob), NONE, nothing)
}

fn a_set_user_id_program_is_left_alone_in_every_domain(lab: &Lab) -> Result {
    for division in ["cgroup", "global"] {
        scanner::settle_knobs()?;
        knob::set("domain", division)?;
        expect_privileged(lab, SET_USER_ID, NONE, expect_set_user_id)?;
    }
    Ok(())
}

fn a_set_user_id_program_that_made_itself_dumpable_is_left_alone(lab: &Lab) -> Result {
    expect_privileged(lab, SET_USER_ID, NONE, |victim| victim.set_dumpable(true))
}

fn a_set_user_id_program_that_became_its_caller_is_left_alone(lab: &Lab) -> Result {
    expect_privileged(lab, SET_USER_ID, NONE, become_caller)
}

/// The program is merged neither with Alice's pages nor with its owner's.
fn a_set_user_id_program_that_became_its_owner_is_left_alone(lab: &Lab) -> Result {
    let program = Program::new(Gift::User(Bob))?;
    for registered in REGISTERED {
        let victim = execute(lab, Alice, program.path(), registered)?;
        victim.set_user_ids([Some(Bob); 3])?;
        expect_guessed(lab, "a program of Bob", NONE, &victim)?;
        let bob = execute(lab, Bob, spawn::SELF, false)?;
        expect::eq("pages that Bob guesses", 0, count_guessed(&bob, &victim)?)?;
    }
    Ok(())
}

fn a_child_of_a_set_user_id_program_is_left_alone(lab: &Lab) -> Result {
    let program = Program::new(SET_USER_ID)?;
    let victim = execute(lab, Alice, program.path(), true)?;
    become_caller(&victim)?;
    expect_guessed(lab, "a child", NONE, &victim.fork()?)
}

fn a_set_group_id_program_is_left_alone(lab: &Lab) -> Result {
    expect_privileged(lab, SET_GROUP_ID, NONE, nothing)
}

fn a_set_group_id_program_that_left_its_group_is_left_alone(lab: &Lab) -> Result {
    expect_privileged(lab, SET_GROUP_ID, NONE, leave_group)
}

fn a_program_with_a_file_capability_is_left_alone(lab: &Lab) -> Result {
    expect_privileged(lab, CAPABILITY, NONE, nothing)
}

fn a_program_that_dropped_its_file_capability_is_left_alone(lab: &Lab) -> Result {
    expect_privileged(lab, CAPABILITY, NONE, Peer::drop_capabilities)
}

/// With this setting, set-ID programs are dumpable: Alice may attach only to a program that has
/// dropped everything that is not hers.
fn suid_dumpable_1_bares_only_what_ptrace_would(lab: &Lab) -> Result {
    let _set = SuidDumpable::set(1)?;
    expect_privileged(lab, SET_USER_ID, NONE, expect_set_user_id)?;
    expect_privileged(lab, SET_USER_ID, ALL, become_caller)?;
    expect_privileged(lab, SET_GROUP_ID, NONE, nothing)?;
    expect_privileged(lab, SET_GROUP_ID, ALL, leave_group)?;
    expect_privileged(lab, CAPABILITY, NONE, nothing)?;
    expect_privileged(lab, CAPABILITY, ALL, Peer::drop_capabilities)
}

/// With this setting, core dumps belong to root, and for others the processes are as undumpable as
/// with 0.
fn suid_dumpable_2_bares_nothing(lab: &Lab) -> Result {
    let _set = SuidDumpable::set(2)?;
    expect_privileged(lab, SET_USER_ID, NONE, become_caller)?;
    expect_privileged(lab, SET_GROUP_ID, NONE, leave_group)?;
    expect_privileged(lab, CAPABILITY, NONE, nothing)
}

fn a_program_its_user_cannot_read_is_left_alone(lab: &Lab) -> Result {
    expect_privileged(lab, Gift::Nothing, NONE, nothing)
}

/// Expects that a daemon of root is skipped after a change of its IDs: it acts as root as well as
/// Alice.
fn expect_mixed(lab: &Lab, what: &str, change: impl Fn(&Peer) -> Result) -> Result {
    for registered in REGISTERED {
        let victim = daemon(lab, registered)?;
        change(&victim)?;
        victim.set_dumpable(true)?;
        let what = format!("{what}, registered: {registered}");
        expect_guessed(lab, &what, NONE, &victim)?;
        let root = lab.peer(Root)?;
        expect::eq("pages that root guesses", 0, count_guessed(&root, &victim)?)?;
    }
    Ok(())
}

const REAL: Ids3 = [Some(Alice), None, None];
const EFFECTIVE: Ids3 = [None, Some(Alice), None];
const SAVED: Ids3 = [None, None, Some(Alice)];
const ALL_BUT_SAVED: Ids3 = [Some(Alice), Some(Alice), None];

fn a_process_with_mixed_user_ids_is_left_alone(lab: &Lab) -> Result {
    for ids in [REAL, EFFECTIVE, SAVED, ALL_BUT_SAVED] {
        expect_mixed(lab, &format!("{ids:?}"), |daemon| {
            // The group must be changed first, while the process still has the right to do so.
            daemon.set_group_ids([Some(Alice); 3])?;
            daemon.set_user_ids(ids)
        })?;
    }
    expect_mixed(lab, "fsuid", |daemon| daemon.set_file_system_user(Alice))
}

fn a_process_with_mixed_group_ids_is_left_alone(lab: &Lab) -> Result {
    for ids in [REAL, EFFECTIVE, SAVED, ALL_BUT_SAVED] {
        expect_mixed(lab, &format!("{ids:?}"), |daemon| {
            daemon.set_group_ids(ids)?;
            daemon.set_user_ids([Some(Alice); 3])
        })?;
    }
    expect_mixed(lab, "fsgid", |daemon| daemon.set_file_system_group(Alice))
}

fn a_user_in_another_group_is_another(lab: &Lab) -> Result {
    for registered in REGISTERED {
        let victim = daemon(lab, registered)?;
        victim.set_user_ids([Some(Alice); 3])?;
        victim.set_dumpable(true)?;
        expect_guessed(lab, "Alice in root's group", NONE, &victim)?;
    }
    Ok(())
}

/// Like the workers of php-fpm, or QEMU with -run-with user=: they do not call `execve` afterwards.
fn a_server_that_dropped_its_ids_is_merged_if_registered(lab: &Lab) -> Result {
    for (registered, expected) in [(false, NONE), (true, ALL)] {
        let victim = daemon(lab, registered)?;
        victim.become_user(Alice)?;
        expect_guessed(lab, "a server", expected, &victim)?;
    }
    Ok(())
}

/// The process is skipped, dumpable or not, since it has capabilities that Alice does not have.
fn a_server_that_kept_its_capabilities_is_left_alone(lab: &Lab) -> Result {
    for registered in REGISTERED {
        let victim = daemon(lab, registered)?;
        victim.keep_capabilities()?;
        victim.become_user(Alice)?;
        expect_guessed(lab, "an undumpable server", NONE, &victim)?;
        victim.set_dumpable(true)?;
        expect_guessed(lab, "a dumpable server", NONE, &victim)?;
    }
    // A wider domain does not include an undumpable process, either.
    scanner::settle_knobs()?;
    knob::set("domain", "global")?;
    let victim = daemon(lab, true)?;
    victim.keep_capabilities()?;
    victim.become_user(Alice)?;
    expect_guessed(lab, "an undumpable server in domain global", NONE, &victim)
}

fn who_drops_its_ids_and_executes_is_an_ordinary_process(lab: &Lab) -> Result {
    for registered in REGISTERED {
        let victim = daemon(lab, registered)?;
        victim.become_user(Alice)?;
        victim.exec()?;
        expect_guessed(lab, "after exec", ALL, &victim)?;
    }
    Ok(())
}

/// A unit with `User=alice` and `AmbientCapabilities=CAP_NET_RAW`: it is dumpable, but Alice may not
/// attach to it. Units with the same capabilities may.
fn capabilities_that_exceed_the_users_are_a_domain(lab: &Lab) -> Result {
    let unit = || {
        lab.start(spawn::SELF, || {
            set_keep_capabilities()?;
            become_user(Alice.id())?;
            child::keep_one_capability(CAP_NET_RAW)
        })
    };
    let (one, other) = (unit()?, unit()?);
    expect_guessed(lab, "a unit", NONE, &one)?;
    expect::eq(
        "pages that another unit guesses",
        PAGES as usize,
        count_guessed(&other, &one)?,
    )
}

fn set_keep_capabilities() -> io::Result<()> {
    Ok(nix::sys::prctl::set_keepcaps(true)?)
}

/// The creator of a namespace has all capabilities in it, and so do all processes of the same user.
fn capabilities_in_ones_own_namespace_are_none(lab: &Lab) -> Result {
    for dumpable in [true, false] {
        let victim = execute(lab, Alice, spawn::SELF, true)?;
        victim.enter_user_namespace(Bob)?;
        victim.set_dumpable(dumpable)?;
        expect_guessed(lab, "in a namespace", ALL, &victim)?;
    }
    Ok(())
}

fn an_undumpable_process_is_merged_if_registered(lab: &Lab) -> Result {
    for (registered, expected) in [(false, NONE), (true, ALL)] {
        let victim = execute(lab, Alice, spawn::SELF, registered)?;
        victim.set_dumpable(false)?;
        expect_guessed(lab, "an undumpable process", expected, &victim)?;
    }
    Ok(())
}
