// SPDX-License-Identifier: GPL-2.0

//! Programs that show KSM statistics.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::mainline::Mainline;
use guest::ksm_v::mainline::Server;
use guest::lab::Lab;
use guest::lab::TestOf;
use guest::memory::content::PAGE_SIZE;
use guest::process::peer::Peer;
use guest::process::program;
use guest::process::program::Daemon;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;

use super::equal_pages;
use super::expect_files;
use super::merged_pages;
use super::CONTENTS;
use super::DUPLICATES;

pub const TESTS: &[TestOf<Server>] = tests![
    node_exporter_shows_the_files,
    pcp_shows_the_files,
    netdata_shows_what_is_shared_and_saved,
    what_telegraf_would_read_are_numbers,
    atop_shows_what_is_shared_and_saved,
    smem_shows_less_memory_once_merged,
];

const START_TIMEOUT: Duration = task::PATIENCE;

/// The value after `name` in a line that begins with `name`.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

/// The response of a local HTTP server.
fn http(address: &str, path: &str) -> Result<String> {
    let get = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    get().context(|| format!("http://{address}{path}"))
}

const EXPORTER: &str = "127.0.0.1:9100";

fn node_exporter_shows_the_files(lab: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let _peers = merged_pages(lab, &ksm)?;
    let mut exporter = Daemon::start(
        "node_exporter",
        program::command("prometheus-node-exporter --collector.disable-defaults --collector.ksmd")
            .arg(format!("--web.listen-address={EXPORTER}")),
    )?;
    let text = exporter.wait_for(START_TIMEOUT, || http(EXPORTER, "/metrics"))?;
    let succeeded = "node_scrape_collector_success{collector=\"ksmd\"}";
    expect::eq(succeeded, Some(1.0), value(&text, succeeded))?;
    let names = [
        "full_scans",
        "merge_across_nodes",
        "pages_shared",
        "pages_sharing",
        "pages_to_scan",
        "pages_unshared",
        "pages_volatile",
        "run",
        "sleep_millisecs",
    ];
    let metric = |name: &str| match name {
        "full_scans" => value(&text, "node_ksmd_full_scans_total"),
        "sleep_millisecs" => Some(value(&text, "node_ksmd_sleep_seconds")? * 1000.0),
        _ => value(&text, &format!("node_ksmd_{name}")),
    };
    expect_files(&ksm, &names, metric, &text)
}

/// A configuration with only the agent that reads the kernel's files.
const PMCD_CONFIGURATION: &str =
    "linux\t60\tdso\tlinux_init\t/var/lib/pcp/pmdas/linux/pmda_linux.so\n";

/// The number in two lines: `metric`, then `    value N`.
fn pcp_value(text: &str, metric: &str) -> Option<f64> {
    let mut lines = text.lines();
    lines.find(|line| line.trim() == metric)?;
    lines.next()?.trim().strip_prefix("value ")?.parse().ok()
}

fn pcp_shows_the_files(lab: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let _peers = merged_pages(lab, &ksm)?;
    fs::write("pmcd.conf", PMCD_CONFIGURATION).context(|| "pmcd.conf")?;
    program::output(&mut program::command(
        "install -d -o pcp -g pcp /run/pcp /var/log/pcp/pmcd",
    ))?;
    let mut pmcd = Daemon::start(
        "pmcd",
        &mut program::command("/usr/lib/pcp/bin/pmcd -f -c pmcd.conf -l pmcd.log"),
    )?;
    let text = pmcd.wait_for(START_TIMEOUT, || {
        program::output(&mut program::command("pminfo -f mem.ksm"))
    })?;
    let names = [
        "full_scans",
        "merge_across_nodes",
        "pages_shared",
        "pages_sharing",
        "pages_to_scan",
        "pages_unshared",
        "pages_volatile",
        "run",
        "sleep_millisecs",
    ];
    let metric = |name: &str| {
        let name = match name {
            "run" => "run_state",
            "sleep_millisecs" => "sleep_time",
            _ => name,
        };
        pcp_value(&text, &format!("mem.ksm.{name}"))
    };
    expect_files(&ksm, &names, metric, &text)
}

const NETDATA: &str = "127.0.0.1:19999";
const NETDATA_PLACE: &str = "/run/netdata";

/// Enables only the plugin that reads the kernel's files.
fn netdata_configuration() -> String {
    let others = [
        "tc",
        "idlejitter",
        "cgroups",
        "checks",
        "diskspace",
        "statsd",
        "timex",
        "enable running new plugins",
    ];
    let mut text = format!(
        "[directories]\ncache = {NETDATA_PLACE}\nlib = {NETDATA_PLACE}\nlog = {NETDATA_PLACE}\n\
         [db]\nmode = ram\n[ml]\nenabled = no\n[health]\nenabled = no\n\
         [web]\nbind to = {NETDATA}\n[plugins]\nproc = yes\n"
    );
    for plugin in others {
        text.push_str(&format!("{plugin} = no\n"));
    }
    text
}

/// The number in a line like `NETDATA_MEM_KSM_SHARED="2"      # MiB`.
fn netdata_value(text: &str, dimension: &str) -> Option<u64> {
    let name = format!("NETDATA_MEM_KSM_{dimension}=\"");
    let value = text.lines().find_map(|line| line.strip_prefix(&name))?;
    value.split('"').next()?.parse().ok()
}

fn netdata_shows_what_is_shared_and_saved(lab: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let _peers = merged_pages(lab, &ksm)?;
    fs::create_dir_all(NETDATA_PLACE).context(|| NETDATA_PLACE)?;
    fs::write("netdata.conf", netdata_configuration()).context(|| "netdata.conf")?;
    let mut netdata = Daemon::start(
        "netdata",
        &mut program::command("netdata -D -u root -c netdata.conf"),
    )?;
    let mib = |pages: u64| Some(pages * PAGE_SIZE / (1 << 20));
    // The program shows 0 until it has read the files twice.
    netdata.wait_for(START_TIMEOUT, || {
        let text = http(NETDATA, "/api/v1/allmetrics?format=shell")?;
        expect::eq("MiB shared", mib(CONTENTS), netdata_value(&text, "SHARED"))?;
        expect::eq(
            "MiB sharing",
            mib(DUPLICATES),
            netdata_value(&text, "SHARING"),
        )
    })
}

/// The files that telegraf's input "kernel" reads with `collect = ["ksm"]`; it stops at the first
/// file without a number. No Debian release has telegraf, so this test does not run the program.
fn what_telegraf_would_read_are_numbers(lab: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let _peers = merged_pages(lab, &ksm)?;
    for name in [
        "full_scans",
        "max_page_sharing",
        "merge_across_nodes",
        "pages_shared",
        "pages_sharing",
        "pages_to_scan",
        "pages_unshared",
        "pages_volatile",
        "run",
        "sleep_millisecs",
        "stable_node_chains",
        "stable_node_chains_prune_millisecs",
        "stable_node_dups",
        "use_zero_pages",
    ] {
        ksm.number(name)?;
    }
    Ok(())
}

/// The MiB after `label` in a line like `SWP | ksuse   2.0M | kssav   6.0M |`.
fn atop_mib(text: &str, label: &str) -> Option<f64> {
    let mut cells = text.split('|').map(str::split_whitespace);
    cells.find_map(|mut words| {
        (words.next() == Some(label)).then(|| words.next()?.strip_suffix('M')?.parse().ok())?
    })
}

fn atop_shows_what_is_shared_and_saved(lab: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let _peers = merged_pages(lab, &ksm)?;
    // The program shows nothing while KSM is stopped.
    ksm.set("run", 1)?;
    // The part of the swap line that does not fit on a terminal with 80 columns.
    fs::write(".atoprc", "ownswpline KSMSHARED:9 KSMSHARING:8\n").context(|| ".atoprc")?;
    let text = program::output(program::command("atop 1 1").env("HOME", "."))?;
    let mib = |pages: u64| Some((pages * PAGE_SIZE / (1 << 20)) as f64);
    expect::eq("ksuse", mib(CONTENTS), atop_mib(&text, "ksuse"))?;
    expect::eq("kssav", mib(DUPLICATES), atop_mib(&text, "kssav"))
}

/// The sum of the PSS of these processes, in kB.
fn pss(peers: &[&Peer]) -> Result<u64> {
    let text = program::output(program::command("smem -H -c").arg("pid pss"))?;
    let shown = |peer: &&Peer| {
        let pid = peer.pid().to_string();
        value(&text, &pid)
            .map(|kb| kb as u64)
            .ok_or_else(|| format!("smem does not show {pid}: {text}").into())
    };
    peers.iter().map(shown).sum()
}

fn smem_shows_less_memory_once_merged(lab: &Lab, server: Server) -> Result {
    let ksm = Mainline::of(server)?;
    let (one, other) = equal_pages(lab)?;
    let before = pss(&[&one, &other])?;
    ksm.merge(DUPLICATES)?;
    let after = pss(&[&one, &other])?;
    let saved = DUPLICATES * PAGE_SIZE / 1024;
    expect::within(
        format!("decrease of PSS from {before}, in kB"),
        saved - saved / 20..=saved + saved / 20,
        before.saturating_sub(after),
    )
}

/// Sample output of these program versions.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "# TYPE node_ksmd_run gauge\nnode_ksmd_run 1\nnode_ksmd_sleep_seconds 0.01\n";
        assert_eq!(value(text, "node_ksmd_run"), Some(1.0));
        assert_eq!(value(text, "node_ksmd_sleep"), None);
    }

    #[test]
    fn values_of_pcp_follow_their_names() {
        let text = "\nmem.ksm.run_state\n    value 2\n\nmem.ksm.sleep_time\n    value 10\n";
        assert_eq!(pcp_value(text, "mem.ksm.sleep_time"), Some(10.0));
        assert_eq!(pcp_value(text, "mem.ksm.sleep"), None);
    }

    #[test]
    fn values_of_netdata_are_found_by_their_dimension() {
        let text = "NETDATA_MEM_KSM_SHARED=\"2\"      # MiB\nNETDATA_MEM_KSM_SHARING=\"6\"\n";
        assert_eq!(netdata_value(text, "SHARING"), Some(6));
        assert_eq!(netdata_value(text, "SHARE"), None);
    }

    #[test]
    fn cells_of_atop_are_found_by_their_label() {
        let text = "SWP | ksuse   2.0M |              | kssav   6.5M |\n";
        assert_eq!(atop_mib(text, "kssav"), Some(6.5));
        assert_eq!(atop_mib(text, "free"), None);
    }
}
