// SPDX-License-Identifier: GPL-2.0

//! Write access to the knobs: it requires CAP_SYS_ADMIN in the initial user namespace at the time of
//! the write.
//!
//! The suite `control` tests the file modes and ordinary users.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::PathBuf;

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::process::child;
use guest::process::peer::User;
use guest::tests;
use guest::Context;
use guest::Result;
use nix::mount::mount;
use nix::mount::MsFlags;
use nix::sched::unshare;
use nix::sched::CloneFlags;

pub(super) const TESTS: &[Test] = tests![
    a_child_with_capabilities_writes,
    root_without_cap_sys_admin_does_not_write,
    a_user_does_not_write_through_a_file_of_root,
    root_of_a_user_namespace_does_not_write,
    root_in_a_user_namespace_of_its_own_does_not_write,
    root_of_a_namespace_does_not_write_through_its_own_sysfs,
];

/// Valid values that differ from the initial values of a test.
const VALUES: [(&str, &str); 6] = [
    ("run", "1"),
    ("scan_rate", "4242"),
    ("sleep_ms", "4242"),
    ("promote_after", "42"),
    ("scope", "registered"),
    ("domain", "global"),
];

/// Runs `become_less`, then opens a knob and writes to it; returns the result.
fn writes_as(name: &str, value: &str, become_less: fn() -> io::Result<()>) -> io::Result<()> {
    child::attempt(|| {
        become_less()?;
        knob::open(name)?.write_all(value.as_bytes())
    })
}

/// Like [`writes_as`], but the superuser opens the knob before.
fn writes_opened(name: &str, value: &str, become_less: fn() -> io::Result<()>) -> io::Result<()> {
    let mut file = knob::open(name)?;
    child::attempt(move || {
        become_less()?;
        file.write_all(value.as_bytes())
    })
}

/// Writes a value to a knob in a child that drops privileges first.
type Attempt = fn(&str, &str, fn() -> io::Result<()>) -> io::Result<()>;

/// Expects that each knob refuses the write and keeps its value.
fn expect_refused(
    who: &str,
    error: i32,
    write: Attempt,
    become_less: fn() -> io::Result<()>,
) -> Result {
    for (name, value) in VALUES {
        let before = knob::read(name)?;
        let written = write(name, value, become_less);
        expect::errno(format!("{who} writing {value} to {name}"), error, written)?;
        expect::eq(
            format!("{name} after {who} wrote to it"),
            before,
            knob::read(name)?,
        )?;
    }
    Ok(())
}

/// With all capabilities the same writes succeed; otherwise the other tests would prove nothing.
fn a_child_with_capabilities_writes(_: &Lab) -> Result {
    for (name, value) in VALUES {
        for write in [writes_as as Attempt, writes_opened] {
            write(name, value, || Ok(())).context(|| format!("writing {value} to {name}"))?;
            let found = knob::read(name)?;
            expect::that(found.contains(value), || {
                format!("{name}: expected {value}, found {found:?}")
            })?;
            scanner::settle_knobs()?;
        }
    }
    Ok(())
}

fn root_without_cap_sys_admin_does_not_write(_: &Lab) -> Result {
    let drop = || child::drop_capability(child::CAP_SYS_ADMIN);
    expect_refused("root without CAP_SYS_ADMIN", libc::EPERM, writes_as, drop)?;
    expect_refused(
        "root without CAP_SYS_ADMIN",
        libc::EPERM,
        writes_opened,
        drop,
    )
}

fn a_user_does_not_write_through_a_file_of_root(_: &Lab) -> Result {
    expect_refused("Alice", libc::EACCES, writes_as, become_alice)?;
    expect_refused(
        "Alice with root's file",
        libc::EPERM,
        writes_opened,
        become_alice,
    )
}

fn become_alice() -> io::Result<()> {
    child::become_user(User::Alice.id())
}

/// Becomes root of a new user namespace; its ID in the initial namespace is `outside`.
fn enter_namespace(outside: u32) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {outside} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {outside} 1"))
}

fn enter_as_alice() -> io::Result<()> {
    become_alice()?;
    // After the change of the user ID, /proc/self belongs to root; this undoes it.
    nix::sys::prctl::set_dumpable(true)?;
    enter_namespace(User::Alice.id())
}

fn enter_as_root() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(true)?;
    enter_namespace(User::Root.id())
}

fn root_of_a_user_namespace_does_not_write(_: &Lab) -> Result {
    let who = "root of Alice's namespace";
    expect_refused(who, libc::EACCES, writes_as, enter_as_alice)?;
    expect_refused(who, libc::EPERM, writes_opened, enter_as_alice)
}

/// Root in the new namespace owns the files and has all capabilities, but not in the initial namespace.
fn root_in_a_user_namespace_of_its_own_does_not_write(_: &Lab) -> Result {
    let who = "root in a namespace";
    expect_refused(who, libc::EPERM, writes_as, enter_as_root)?;
    expect_refused(who, libc::EPERM, writes_opened, enter_as_root)
}

/// The mount point of the namespace's own sysfs.
const OWN_SYSFS: &str = "/tmp/ksm_v_test_sysfs";

fn root_of_a_namespace_does_not_write_through_its_own_sysfs(_: &Lab) -> Result {
    fs::create_dir_all(OWN_SYSFS).context(|| OWN_SYSFS)?;
    let write: Attempt = |name, value, become_less| {
        child::attempt(|| {
            become_less()?;
            mount(
                None::<&str>,
                OWN_SYSFS,
                Some("sysfs"),
                MsFlags::empty(),
                None::<&str>,
            )?;
            let path = PathBuf::from(OWN_SYSFS).join("kernel/mm/ksm_v").join(name);
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.write_all(value.as_bytes())
        })
    };
    let who = "root in a namespace with a sysfs";
    expect_refused(who, libc::EPERM, write, enter_as_root)?;
    expect_refused(who, libc::EACCES, write, enter_as_alice)
}
