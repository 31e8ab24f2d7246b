// SPDX-License-Identifier: GPL-2.0

//! What the kernel and the module show to every process: none of it may depend on the memory of other
//! processes.

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pagemap;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Result;
use guest::Span;

pub(super) const TESTS: &[Test] = tests![
    files_tell_who_has_a_page_with_domain_global,
    files_tell_nothing_of_other_users,
    counts_tell_who_has_pages_with_domain_global,
    counts_tell_nothing_of_other_users,
];

const PAGES: u64 = 512;
/// The contents that the victim has.
const HELD: Ids = Ids::each(10_000);
/// Contents that nobody has.
const FREE: Ids = Ids::each(20_000);
/// The number of scanner passes: twice as many as needed.
const PASSES: u64 = 6;

/// Something that a process can read about its own pages.
type Observable = (&'static str, fn(&Peer, Span) -> Result<String>);

const OBSERVABLES: [Observable; 3] = [("smaps", smaps), ("pagemap", flags), ("ksm_stat", ksm_stat)];

/// The process's counts of merged pages.
fn ksm_stat(peer: &Peer, _: Span) -> Result<String> {
    procfs::read(&format!("/proc/{}/ksm_stat", peer.pid()))
}

/// The text of smaps about the mapping, without its address.
fn smaps(peer: &Peer, span: Span) -> Result<String> {
    let text = procfs::read(&format!("/proc/{}/smaps", peer.pid()))?;
    let start = format!("{:x}-", span.addr);
    let lines = text.lines().skip_while(|line| !line.starts_with(&start));
    let lines = lines
        .skip(1)
        .take_while(|line| procfs::mapping(line).is_none());
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// The pagemap bits that every process may see of its own pages: all but the frame number.
fn flags(peer: &Peer, span: Span) -> Result<String> {
    const FRAME: u64 = (1 << 55) - 1;
    let entries = pagemap::entries(peer.pid(), span)?;
    let flags: Vec<u64> = entries.iter().map(|entry| entry.0 & !FRAME).collect();
    Ok(format!("{flags:x?}"))
}

/// The observables that differ between a process with right guesses and one with wrong guesses.
fn differing(lab: &Lab) -> Result<Vec<&'static str>> {
    let victim = lab.peer(User::Bob)?;
    victim.anon(PAGES, HELD)?;
    let (right, wrong) = lab.pair()?;
    let (in_right, in_wrong) = (right.anon(PAGES, HELD)?, wrong.anon(PAGES, FREE)?);
    scanner::scan(PASSES)?;
    let mut differing = Vec::new();
    for (name, observe) in OBSERVABLES {
        if observe(&right, in_right)? != observe(&wrong, in_wrong)? {
            differing.push(name);
        }
    }
    Ok(differing)
}

fn files_tell_who_has_a_page_with_domain_global(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let differing = differing(lab)?;
    for name in ["smaps", "pagemap"] {
        expect::that(differing.contains(&name), || {
            format!("expected {name} to differ, found that only {differing:?} differ")
        })?;
    }
    Ok(())
}

fn files_tell_nothing_of_other_users(lab: &Lab) -> Result {
    expect::eq("files that differ", Vec::<&str>::new(), differing(lab)?)
}

/// The growth of those counts of the module that could leak information, when a process with these
/// pages starts.
fn growth(lab: &Lab, ids: Ids) -> Result<[i64; 3]> {
    let read = || -> Result<[i64; 3]> {
        let number = |name| knob::number(name).map(|number| number as i64);
        Ok([
            number("pages_unshared")?,
            number("pages_shared")?,
            number("pages_sharing")?,
        ])
    };
    scanner::scan(PASSES)?;
    let before = read()?;
    let peer = lab.alice()?;
    peer.anon(PAGES, ids)?;
    scanner::scan(PASSES)?;
    let after = read()?;
    Ok(std::array::from_fn(|index| after[index] - before[index]))
}

/// The largest difference in growth between right and wrong guesses. Everything else in the processes
/// is equal.
fn growths_differ_by(lab: &Lab) -> Result<u64> {
    let victim = lab.peer(User::Bob)?;
    victim.anon(PAGES, HELD)?;
    // One process of Alice stays, so that both later processes start under equal conditions.
    let _stays = lab.alice()?;
    let (right, wrong) = (growth(lab, HELD)?, growth(lab, FREE)?);
    println!("security: growth of unshared, shared, sharing: right {right:?}, wrong {wrong:?}");
    let differences = right
        .iter()
        .zip(wrong)
        .map(|(right, wrong)| right.abs_diff(wrong));
    Ok(differences.max().unwrap_or(0))
}

fn counts_tell_who_has_pages_with_domain_global(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let difference = growths_differ_by(lab)?;
    expect::within(
        "difference in the growth of the counts",
        PAGES / 2..=4 * PAGES,
        difference,
    )
}

/// Any two processes differ in a few pages of their own.
fn counts_tell_nothing_of_other_users(lab: &Lab) -> Result {
    let difference = growths_differ_by(lab)?;
    expect::within(
        "difference in the growth of the counts",
        0..=PAGES / 16,
        difference,
    )
}
