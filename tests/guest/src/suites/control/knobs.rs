// SPDX-License-Identifier: GPL-2.0

//! The values that the knobs accept and refuse.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::refused::no_numbers;
use guest::ksm_v::refused::no_words;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Context;
use guest::Result;
use nix::unistd::seteuid;
use nix::unistd::Uid;

pub(super) const TESTS: &[Test] = tests![
    run_takes_0_1_and_2,
    scan_rate_takes_its_whole_range,
    scan_rate_of_0_means_1,
    sleep_ms_takes_its_whole_range,
    promote_after_takes_its_whole_range,
    max_page_sharing_takes_its_whole_range,
    max_interval_takes_its_whole_range,
    huge_min_parts_takes_its_whole_range,
    max_cpu_takes_its_whole_range,
    threads_takes_its_whole_range,
    scope_takes_its_words,
    domain_takes_its_words,
    undumpable_takes_its_words,
    content_takes_its_words,
    governor_takes_its_words,
    promise_floor_takes_mebibytes_and_percent,
    promise_swap_takes_0_and_1,
    run_refuses_bad_input,
    scan_rate_refuses_bad_input,
    sleep_ms_refuses_bad_input,
    promote_after_refuses_bad_input,
    max_page_sharing_refuses_bad_input,
    max_interval_refuses_bad_input,
    huge_min_parts_refuses_bad_input,
    max_cpu_refuses_bad_input,
    threads_refuses_bad_input,
    governor_refuses_bad_input,
    scope_refuses_bad_input,
    domain_refuses_bad_input,
    undumpable_refuses_bad_input,
    content_refuses_bad_input,
    promise_floor_refuses_bad_input,
    promise_swap_refuses_bad_input,
    an_empty_write_changes_nothing,
    counts_cannot_be_written,
    users_can_read_and_not_write,
    merge_now_can_only_be_written_and_only_by_root,
    domain_is_fixed_while_pages_are_merged,
    scope_can_change_while_pages_are_merged,
];

/// Writes a text with and without a newline, and expects to read `shown`.
fn takes(name: &str, written: &str, shown: &str) -> Result {
    for end in ["", "\n"] {
        let text = format!("{written}{end}");
        knob::try_write(name, text.as_bytes()).context(|| format!("writing {text:?} to {name}"))?;
        expect::eq(
            format!("{name} after writing {text:?}"),
            format!("{shown}\n"),
            knob::read(name)?,
        )?;
    }
    Ok(())
}

fn takes_numbers(name: &str, values: &[&str]) -> Result {
    values
        .iter()
        .try_for_each(|value| takes(name, value, value))
}

fn run_takes_0_1_and_2(_: &Lab) -> Result {
    takes_numbers("run", &["1", "2", "0", "2", "1", "0"])
}

fn scan_rate_takes_its_whole_range(_: &Lab) -> Result {
    takes_numbers("scan_rate", &["1", "2", "100", "2147483648", "4294967295"])
}

fn scan_rate_of_0_means_1(_: &Lab) -> Result {
    takes("scan_rate", "0", "1")
}

fn sleep_ms_takes_its_whole_range(_: &Lab) -> Result {
    takes_numbers("sleep_ms", &["0", "1", "200", "2147483648", "4294967295"])
}

fn promote_after_takes_its_whole_range(_: &Lab) -> Result {
    takes_numbers("promote_after", &["1", "2", "3", "127", "128", "255"])
}

fn max_page_sharing_takes_its_whole_range(_: &Lab) -> Result {
    takes_numbers(
        "max_page_sharing",
        &["2", "3", "255", "256", "65535", "65536"],
    )
}

fn max_interval_takes_its_whole_range(_: &Lab) -> Result {
    takes_numbers("max_interval", &["1", "2", "4", "8"])
}

fn huge_min_parts_takes_its_whole_range(_: &Lab) -> Result {
    takes_numbers("huge_min_parts", &["0", "1", "64", "257", "512"])
}

fn max_cpu_takes_its_whole_range(_: &Lab) -> Result {
    takes_numbers("max_cpu", &["1", "2", "50", "99", "100"])
}

fn threads_takes_its_whole_range(_: &Lab) -> Result {
    takes_numbers("threads", &["1", "2", "63", "64", "1"])
}

fn governor_takes_its_words(_: &Lab) -> Result {
    takes("governor", "auto", "manual [auto]")?;
    takes("governor", "manual", "[manual] auto")
}

fn scope_takes_its_words(_: &Lab) -> Result {
    takes("scope", "registered", "all [registered]")?;
    takes("scope", "all", "[all] registered")
}

fn domain_takes_its_words(_: &Lab) -> Result {
    takes("domain", "process", "user [process] cgroup global")?;
    takes("domain", "cgroup", "user process [cgroup] global")?;
    takes("domain", "global", "user process cgroup [global]")?;
    takes("domain", "user", "[user] process cgroup global")
}

fn undumpable_takes_its_words(_: &Lab) -> Result {
    takes("undumpable", "leave", "siblings [leave]")?;
    takes("undumpable", "siblings", "[siblings] leave")
}

fn content_takes_its_words(_: &Lab) -> Result {
    takes("content", "zero", "all [zero]")?;
    takes("content", "all", "[all] zero")
}

fn promise_floor_takes_mebibytes_and_percent(_: &Lab) -> Result {
    takes_numbers(
        "promise_floor",
        &["0", "1", "512", "4294967295", "0%", "1%", "99%", "100%"],
    )
}

fn promise_swap_takes_0_and_1(_: &Lab) -> Result {
    takes_numbers("promise_swap", &["1", "0"])
}

fn refuses(name: &str, kept: &str, texts: &[Vec<u8>]) -> Result {
    knob::set(name, kept)?;
    let before = knob::read(name)?;
    for text in texts {
        let shown = String::from_utf8_lossy(&text[..text.len().min(48)]).into_owned();
        let what = format!("writing {} bytes, {shown:?}, to {name}", text.len());
        expect::errno(&what, libc::EINVAL, knob::try_write(name, text))?;
        expect::eq(format!("{name} after {what}"), &before, &knob::read(name)?)?;
    }
    Ok(())
}

fn refuses_numbers(name: &str, kept: &str, beyond: &[&str]) -> Result {
    let mut texts = no_numbers();
    texts.extend(beyond.iter().map(|text| text.as_bytes().to_vec()));
    refuses(name, kept, &texts)
}

fn run_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers(
        "run",
        "0",
        &["3", "4", "255", "256", "257", "4294967296", "4294967297"],
    )?;
    refuses_numbers("run", "1", &["3", "4294967296", "4294967298"])
}

fn scan_rate_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers(
        "scan_rate",
        "77",
        &["4294967296", "4294967297", "18446744073709551615"],
    )
}

fn sleep_ms_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers(
        "sleep_ms",
        "77",
        &["4294967296", "4294967297", "18446744073709551615"],
    )
}

fn promote_after_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers(
        "promote_after",
        "77",
        &["0", "256", "257", "511", "4294967297"],
    )
}

fn max_page_sharing_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers(
        "max_page_sharing",
        "77",
        &["0", "1", "65537", "2147483647", "2147483648", "4294967298"],
    )
}

fn promise_floor_refuses_bad_input(_: &Lab) -> Result {
    let beyond = [
        "4294967296",
        "4294967297",
        "101%",
        "256%",
        "%",
        "5 %",
        "5%%",
        "%5",
        "5M",
    ];
    refuses_numbers("promise_floor", "7%", &beyond)
}

fn promise_swap_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers("promise_swap", "1", &["2", "256", "257", "4294967297"])
}

fn max_interval_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers(
        "max_interval",
        "4",
        &[
            "0",
            "3",
            "5",
            "6",
            "7",
            "9",
            "16",
            "256",
            "257",
            "4294967297",
        ],
    )
}

fn huge_min_parts_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers(
        "huge_min_parts",
        "77",
        &["513", "1024", "65536", "65537", "4294967297"],
    )
}

fn max_cpu_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers(
        "max_cpu",
        "77",
        &["0", "101", "255", "256", "257", "4294967297"],
    )
}

fn threads_refuses_bad_input(_: &Lab) -> Result {
    refuses_numbers("threads", "3", &["0", "65", "256", "257", "4294967297"])
}

fn governor_refuses_bad_input(_: &Lab) -> Result {
    refuses("governor", "auto", &no_words(&["manual", "auto"]))
}

fn scope_refuses_bad_input(_: &Lab) -> Result {
    refuses("scope", "registered", &no_words(&["all", "registered"]))
}

fn domain_refuses_bad_input(_: &Lab) -> Result {
    refuses(
        "domain",
        "cgroup",
        &no_words(&["user", "process", "cgroup", "global"]),
    )
}

fn undumpable_refuses_bad_input(_: &Lab) -> Result {
    refuses("undumpable", "leave", &no_words(&["siblings", "leave"]))
}

fn content_refuses_bad_input(_: &Lab) -> Result {
    refuses("content", "zero", &no_words(&["all", "zero"]))
}

/// The kernel does not pass an empty write to the module.
fn an_empty_write_changes_nothing(_: &Lab) -> Result {
    for name in knob::WRITABLE {
        let before = knob::read(name)?;
        knob::try_write(name, b"").context(|| format!("writing nothing to {name}"))?;
        expect::eq(
            format!("{name} after writing nothing"),
            before,
            knob::read(name)?,
        )?;
    }
    Ok(())
}

fn counts_cannot_be_written(_: &Lab) -> Result {
    for name in knob::READ_ONLY {
        let opened = knob::open(name);
        expect::errno(
            format!("opening {name} for writing as the superuser"),
            libc::EACCES,
            opened,
        )?;
    }
    Ok(())
}

/// Switches the effective user until dropped.
struct Acting;

impl Acting {
    fn as_user(user: User) -> Result<Self> {
        seteuid(Uid::from_raw(user.id())).context(|| format!("acting as {user:?}"))?;
        Ok(Acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        seteuid(Uid::from_raw(0)).expect("the real user is root");
    }
}

fn users_can_read_and_not_write(_: &Lab) -> Result {
    let _alice = Acting::as_user(User::Alice)?;
    for name in knob::WRITABLE.iter().chain(&knob::READ_ONLY) {
        knob::read(name)?;
        let opened = knob::open(name);
        expect::errno(
            format!("opening {name} for writing as Alice"),
            libc::EACCES,
            opened,
        )?;
    }
    Ok(())
}

fn merge_now_can_only_be_written_and_only_by_root(_: &Lab) -> Result {
    let mode =
        fs::metadata(knob::path(knob::WRITE_ONLY)).map(|file| file.permissions().mode() & 0o777);
    expect::eq("mode of merge_now", 0o200, mode.context(|| "merge_now")?)?;
    // Root may open any file, so only the read fails.
    let read = fs::read(knob::path(knob::WRITE_ONLY));
    expect::errno("reading merge_now", libc::EACCES, read)?;
    let _alice = Acting::as_user(User::Alice)?;
    let opened = knob::open(knob::WRITE_ONLY);
    expect::errno("opening merge_now as Alice", libc::EACCES, opened)
}

/// Two processes with merged pages.
fn merged_pair(lab: &Lab) -> Result<(Peer, Peer)> {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(8, Ids::each(1))?, b.anon(8, Ids::each(1))?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    Ok((a, b))
}

fn domain_is_fixed_while_pages_are_merged(lab: &Lab) -> Result {
    let _pair = merged_pair(lab)?;
    for word in ["process", "cgroup", "global"] {
        let written = knob::try_write("domain", word.as_bytes());
        expect::errno(
            format!("domain {word} with merged pages"),
            libc::EBUSY,
            written,
        )?;
        expect::eq("domain", "user", knob::choice("domain")?.as_str())?;
    }
    takes("domain", "user", "[user] process cgroup global")?;
    scanner::unmerge()?;
    takes("domain", "global", "user process cgroup [global]")
}

fn scope_can_change_while_pages_are_merged(lab: &Lab) -> Result {
    let _pair = merged_pair(lab)?;
    let before = scanner::expect_exact_counts("before the change")?;
    takes("scope", "registered", "all [registered]")?;
    expect::eq("counts after the change", before, scanner::Counts::read()?)
}
