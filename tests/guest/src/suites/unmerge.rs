// SPDX-License-Identifier: GPL-2.0

//! `run=2` unmerges all merged pages in all processes before the write returns.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::kmsg::Kmsg;
use guest::kernel::probe;
use guest::kernel::probe::CallCount;
use guest::kernel::procfs;
use guest::ksm_v::debugfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::ksm_v::scanner::Counts;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::census::Census;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::child;
use guest::process::fuse::Discarder;
use guest::process::fuse::Stuck;
use guest::process::peer::Kind;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::process::task;
use guest::rng;
use guest::tests;
use guest::Context;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;

const TESTS: &[Test] = tests![
    breaks_all_merged_pages_of_all_processes,
    breaks_zero_pages,
    leaves_zero_pages_that_were_never_merged,
    breaks_pages_of_all_users_and_domains,
    breaks_pages_shared_by_fork,
    breaks_moved_pages,
    breaks_protected_pages,
    breaks_pages_of_private_files,
    breaks_pages_of_processes_that_became_undumpable,
    breaks_pages_that_were_excluded_since,
    breaks_the_last_mapping_of_a_shared_page,
    breaks_pages_merged_under_another_scope,
    can_be_repeated,
    merging_starts_again,
    does_not_merge_until_restarted,
    works_while_processes_fork_and_end,
    ends_in_a_full_cgroup,
    can_be_interrupted,
    waits_for_no_process_that_waits_itself,
    waits_for_no_file_system,
    is_refused_where_the_host_has_no_room,
    users_who_read_counts_have_nothing_walked,
];

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    lab::trials("unmerge", TESTS)
}

const PAGES: u64 = 16;
const IDS: Ids = Ids::each(100);

/// Expects that nothing is merged any more, according to the counts and to the page tables.
fn expect_nothing_merged() -> Result {
    let zero = Counts {
        shared: 0,
        sharing: 0,
        zero: 0,
    };
    expect::eq("counts after run=2", zero, Counts::read()?)?;
    expect::eq(
        "merge_ratio_x100 after run=2",
        0,
        knob::number("merge_ratio_x100")?,
    )?;
    let census = Census::take()?;
    let left: Vec<_> = census.frames().take(4).collect();
    expect::that(left.is_empty(), || {
        format!(
            "expected no merged page after run=2, found {}, as {left:?}",
            census.shared()
        )
    })
}

/// Two processes with merged pages of [`IDS`].
fn merged_pair(lab: &Lab) -> Result<[(Peer, Span); 2]> {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    Ok([(a, in_a), (b, in_b)])
}

/// Unmerges, and expects that no page is shared any more.
fn expect_unmerged(all: &[pages::Pages<'_>], ids: Ids) -> Result {
    scanner::unmerge()?;
    expect_nothing_merged()?;
    for &(peer, span) in all {
        pages::expect_mappings(&pages::expect_not_merged((peer, span))?, 1)?;
        peer.check(span, ids)?;
    }
    Ok(())
}

fn breaks_all_merged_pages_of_all_processes(lab: &Lab) -> Result {
    let peers = lab.alices(5)?;
    let mut spans = Vec::new();
    for peer in &peers {
        spans.push((peer, peer.anon(64, IDS)?));
        peer.anon(64, Ids::same(7))?;
    }
    scanner::merge()?;
    pages::expect_merged(&spans)?;
    expect_unmerged(&spans, IDS)?;
    expect::eq("run", "2\n", knob::read("run")?.as_str())?;
    for (index, &(peer, span)) in spans.iter().enumerate() {
        peer.fill(span, Ids::each(1000 * index as u64))?;
    }
    for (index, &(peer, span)) in spans.iter().enumerate() {
        peer.check(span, Ids::each(1000 * index as u64))?;
    }
    Ok(())
}

fn breaks_zero_pages(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, Ids::ZERO)?, b.anon(PAGES, Ids::ZERO)?);
    scanner::merge()?;
    pages::expect_zero_page((&a, in_a))?;
    pages::expect_zero_page((&b, in_b))?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], Ids::ZERO)?;
    expect::eq(
        "mainline's ksm_zero_pages after run=2",
        "0\n",
        &procfs::read(&format!("{}/ksm_zero_pages", knob::MAINLINE))?,
    )
}

/// Memory that was only read maps the shared zero page, too, but not because of the module.
fn leaves_zero_pages_that_were_never_merged(lab: &Lab) -> Result {
    let peer = lab.alice()?;
    let span = peer.map(Kind::Anon, PAGES)?;
    peer.check(span, Ids::ZERO)?;
    pages::expect_zero_page((&peer, span))?;
    scanner::merge()?;
    scanner::unmerge()?;
    expect_nothing_merged()?;
    pages::expect_zero_page((&peer, span))
}

fn breaks_pages_of_all_users_and_domains(lab: &Lab) -> Result {
    knob::set("domain", "global")?;
    let mut peers = Vec::new();
    for user in [User::Root, User::Alice, User::Bob] {
        let peer = lab.peer(user)?;
        let span = peer.anon(PAGES, IDS)?;
        peers.push((peer, span));
    }
    let spans: Vec<_> = peers.iter().map(|(peer, span)| (peer, *span)).collect();
    scanner::merge()?;
    pages::expect_merged(&spans)?;
    expect_unmerged(&spans, IDS)
}

fn breaks_pages_shared_by_fork(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    let child = a.fork()?;
    let grandchild = child.fork()?;
    expect_unmerged(
        &[(&a, in_a), (&child, in_a), (&grandchild, in_a), (&b, in_b)],
        IDS,
    )
}

fn breaks_moved_pages(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    let moved = a.remap(in_a)?;
    expect_unmerged(&[(&a, moved), (&b, in_b)], IDS)
}

fn breaks_protected_pages(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    a.protect(in_a, libc::PROT_READ)?;
    b.protect(in_b, libc::PROT_NONE)?;
    scanner::unmerge()?;
    expect_nothing_merged()?;
    b.protect(in_b, libc::PROT_READ | libc::PROT_WRITE)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

fn breaks_pages_of_private_files(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (
        a.filled(Kind::PrivateFile, PAGES, IDS)?,
        b.anon(PAGES, IDS)?,
    );
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

fn breaks_pages_of_processes_that_became_undumpable(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    a.set_dumpable(false)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

/// Pages that are no longer scanned are still merged, and must be unmerged.
fn breaks_pages_that_were_excluded_since(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    a.advise(in_a.part(0, 8), libc::MADV_DONTDUMP)?;
    a.advise(in_a.part(8, 8), libc::MADV_WIPEONFORK)?;
    b.watch(in_b, 1)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

fn breaks_the_last_mapping_of_a_shared_page(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    b.fill(in_b, Ids::each(5000))?;
    expect_unmerged(&[(&a, in_a)], IDS)
}

fn breaks_pages_merged_under_another_scope(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    knob::set("scope", "registered")?;
    scanner::scan(2)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

fn can_be_repeated(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    for _ in 0..3 {
        expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)?;
    }
    Ok(())
}

fn merging_starts_again(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    for _ in 0..3 {
        expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)?;
        scanner::merge()?;
        pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        a.check(in_a, IDS)?;
        scanner::expect_exact_counts("after merging again")?;
    }
    Ok(())
}

fn does_not_merge_until_restarted(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)?;
    let scanned = knob::number("pages_scanned")?;
    std::thread::sleep(Duration::from_millis(700));
    expect::eq(
        "pages_scanned after run=2",
        scanned,
        knob::number("pages_scanned")?,
    )?;
    expect_nothing_merged()
}

/// Unmerging races with everything that creates or removes mappings.
fn works_while_processes_fork_and_end(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(256, IDS)?, b.anon(256, IDS)?);
    let workers = lab.alices(3)?;
    for (index, worker) in workers.iter().enumerate() {
        worker.churn(
            rng::seed().wrapping_add(index as u64),
            Duration::from_secs(8),
        )?;
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        scanner::start()?;
        scanner::wait_passes(2)?;
        scanner::unmerge()?;
        pages::expect_not_merged((&a, in_a))?;
        pages::expect_not_merged((&b, in_b))?;
    }
    for worker in &workers {
        worker
            .churned()
            .during(|| format!("KSM_V_SEED={}", rng::seed()))?;
    }
    scanner::unmerge()?;
    expect_nothing_merged()?;
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)
}

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
    let line = format!("exec printf 2 >{}", knob::path("run"));
    let writer = Command::new("sh").args(["-c", &line]).spawn();
    let mut writer = writer.context(|| "starting a shell")?;
    let begun = task::wait_until(task::PATIENCE, || {
        pages::expect_not_merged((peer, span.page(0))).is_ok()
    });
    writer.kill().context(|| "killing the writer")?;
    let mut status = None;
    let ended = task::wait_until(task::PATIENCE, || {
        status = writer.try_wait().ok().flatten();
        status.is_some()
    });
    expect::that(begun, || "the shell: expected to begin unmerging")?;
    expect::that(ended, || "the writer: expected to end when killed")?;
    let by_signal = status.is_some_and(|status| status.signal().is_some());
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

/// A process waits for a file system that does not answer, and holds its mmap lock meanwhile.
fn waits_for_no_process_that_waits_itself(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    let stuck = Stuck::start()?;
    let refused = || -> Result<u64> { Ok(debugfs::refusals()?.remove("locked").unwrap_or(0)) };
    let (before, sharing) = (refused()?, knob::number("pages_sharing")?);
    scanner::passes(scanner::ENOUGH_PASSES)?;
    expect::within("locked VMAs", before + 1..=u64::MAX, refused()?)?;
    // A locked VMA does not hide other VMAs. A page or two that the process inherited from its parent
    // may be merged, too.
    let pairs = Stuck::PAIRS as u64;
    expect::within(
        "pages_sharing",
        sharing + pairs..=sharing + pairs + 2,
        knob::number("pages_sharing")?,
    )?;
    let now = knob::try_write(knob::WRITE_ONLY, stuck.pid().to_string().as_bytes());
    expect::errno("merge_now", libc::EAGAIN, now)?;
    let path = knob::path("run");
    let write = |text: &str| {
        let line = format!("exec printf {text} >{path}");
        Command::new("sh").args(["-c", &line]).spawn()
    };
    let mut first = write("2").context(|| "starting a shell")?;
    let begun = task::wait_until(task::PATIENCE, || {
        pages::expect_not_merged((&a, in_a)).is_ok()
    });
    expect::that(begun, || "run=2: expected to go on with other processes")?;
    // Other writers wait for this one meanwhile, and can be killed.
    let mut second = write("0").context(|| "starting a shell")?;
    task::wait_until(Duration::from_secs(1), || {
        task::stat(second.id() as i32, 3).is_ok_and(|state| state == "S")
    });
    second.kill().context(|| "killing a writer")?;
    second.wait().context(|| "waiting for a writer")?;
    let is_first_ended = first.try_wait().context(|| "the first writer")?.is_some();
    expect::that(!is_first_ended, || {
        "run=2: expected to try again for a while"
    })?;
    let status = first.wait().context(|| "waiting for the first writer")?;
    expect::that(status.success(), || "run=2: expected success")?;
    expect_nothing_merged_but(&stuck)?;
    drop(stuck);
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)
}

/// Like [`expect_nothing_merged`], but checks only the counts: the page tables of a blocked process
/// cannot be read.
fn expect_nothing_merged_but(_stuck: &Stuck) -> Result {
    let zero = Counts {
        shared: 0,
        sharing: 0,
        zero: 0,
    };
    expect::eq("counts after run=2", zero, Counts::read()?)
}

/// A process discards merged pages of a private mapping while they are unmerged. The unmerge must not
/// read the mapped file, since the file system does not answer.
fn waits_for_no_file_system(_lab: &Lab) -> Result {
    let discarder = Discarder::start()?;
    scanner::merge()?;
    let sharing = knob::number("pages_sharing")?;
    expect::within(
        "pages_sharing",
        Discarder::PAIRS as u64 * 9 / 10..=u64::MAX,
        sharing,
    )?;
    // Slow down page faults, so that a page can be discarded before the fault that would unmerge it.
    let faults = probe::is_possible()
        .then(|| CallCount::start("handle_mm_fault"))
        .transpose()?;
    faults.as_ref().map_or(Ok(()), CallCount::slow_down)?;
    discarder.lie_in_wait()?;
    let path = knob::path("run");
    let mut writer = Command::new("sh")
        .args(["-c", &format!("exec printf 2 >{path}")])
        .spawn()
        .context(|| "starting a shell")?;
    let mut status = None;
    let ended = task::wait_until(task::PATIENCE, || {
        status = writer.try_wait().ok().flatten();
        status.is_some()
    });
    // The daemon answers now at the latest.
    drop(discarder);
    writer.wait().context(|| "waiting for the writer")?;
    expect::that(ended, || "run=2: expected not to wait for a file system")?;
    let is_success = status.is_some_and(|status| status.success());
    expect::that(is_success, || {
        format!("run=2: expected success, found {status:?}")
    })?;
    expect_nothing_merged()
}

/// Reading the files counts the mappings of each shared page and the zero pages of each process only
/// for root.
fn users_who_read_counts_have_nothing_walked(lab: &Lab) -> Result {
    let _merged = merged_pair(lab)?;
    scanner::stop()?;
    let (frames, processes) = (
        CallCount::start("pfn_to_online_page")?,
        CallCount::start("find_ge_pid")?,
    );
    let calls = || -> Result<(u64, u64)> { Ok((frames.calls()?, processes.calls()?)) };
    let read_all = || -> std::io::Result<()> {
        for name in [
            "pages_shared",
            "pages_sharing",
            "merge_ratio_x100",
            "zero_pages",
        ] {
            std::fs::read(knob::path(name))?;
        }
        for name in [
            "pages_shared",
            "pages_volatile",
            "ksm_zero_pages",
            "stable_node_chains",
            "stable_node_dups",
            "general_profit",
        ] {
            std::fs::read(knob::path(&format!("compat/{name}")))?;
        }
        Ok(())
    };
    // Other tasks call these functions now and then, but not during each of many attempts.
    let mut before = calls()?;
    let mut is_quiet = false;
    for _ in 0..20 {
        child::attempt(|| child::become_user(1000).and_then(|()| read_all()))
            .context(|| "reading as a user")?;
        let after = calls()?;
        is_quiet |= after == before;
        before = after;
    }
    expect::that(is_quiet, || "reading as a user: expected no calls")?;
    child::attempt(read_all).context(|| "reading as root")?;
    let after = calls()?;
    expect::that(after.0 >= before.0 + PAGES && after.1 > before.1, || {
        format!("reading as root: expected more calls: {before:?}, {after:?}")
    })
}
