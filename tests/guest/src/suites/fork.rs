// SPDX-License-Identifier: GPL-2.0

//! Merging while a process is in the middle of a fork or an exec.
//!
//! The kernel finds the child's VMAs through the anon_vmas of its parent's pages as soon as they are
//! copied: before the child is in a cgroup, and before the parent's TLB is flushed. Exec moves the stack
//! of the new program without the locks of the rmap.

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::content::PAGE_SIZE;
use guest::memory::pagemap;
use guest::memory::pages;
use guest::process::peer::held::EQUAL_PAGES;
use guest::process::peer::held::VARIABLE;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::process::userfaultfd;
use guest::provoke::held_exec;
use guest::provoke::held_fork::Holder;
use guest::provoke::held_fork::WRITTEN;
use guest::tests;
use guest::Context;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;

const TESTS: &[Test] = tests![
    a_child_in_the_middle_of_fork_is_in_no_cgroup,
    a_child_in_the_middle_of_fork_keeps_what_its_parent_writes,
    the_stack_of_an_exec_in_progress_is_left_alone,
];

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    lab::trials("fork", TESTS)
}

const IDS: Ids = Ids::each(100);
const OTHER_IDS: Ids = Ids::each(200);

fn root(lab: &Lab) -> Result<Peer> {
    lab.peer(User::Root)
}

fn merge_now(peer: &Peer, span: Span) -> Result {
    scanner::merge_at_once(scanner::part(peer, span))
}

/// A page is mapped by a process in the root cgroup, by its child in another cgroup, and by a
/// grandchild in the middle of its fork, which the kernel still reports as a member of the root
/// cgroup. The page is merged with one of the root cgroup, and the grandchild's mapping must stay.
fn a_child_in_the_middle_of_fork_is_in_no_cgroup(lab: &Lab) -> Result {
    knob::set("domain", "cgroup")?;
    let (holder, there) = (Holder::new()?, Cgroup::new("there")?);
    let grandparent = root(lab)?;
    let span = grandparent.anon(1, IDS)?;
    let parent = grandparent.fork()?;
    procfs::write(&there.procs(), &parent.pid().to_string())?;
    parent.hold_forks()?;
    let before = parent.frames(span)?;
    let other = root(lab)?;
    let in_other = other.anon(1, IDS)?;
    parent.begin_fork()?;
    holder.wait()?;
    merge_now(&other, in_other)?;
    merge_now(&grandparent, span)?;
    holder.release()?;
    let child = parent.finish_fork()?;
    pages::expect_merged(&[(&grandparent, span), (&other, in_other)])?;
    pages::expect_frames("pages of the parent", (&parent, span), &before)?;
    pages::expect_frames("pages of the child", (&child, span), &before)
}

/// A page that a parent and its child in the middle of a fork map is merged with another page, except
/// for the parent's mapping, whose VMA is skipped. Meanwhile, a thread of the parent writes first to
/// that page and then to another: the child must not see the second write without the first.
fn a_child_in_the_middle_of_fork_keeps_what_its_parent_writes(lab: &Lab) -> Result {
    let holder = Holder::new()?;
    let parent = root(lab)?;
    let (first, second) = (parent.anon(1, IDS)?, parent.anon(1, OTHER_IDS)?);
    merge_now(&parent, first)?;
    // The child's VMA does not inherit the watch.
    parent.watch(first, userfaultfd::MISSING)?;
    parent.hold_forks()?;
    parent.start_writer(first, second)?;
    let before = parent.frames(first)?;
    parent.begin_fork()?;
    holder.wait()?;
    let other = root(lab)?;
    let in_other = other.anon(1, IDS)?;
    // If a page is mapped twice, a merge replaces all mappings of its twin.
    let others_child = other.fork()?;
    merge_now(&other, in_other)?;
    let wrote = holder.write()?;
    holder.release()?;
    let child = parent.finish_fork()?;
    println!("the parent wrote while its fork was held: {wrote}");
    let written = [first, second].map(|span| child.peek(span.addr).map(|word| word == WRITTEN));
    let [first_written, second_written] = written;
    let written = (first_written?, second_written?);
    expect::that(written != (false, true), || {
        "the child: expected no second write without the first, found the second alone"
    })?;
    pages::expect_frames("pages of the child", (&child, first), &before)?;
    drop(others_child);
    Ok(())
}

/// The field of `/proc/PID/stat` with the start of the environment.
const ENV_START: usize = 50;

/// The equal pages of the environment of a program that [`Peer::begin_exec`] has started.
fn equal_pages(peer: &Peer) -> Result<Span> {
    let start: u64 = task::stat(peer.pid(), ENV_START)?
        .parse()
        .context(|| "the start of the environment")?;
    let equal = start + VARIABLE.len() as u64;
    Ok(Span::new(equal.next_multiple_of(PAGE_SIZE), EQUAL_PAGES))
}

/// Most pages of the stack are equal. They are merged once exec has moved the stack to its place.
fn the_stack_of_an_exec_in_progress_is_left_alone(lab: &Lab) -> Result {
    let peer = root(lab)?;
    let holder = held_exec::Holder::new(&peer)?;
    peer.begin_exec()?;
    let stack = holder.wait()?;
    expect::that(stack.pages > EQUAL_PAGES, || {
        format!("the stack: expected more than {EQUAL_PAGES} pages, found {stack:?}")
    })?;
    let before = pagemap::entries(peer.pid(), stack)?;
    scanner::scan(6)?;
    let after = pagemap::entries(peer.pid(), stack)?;
    expect::eq("page table entries of the stack", before, after)?;
    holder.release();
    peer.finish_exec()?;
    scanner::merge()?;
    let frames = pages::expect_merged(&[(&peer, equal_pages(&peer)?)])?;
    pages::expect_mappings(&frames, EQUAL_PAGES)
}
