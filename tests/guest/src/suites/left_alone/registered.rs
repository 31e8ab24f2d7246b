// SPDX-License-Identifier: GPL-2.0

//! Registered memory (`MADV_MERGEABLE`) has opted in, and mainline's own rules apply to it.

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    scope_registered_takes_registered_memory_only,
    scope_registered_leaves_zeros_of_others,
    scope_registered_keeps_users_apart,
    scope_registered_takes_registered_processes,
    scope_registered_ends_with_the_registration,
    scope_registered_ends_with_that_of_the_process,
    registered_memory_may_be_locked,
    registered_memory_may_be_kept_from_dumps,
    registered_memory_may_be_kept_from_forks,
    registered_memory_may_be_wiped_on_fork,
    registered_memory_may_be_of_undumpable_processes,
    registered_memory_is_left_alone_while_pinned,
    shared_memory_cannot_be_registered,
    droppable_memory_cannot_be_registered,
];

const PAGES: u64 = 8;
const IDS: Ids = Ids::each(100);

/// Two processes with registered pages.
fn registered_pair(lab: &Lab) -> Result<[(Peer, Span); 2]> {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.registered(PAGES, IDS)?, b.registered(PAGES, IDS)?);
    Ok([(a, in_a), (b, in_b)])
}

fn scope_registered_takes_registered_memory_only(lab: &Lab) -> Result {
    knob::set("scope", "registered")?;
    let [(a, in_a), (b, in_b)] = registered_pair(lab)?;
    let c = lab.alice()?;
    let (plain, in_c) = (a.anon(PAGES, IDS)?, c.anon(PAGES, IDS)?);
    let before = (a.frames(plain)?, c.frames(in_c)?);
    scanner::scan(6)?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_frames("unregistered pages", (&a, plain), &before.0)?;
    pages::expect_frames("unregistered pages", (&c, in_c), &before.1)?;
    pages::expect_mappings(&frames, 2)?;
    let counts = scanner::expect_exact_counts("of registered memory only")?;
    expect::eq(
        "pages_shared and pages_sharing",
        (PAGES, PAGES),
        (counts.shared, counts.sharing),
    )?;
    knob::set("scope", "all")?;
    scanner::merge()?;
    pages::expect_frames("with scope all", (&a, plain), &frames)?;
    pages::expect_frames("with scope all", (&c, in_c), &frames)
}

fn scope_registered_takes_registered_processes(lab: &Lab) -> Result {
    knob::set("scope", "registered")?;
    let (a, b) = lab.pair()?;
    let c = lab.alice()?;
    a.register_all()?;
    b.register_all()?;
    let (in_a, in_b, in_c) = (
        a.anon(PAGES, IDS)?,
        b.anon(PAGES, IDS)?,
        c.anon(PAGES, IDS)?,
    );
    let before = c.frames(in_c)?;
    scanner::scan(6)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_frames("pages of an unregistered process", (&c, in_c), &before)
}

fn scope_registered_leaves_zeros_of_others(lab: &Lab) -> Result {
    knob::set("scope", "registered")?;
    let peer = lab.alice()?;
    let (plain, span) = (peer.anon(PAGES, Ids::ZERO)?, peer.anon(PAGES, Ids::ZERO)?);
    peer.register(span)?;
    let before = peer.frames(plain)?;
    scanner::merge()?;
    pages::expect_zero_page((&peer, span))?;
    pages::expect_frames("unregistered pages of zeros", (&peer, plain), &before)
}

fn scope_registered_keeps_users_apart(lab: &Lab) -> Result {
    knob::set("scope", "registered")?;
    let [(a, in_a), (b, in_b)] = registered_pair(lab)?;
    let bob = lab.peer(User::Bob)?;
    let in_bob = bob.registered(PAGES, IDS)?;
    let before = bob.frames(in_bob)?;
    scanner::scan(6)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_frames("Bob's pages", (&bob, in_bob), &before)
}

fn scope_registered_ends_with_the_registration(lab: &Lab) -> Result {
    knob::set("scope", "registered")?;
    let [(a, in_a), (b, in_b)] = registered_pair(lab)?;
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.advise(in_a, libc::MADV_UNMERGEABLE)?;
    let before = pages::expect_not_merged((&a, in_a))?;
    scanner::scan(6)?;
    pages::expect_frames("pages no longer registered", (&a, in_a), &before)?;
    a.check(in_a, IDS)?;
    scanner::expect_exact_counts("after MADV_UNMERGEABLE").map(drop)
}

fn scope_registered_ends_with_that_of_the_process(lab: &Lab) -> Result {
    knob::set("scope", "registered")?;
    let (a, b) = lab.pair()?;
    a.register_all()?;
    b.register_all()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    scanner::merge()?;
    let shared = pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    a.unregister_all()?;
    let before = pages::expect_not_merged((&a, in_a))?;
    let later = a.anon(PAGES, IDS)?;
    let of_later = a.frames(later)?;
    scanner::scan(6)?;
    pages::expect_frames(
        "pages of a process after unregistering it",
        (&a, in_a),
        &before,
    )?;
    pages::expect_frames("pages that it mapped afterwards", (&a, later), &of_later)?;
    pages::expect_frames("pages of the other process", (&b, in_b), &shared)?;
    a.check(in_a, IDS)?;
    scanner::expect_exact_counts("after PR_SET_MEMORY_MERGE of 0").map(drop)
}

/// Expects that registered pages are merged in either scope although `also` is a reason to skip them.
fn expect_opted_in(lab: &Lab, also: impl Fn(&Peer, Span) -> Result) -> Result {
    for scope in ["registered", "all"] {
        scanner::settle_knobs()?;
        knob::set("scope", scope)?;
        let [(a, in_a), (b, in_b)] = registered_pair(lab)?;
        also(&a, in_a)?;
        scanner::merge()?;
        pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        a.check(in_a, IDS)?;
        a.fill(in_a, Ids::each(900))?;
        b.check(in_b, IDS)?;
    }
    Ok(())
}

fn registered_memory_may_be_locked(lab: &Lab) -> Result {
    expect_opted_in(lab, Peer::lock)
}

fn registered_memory_may_be_kept_from_dumps(lab: &Lab) -> Result {
    expect_opted_in(lab, |peer, span| peer.advise(span, libc::MADV_DONTDUMP))
}

/// Like the memory of QEMU's virtual machines, which gets both kinds of advice.
fn registered_memory_may_be_kept_from_forks(lab: &Lab) -> Result {
    expect_opted_in(lab, |peer, span| peer.advise(span, libc::MADV_DONTFORK))
}

fn registered_memory_may_be_wiped_on_fork(lab: &Lab) -> Result {
    expect_opted_in(lab, |peer, span| peer.advise(span, libc::MADV_WIPEONFORK))
}

fn registered_memory_may_be_of_undumpable_processes(lab: &Lab) -> Result {
    expect_opted_in(lab, |peer, _| peer.set_dumpable(false))
}

fn registered_memory_is_left_alone_while_pinned(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = registered_pair(lab)?;
    let c = lab.alice()?;
    let in_c = c.registered(PAGES, IDS)?;
    c.pin(in_c)?;
    let before = c.frames(in_c)?;
    scanner::scan(6)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    pages::expect_frames("pinned pages", (&c, in_c), &before)
}

/// Mainline ignores the advice for such memory, so the module has to skip it.
fn expect_not_registrable(lab: &Lab, kind: Kind) -> Result {
    for scope in ["registered", "all"] {
        knob::set("scope", scope)?;
        let [(a, in_a), (b, in_b)] = registered_pair(lab)?;
        let c = lab.alice()?;
        let span = c.filled(kind, PAGES, IDS)?;
        c.register(span)?;
        let before = c.frames(span)?;
        scanner::scan(6)?;
        pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        pages::expect_frames(&format!("{kind:?}"), (&c, span), &before)?;
    }
    Ok(())
}

fn shared_memory_cannot_be_registered(lab: &Lab) -> Result {
    expect_not_registrable(lab, Kind::SharedAnon)
}

fn droppable_memory_cannot_be_registered(lab: &Lab) -> Result {
    expect_not_registrable(lab, Kind::Droppable)
}
