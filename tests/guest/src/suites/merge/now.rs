// SPDX-License-Identifier: GPL-2.0

//! `merge_now`: merges one process immediately.

use std::fs;

use guest::expect;
use guest::kernel::kmsg::Kmsg;
use guest::ksm_v::knob;
use guest::ksm_v::refused::no_numbers;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    merge_now_merges_while_stopped,
    merge_now_does_not_wait_for_promotion,
    merge_now_joins_what_is_merged_already,
    merge_now_merges_zeros_and_huge_pages,
    merge_now_keeps_to_its_range,
    merge_now_respects_domains,
    merge_now_respects_what_is_left_alone,
    merge_now_tells_why_a_process_is_left_alone,
    merge_now_of_nobody_fails,
    merge_now_refuses_bad_input,
    merge_now_does_not_undo_an_unmerge,
    merge_now_beside_the_scanner,
];

const PAGES: u64 = 700;

fn merge_range(peer: &Peer, span: Span) -> Result {
    let end = span.addr + span.pages * PAGE_SIZE;
    scanner::merge_at_once(format!("{} {:x} {end:#x}", peer.pid(), span.addr))
}

/// Expects that a write fails and merges nothing.
fn expect_refused(what: &str, errno: i32, text: &[u8]) -> Result {
    let before = scanner::Counts::read()?;
    expect::errno(what, errno, knob::try_write(knob::WRITE_ONLY, text))?;
    expect::eq(
        format!("counts after {what}"),
        before,
        scanner::Counts::read()?,
    )
}

fn merge_now_merges_while_stopped(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    scanner::merge_now(&a)?;
    pages::expect_not_merged((&a, in_a))?;
    scanner::merge_now(&b)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    expect::eq("run", 0, knob::number("run")?)?;
    b.poke(in_b.addr, 1)?;
    a.check(in_a, ids)?;
    scanner::expect_exact_counts("after merge_now").map(drop)
}

/// merge_now needs no promotion, and leaves the knob `promote_after` unchanged.
fn merge_now_does_not_wait_for_promotion(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    knob::set("promote_after", 100)?;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    scanner::merge_now(&a)?;
    scanner::merge_now(&b)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    expect::eq("promote_after", 100, knob::number("promote_after")?)
}

fn merge_now_joins_what_is_merged_already(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    scanner::merge()?;
    let late = lab.alice()?;
    let in_late = late.anon(PAGES, ids)?;
    scanner::merge_now(&late)?;
    let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b), (&late, in_late)])?;
    pages::expect_mappings(&frames, 3)
}

fn merge_now_merges_zeros_and_huge_pages(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let (zeros, same) = (peer.anon(600, Ids::ZERO)?, peer.anon(1200, Ids::same(7))?);
    scanner::merge_now(&peer)?;
    pages::expect_zero_page((&peer, zeros))?;
    pages::expect_merged(&[(&peer, same)])?;
    peer.check(same, Ids::same(7))
}

fn merge_now_keeps_to_its_range(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, ids)?, b.anon(PAGES, ids)?);
    a.keep_small(in_a)?;
    b.keep_small(in_b)?;
    scanner::merge_now(&a)?;
    let (first, count) = (100, 300);
    merge_range(&b, in_b.part(first, count))?;
    pages::expect_merged(&[(&a, in_a.part(first, count)), (&b, in_b.part(first, count))])?;
    pages::expect_not_merged((&b, in_b.part(0, first)))?;
    let behind = first + count;
    pages::expect_not_merged((&b, in_b.part(behind, PAGES - behind)))?;
    merge_range(&b, in_b)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

fn merge_now_respects_domains(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (alice, bob) = (lab.alice()?, lab.peer(User::Bob)?);
    let (in_alice, in_bob) = (alice.anon(8, ids)?, bob.anon(8, ids)?);
    scanner::merge_now(&alice)?;
    scanner::merge_now(&bob)?;
    pages::expect_not_merged((&alice, in_alice))?;
    pages::expect_not_merged((&bob, in_bob)).map(drop)
}

fn merge_now_respects_what_is_left_alone(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (open, secret) = lab.pair()?;
    let (in_open, in_secret) = (open.anon(8, ids)?, secret.anon(8, ids)?);
    secret.set_dumpable(false)?;
    scanner::merge_now(&open)?;
    let text = secret.pid().to_string();
    expect_left_alone(&secret, &text, "it is not dumpable")?;
    pages::expect_not_merged((&secret, in_secret))?;
    pages::expect_not_merged((&open, in_open))?;
    let free = open.free_place(8);
    let text = format!("{} {:x} {:x}", open.pid(), free.addr, free.addr + PAGE_SIZE);
    expect_left_alone(&open, &text, "it has no memory there")
}

/// The kernel log tells why a process is left alone: once for each write.
fn merge_now_tells_why_a_process_is_left_alone(lab: &Lab) -> Result {
    let (one, other) = (lab.peer(User::Root)?, lab.alice()?);
    one.anon(8, Ids::same(1))?;
    let locked = other.anon(8, Ids::same(1))?;
    other.lock(locked)?;
    let (first, end) = (locked.addr, locked.addr + locked.pages * PAGE_SIZE);
    let text = format!("{} {first:x} {end:x}", other.pid());
    expect_left_alone(&other, &text, "it has no memory there, or only such as")?;
    knob::set("scope", "registered")?;
    let text = other.pid().to_string();
    expect_left_alone(&other, &text, "it has registered no memory")?;
    knob::set("scope", "all")?;
    one.set_user_ids([None, Some(User::Alice), None])?;
    expect_left_alone(&one, &one.pid().to_string(), "its user or group ids")
}

/// Expects that `text` is refused for `peer`, and that the kernel log says why, in one message.
fn expect_left_alone(peer: &Peer, text: &str, why: &str) -> Result {
    let mut kmsg = Kmsg::open()?;
    expect_refused(why, libc::EPERM, text.as_bytes())?;
    let about = format!("merge_now: process {} may not be merged: {why}", peer.pid());
    let messages = kmsg.messages();
    let said = messages.iter().filter(|one| one.contains(&about)).count();
    expect::eq(format!("messages {about:?} in {messages:?}"), 1, said)?;
    let all = messages.iter().filter(|one| one.contains("merge_now: "));
    expect::eq("messages on merge_now", 1, all.count())
}

fn merge_now_of_nobody_fails(lab: &Lab) -> Result {
    let gone = lab.alice()?;
    let pid = gone.pid();
    gone.exit()?;
    let thread = task::scanner()?;
    for (what, pid) in [
        ("process 0", 0),
        ("the highest", i32::MAX),
        ("one that has exited", pid),
        ("a kernel thread", thread),
    ] {
        expect_refused(what, libc::ESRCH, pid.to_string().as_bytes())?;
    }
    Ok(())
}

fn merge_now_refuses_bad_input(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = peer.anon(8, Ids::same(1))?;
    let (pid, addr) = (peer.pid(), span.addr);
    let end = addr + PAGE_SIZE;
    let mut texts = no_numbers();
    texts.extend(
        [
            format!("{pid} "),
            format!("{pid} {addr:x}"),
            format!("{pid} {addr:x} {end:x} "),
            format!("{pid} {addr:x} {end:x} {end:x}"),
            format!("{pid}  {addr:x} {end:x}"),
            format!("{pid} {addr:x}-{end:x}"),
            format!("{pid} {end:x} {addr:x}"),
            format!("{pid} {addr:x} {addr:x}"),
            format!("{pid} {:x} {end:x}", addr + 1),
            format!("{pid} {addr:x} {:x}", end - 1),
            format!("{pid} {addr:x} 10000000000000000"),
            format!("{pid}\n{addr:x} {end:x}"),
            "2147483648".to_owned(),
        ]
        .map(String::into_bytes),
    );
    for text in texts {
        let shown = String::from_utf8_lossy(&text[..text.len().min(48)]).into_owned();
        expect_refused(&format!("writing {shown:?}"), libc::EINVAL, &text)?;
    }
    pages::expect_not_merged((&peer, span)).map(drop)
}

fn merge_now_does_not_undo_an_unmerge(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, ids)?, b.anon(8, ids)?);
    scanner::merge_now(&a)?;
    scanner::merge_now(&b)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    scanner::unmerge()?;
    let text = b.pid().to_string();
    expect_refused("merging while run is 2", libc::EBUSY, text.as_bytes())?;
    scanner::stop()?;
    scanner::merge_now(&a)?;
    scanner::merge_now(&b)?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)]).map(drop)
}

/// Several writes at once, while the scanner works on the same memory and a process writes to it.
fn merge_now_beside_the_scanner(lab: &Lab) -> Result {
    let ids = Ids::each(100);
    let peers = lab.alices(3)?;
    let spans: Vec<Span> = peers
        .iter()
        .map(|peer| peer.anon(PAGES, ids))
        .collect::<Result<_>>()?;
    scanner::start()?;
    let pids: Vec<i32> = peers.iter().map(Peer::pid).collect();
    let writers: Vec<_> = pids
        .into_iter()
        .map(|pid| {
            std::thread::spawn(move || {
                (0..20).try_for_each(|_| fs::write(knob::path(knob::WRITE_ONLY), pid.to_string()))
            })
        })
        .collect();
    for round in 0..50 {
        for (peer, span) in peers.iter().zip(&spans) {
            let page = span.page(round * 13 % PAGES);
            peer.fill(page, Ids::same(ids.of(round * 13 % PAGES)))?;
        }
    }
    for writer in writers {
        let written = writer.join().expect("it does not panic");
        expect::that(written.is_ok(), || format!("merge_now: {written:?}"))?;
    }
    scanner::wait_passes(scanner::ENOUGH_PASSES)?;
    scanner::stop()?;
    for (peer, span) in peers.iter().zip(&spans) {
        peer.check(*span, ids)?;
    }
    let all: Vec<_> = peers.iter().zip(spans.iter().copied()).collect();
    pages::expect_merged(&all)?;
    scanner::expect_exact_counts("after both").map(drop)
}
