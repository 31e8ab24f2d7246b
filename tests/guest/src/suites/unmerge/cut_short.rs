// SPDX-License-Identifier: GPL-2.0

//! An unmerge that ends before everything is broken apart.

use std::os::unix::process::ExitStatusExt;

use guest::expect;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::kmsg::Kmsg;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::ksm_v::scanner::Counts;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::User;
use guest::process::task;
use guest::tests;
use guest::Result;

use super::expect_unmerged;
use super::writer::Writer;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    ends_in_a_full_cgroup,
    can_be_interrupted,
    is_refused_where_the_host_has_no_room,
];

/// A writer that waits for `run=2` can be killed. This stops the unmerge halfway, and a later `run=2`
/// completes it.
fn can_be_interrupted(lab: &Lab) -> Result {
    const MANY: u64 = 20_000;
    /// Attempts: a writer may end by itself before it is killed.
    const ATTEMPTS: usize = 10;
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(MANY, IDS)?, b.anon(MANY, IDS)?);
    // Keep khugepaged from moving pages while this many pages are checked.
    a.keep_small(in_a)?;
    b.keep_small(in_b)?;
    let mut before = 0;
    let mut is_killed = false;
    for _ in 0..ATTEMPTS {
        scanner::merge()?;
        before = Counts::read()?.shared;
        expect::within("pages_shared", MANY..=u64::MAX, before)?;
        is_killed = kill_while_unmerging((&a, in_a))?;
        if is_killed {
            break;
        }
    }
    expect::that(is_killed, || "run=2: expected a signal to end it")?;
    let left = scanner::expect_exact_counts("after an interrupted run=2")?;
    expect::within(
        "pages_shared after an interrupted run=2",
        1..=before,
        left.shared,
    )?;
    expect_still_shared()?;
    scanner::merge()?;
    scanner::expect_exact_counts("after an interrupted run=2 and a pass")?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

/// Starts to unmerge, and kills the writer after the first page is unmerged. Returns whether this
/// stopped the unmerge, which may have been complete by then.
fn kill_while_unmerging((peer, span): pages::Pages<'_>) -> Result<bool> {
    let mut writer = Writer::start("2")?;
    let begun = task::wait_until(task::PATIENCE, || {
        pages::expect_not_merged((peer, span.page(0))).is_ok()
    });
    writer.kill()?;
    let status = writer.wait()?;
    expect::that(begun, || "the writer: expected to begin unmerging")?;
    let status = status.ok_or("the writer: expected to end when killed")?;
    let by_signal = status.signal().is_some();
    Ok(by_signal && Counts::read()?.shared > 0)
}

/// Four processes with 2 MiB of equal memory each take 2 MiB when merged, and do not fit into the
/// cgroup when unmerged: `run=2` fails, and no process is killed.
fn ends_in_a_full_cgroup(lab: &Lab) -> Result {
    const MANY: u64 = 512;
    let cgroup = Cgroup::new("full")?;
    let mut all = Vec::new();
    for _ in 0..4 {
        let peer = lab.peer_in(User::Alice, &cgroup)?;
        let span = peer.anon(MANY, IDS)?;
        all.push((peer, span));
    }
    scanner::merge()?;
    let spans: Vec<_> = all.iter().map(|(peer, span)| (peer, *span)).collect();
    pages::expect_merged(&spans)?;
    cgroup.limit(cgroup.current_bytes()? + (1 << 20))?;
    let mut kmsg = Kmsg::open()?;
    expect_no_memory("run=2 in a full cgroup")?;
    expect::eq("processes killed in the cgroup", 0, cgroup.killed()?)?;
    let left = scanner::expect_exact_counts("after run=2 in a full cgroup")?;
    expect::within("pages_shared", 1..=u64::MAX, left.shared)?;
    expect_says(
        &mut kmsg,
        &format!("{} pages and", left.shared + left.sharing),
    )?;
    expect_still_shared()?;
    for (peer, span) in &all {
        peer.check(*span, IDS)?;
    }
    cgroup.unlimit()?;
    expect_unmerged(&spans, IDS)
}

/// The merged memory does not fit into the host's memory when unmerged.
fn is_refused_where_the_host_has_no_room(lab: &Lab) -> Result {
    const MANY: u64 = 4096;
    const PART: u64 = 1024;
    let killed = || procfs::number_in("/proc/vmstat", "oom_kill");
    let before = killed()?;
    let mut all = Vec::new();
    for _ in 0..4 {
        let peer = lab.alice()?;
        let span = peer.anon(MANY, IDS)?;
        peer.keep_small(span)?;
        all.push((peer, span));
    }
    scanner::merge()?;
    let spans: Vec<_> = all.iter().map(|(peer, span)| (peer, *span)).collect();
    pages::expect_merged(&spans)?;
    let merged = Counts::read()?;
    let hog = lab.peer(User::Root)?;
    // Leave less than half of the memory that the copies need, plus the margin of 16 MiB. Fill the rest
    // in small parts: each part also needs page tables, and more memory on debug kernels.
    let spare = 16 * 1024 + 4 * MANY / 2;
    let available = || procfs::number_in("/proc/meminfo", "MemAvailable");
    expect::that(available()? > spare, || "too little memory is available")?;
    let mut filling = Vec::new();
    while available()? > spare + 4 * PART {
        filling.push(hog.anon(PART, Ids::each(1_000_000 * filling.len() as u64))?);
    }
    expect_no_memory("run=2 on a host with little memory")?;
    expect::eq("processes killed", before, killed()?)?;
    // A census would need more memory than is left.
    let left = Counts::read()?;
    expect::within("pages_sharing", 1..=merged.sharing - 1, left.sharing)?;
    expect_still_shared()?;
    for part in filling {
        hog.unmap(part)?;
    }
    scanner::expect_exact_counts("after run=2 on a host with little memory")?;
    expect_unmerged(&spans, IDS)
}

/// Tries to unmerge, and expects ENOMEM.
fn expect_no_memory(what: &str) -> Result {
    expect::errno(what, libc::ENOMEM, knob::try_write("run", b"2"))
}

/// Expects a new line in the log that says what stays merged.
fn expect_says(kmsg: &mut Kmsg, text: &str) -> Result {
    let lines = kmsg.messages();
    let is_said = |line: &String| line.contains(text) && line.contains("stay merged");
    expect::that(lines.iter().any(is_said), || {
        format!("log: expected a line with {text:?}, found {lines:?}")
    })
}

/// Expects that the domain cannot be changed and the module cannot be unloaded, because pages are
/// still shared.
fn expect_still_shared() -> Result {
    let changed = knob::try_write("domain", b"process");
    expect::errno("domain while pages are shared", libc::EBUSY, changed)?;
    module::expect_in_use("after run=2 did not break everything apart")
}
