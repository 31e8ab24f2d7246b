// SPDX-License-Identifier: GPL-2.0

//! The kernel's lockdown (kernel_lockdown(7)): a locked-down kernel, which accepts only signed
//! modules, loads this module only if it is signed; a module that is loaded already keeps working.
//!
//! There are two suites: `locked` runs in a guest booted with `lockdown=`; `lockdown` runs in a guest
//! booted without it and raises the level, which cannot be undone.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use guest::expect;
use guest::expect::secret;
use guest::kernel::kmsg::Kmsg;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::task;
use guest::tests;
use guest::Context;
use guest::Result;
use libtest_mimic::Trial;
use nix::mount::mount;
use nix::mount::MsFlags;

/// A test without a lab, since the module is not loaded.
type BareTest = (&'static str, fn() -> Result);

const LOCKED_TESTS: &[BareTest] = tests![the_kernel_is_locked_down, an_unsigned_module_is_refused];

/// The tests of a kernel that is locked down from boot.
pub fn locked_trials() -> Vec<Trial> {
    let make = |&(name, test): &BareTest| Trial::test(format!("locked::{name}"), test);
    LOCKED_TESTS.iter().map(make).collect()
}

/// The test of a kernel that is locked down step by step.
pub fn trials() -> Vec<Trial> {
    lab::trials("lockdown", TESTS)
}

const TESTS: &[Test] = tests![a_loaded_module_goes_on_when_lockdown_is_raised];

const SECURITYFS: &str = "/sys/kernel/security";
const LEVEL: &str = "/sys/kernel/security/lockdown";

fn mount_securityfs() -> Result {
    if Path::new(LEVEL).exists() {
        return Ok(());
    }
    mount(
        None::<&str>,
        SECURITYFS,
        Some("securityfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context(|| "mounting securityfs")
}

/// The current level, which is in brackets.
fn level() -> Result<String> {
    mount_securityfs()?;
    let text = procfs::read(LEVEL)?;
    let mut words = text.split_whitespace();
    let chosen = words.find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    chosen
        .map(str::to_owned)
        .ok_or_else(|| format!("{LEVEL}: {text:?}").into())
}

/// Expects the level given on the kernel's command line; without it, the tests would prove nothing.
fn the_kernel_is_locked_down() -> Result {
    let line = procfs::read("/proc/cmdline")?;
    let mut words = line.split_whitespace();
    let asked = words.find_map(|word| word.strip_prefix("lockdown="));
    expect::eq(
        "level of lockdown",
        asked.map(str::to_owned),
        Some(level()?),
    )?;
    expect::that(asked != Some("none"), || "expected a level above none")
}

/// Returns whether the log gives lockdown as the reason.
fn says_why(messages: &[String]) -> bool {
    let about = |message: &&String| message.contains("Lockdown:") && message.contains("module");
    messages.iter().any(|message| about(&message))
}

/// The kernel logs at most ten lockdown messages in 5 s (`pr_notice_ratelimited()`), and uses them up
/// for its tracers at boot. A suppressed message appears at a later attempt.
const UNTIL_IT_SAYS_WHY: Duration = task::PATIENCE;

/// Tries to load the module until the kernel logs the reason for the refusal.
fn expect_reason(log: &mut Kmsg) -> Result {
    let said = task::wait_until(UNTIL_IT_SAYS_WHY, || {
        module::try_load("").is_ok() || says_why(&log.messages())
    });
    expect::that(said, || "expected the kernel to log lockdown as the reason")
}

fn an_unsigned_module_is_refused() -> Result {
    let mut log = Kmsg::open()?;
    let tainted = procfs::read("/proc/sys/kernel/tainted")?;
    expect::errno("loading the module", libc::EPERM, module::try_load(""))?;
    expect::errno("loading it from memory", libc::EPERM, load_from_memory())?;
    expect_reason(&mut log)?;
    expect::eq(
        "traces of the module",
        Vec::<String>::new(),
        module::traces(),
    )?;
    expect::eq("taints", tainted, procfs::read("/proc/sys/kernel/tainted")?)
}

fn load_from_memory() -> io::Result<()> {
    let image = fs::read(module::file())?;
    Ok(nix::kmod::init_module(&image, c"")?)
}

/// Merges new pages, unmerges them, and checks all files and messages.
fn expect_working(lab: &Lab, log: &mut Kmsg, first: u64) -> Result {
    let ids = Ids::each(first);
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(16, ids)?, b.anon(16, ids)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    scanner::expect_exact_counts("under lockdown")?;
    for name in knob::WRITABLE.iter().chain(&knob::READ_ONLY) {
        secret::expect_no_address(name, knob::read(name)?.as_bytes())?;
    }
    scanner::unmerge()?;
    pages::expect_not_merged((&a, in_a))?;
    a.check(in_a, ids)?;
    b.check(in_b, ids)?;
    let messages = log.messages();
    for message in messages.iter().filter(|message| message.contains("ksm_v")) {
        secret::expect_no_address("the kernel's log", message.as_bytes())?;
    }
    Ok(())
}

/// kernel_lockdown(7) restricts /proc/kcore and the like, but not root's access to pagemap, so the
/// tests can still read frame numbers.
fn a_loaded_module_goes_on_when_lockdown_is_raised(lab: &Lab) -> Result {
    let mut log = Kmsg::open()?;
    expect::eq("level at first", "none".to_owned(), level()?)?;
    expect_working(lab, &mut log, 100)?;
    for (step, name) in ["integrity", "confidentiality"].into_iter().enumerate() {
        procfs::write(LEVEL, name)?;
        expect::eq("level", name.to_owned(), level()?)?;
        expect_working(lab, &mut log, 1000 * (step as u64 + 1))?;
    }
    module::unload()?;
    expect::eq(
        "traces of the module",
        Vec::<String>::new(),
        module::traces(),
    )?;
    expect::errno("loading it again", libc::EPERM, module::try_load(""))
}
