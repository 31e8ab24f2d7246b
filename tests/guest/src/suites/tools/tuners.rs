// SPDX-License-Identifier: GPL-2.0

//! Programs that change KSM settings.

use std::fs;
use std::time::Duration;

use guest::expect;
use guest::kernel::procfs;
use guest::ksm_v::mainline::Mainline;
use guest::ksm_v::mainline::Server;
use guest::lab::Lab;
use guest::lab::TestOf;
use guest::process::program;
use guest::process::program::Daemon;
use guest::process::program::Outcome;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

use super::expect_files;
use super::merged_pages;
use super::workloads;

pub const TESTS: &[TestOf<Server>] = tests![
    libvirt_sets_and_shows_the_files,
    libvirt_is_refused_what_the_kernel_refuses,
    ksmtuned_starts_and_stops_with_qemu,
    ksmctl_starts_and_stops,
];

const TIMEOUT: Duration = task::PATIENCE;

fn virsh(arguments: &str) -> std::process::Command {
    program::command(&format!(
        "virsh -c qemu:///system node-memory-tune {arguments}"
    ))
}

fn libvirtd() -> Result<Daemon> {
    let mut daemon = Daemon::start("libvirtd", &mut program::command("libvirtd"))?;
    daemon.wait_for(TIMEOUT, || program::output(&mut virsh("")))?;
    Ok(daemon)
}

/// The number in a line like `shm_pages_shared 64`.
fn shown(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let (found, number) = line.trim().split_once(char::is_whitespace)?;
        (found.strip_prefix("shm_") == Some(name)).then(|| number.trim().parse().ok())?
    })
}

fn libvirt_sets_and_shows_the_files(lab: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let _libvirtd = libvirtd()?;
    for (across, pages, sleep) in [(0, 1234, 33), (1, 5000, 11)] {
        program::output(&mut virsh(&format!(
            "--shm-merge-across-nodes {across} --shm-pages-to-scan {pages} --shm-sleep-millisecs {sleep}"
        )))?;
        expect::eq("pages_to_scan", pages, ksm.number("pages_to_scan")?)?;
        expect::eq("sleep_millisecs", sleep, ksm.number("sleep_millisecs")?)?;
        expect::eq(
            "merge_across_nodes",
            across,
            ksm.number("merge_across_nodes")?,
        )?;
    }
    let _peers = merged_pages(lab, &ksm)?;
    let text = program::output(&mut virsh(""))?;
    let names = [
        "pages_to_scan",
        "sleep_millisecs",
        "pages_shared",
        "pages_sharing",
        "pages_unshared",
        "pages_volatile",
        "full_scans",
        "merge_across_nodes",
    ];
    expect_files(&ksm, &names, |name| shown(&text, name), &text)
}

/// `merge_across_nodes` cannot be changed while pages are merged.
fn libvirt_is_refused_what_the_kernel_refuses(lab: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let _libvirtd = libvirtd()?;
    let _peers = merged_pages(lab, &ksm)?;
    let Outcome { status, text } = program::run(&mut virsh("--shm-merge-across-nodes 0"))?;
    // libvirt reports EBUSY with its own text.
    expect::that(
        status == Some(1) && text.contains("failed to set shm_merge_across_nodes"),
        || format!("expected a failure, found {status:?}: {text}"),
    )?;
    expect::eq("merge_across_nodes", 1, ksm.number("merge_across_nodes")?)
}

/// Configures ksmtuned to check every second, and to start KSM once free memory is more than `kb`
/// below its current value.
fn configure_ksmtuned(kb: u64) -> Result {
    let text = procfs::read("/proc/meminfo")?;
    let field = |name| procfs::field(&text, name).unwrap_or(0);
    let free = field("MemFree") + field("Buffers") + field("Cached");
    let configuration = format!(
        "KSM_MONITOR_INTERVAL=1\nKSM_THRES_COEF=0\nKSM_THRES_CONST={}\nKSM_NPAGES_MAX=300\n\
         KSM_SLEEP_MSEC=10\nDEBUG=1\nPIDFILE=/run/ksmtune.pid\n",
        free.saturating_sub(kb)
    );
    fs::write("/etc/ksmtuned.conf", configuration).context(|| "/etc/ksmtuned.conf")
}

fn wait_for_run(ksm: &Mainline, expected: u64, log: impl Fn() -> String) -> Result {
    task::wait_until(TIMEOUT, || {
        ksm.number("run").is_ok_and(|run| run == expected)
    });
    expect::eq("run", expected, ksm.number("run")?)
        .map_err(|failed| format!("{}: {}", failed.message().unwrap_or(""), log()).into())
}

fn ksmtuned_starts_and_stops_with_qemu(_: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    ksm.set("run", 1)?;
    configure_ksmtuned(100 << 10)?;
    // The program continues as a background shell and leaves its process ID in a file.
    let ksmtuned = Tuned(Daemon::start(
        "ksmtuned",
        &mut program::command("ksmtuned"),
    )?);
    wait_for_run(&ksm, 0, || ksmtuned.0.output())?;
    let qemu = workloads::start_qemu(200)?;
    wait_for_run(&ksm, 1, || ksmtuned.0.output())?;
    let total = procfs::number_in("/proc/meminfo", "MemTotal")?;
    expect::eq("pages_to_scan", 300, ksm.number("pages_to_scan")?)?;
    expect::eq(
        "sleep_millisecs",
        (10 * 16 * 1024 * 1024 / total).max(10),
        ksm.number("sleep_millisecs")?,
    )?;
    let scanned = ksm.number("pages_scanned")?;
    let goes_on = || {
        ksm.number("pages_scanned")
            .is_ok_and(|found| found > scanned)
    };
    expect::that(task::wait_until(TIMEOUT, goes_on), || "nothing is scanned")?;
    qemu.end();
    wait_for_run(&ksm, 0, || ksmtuned.0.output())
}

/// Dropping this ends the daemon that stays in the background.
struct Tuned(Daemon);

impl Drop for Tuned {
    fn drop(&mut self) {
        let _ = program::run(&mut program::command("pkill -F /run/ksmtune.pid"));
    }
}

fn ksmctl_starts_and_stops(_: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    for (verb, run) in [("start", 1), ("stop", 0)] {
        program::output(&mut program::command(&format!("ksmctl {verb}")))?;
        expect::eq(format!("run after ksmctl {verb}"), run, ksm.number("run")?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvirt_shows_names_and_numbers() {
        let text = "Shared memory:\n\tshm_pages_shared 64\n\tshm_full_scans  86\n";
        assert_eq!(shown(text, "full_scans"), Some(86.0));
        assert_eq!(shown(text, "pages"), None);
    }
}
