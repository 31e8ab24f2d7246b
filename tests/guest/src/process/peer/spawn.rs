// SPDX-License-Identifier: GPL-2.0

//! Starts a process and accepts its connection.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;

use super::server;
use crate::Context;
use crate::Result;

/// The path of this program.
pub const SELF: &str = "/proc/self/exe";

/// Starts this program as a peer that connects to the socket `name`.
pub(super) fn start(uid: u32, cgroup: Option<String>, name: &str) -> Result<i32> {
    start_program(SELF, name, move || {
        if let Some(procs) = &cgroup {
            fs::write(procs, "0")?;
        }
        become_user(uid)
    })
}

/// Starts `program`, a copy of this one, as a peer. The new process runs `setup` before `execve`.
pub(super) fn start_program(
    program: &str,
    name: &str,
    setup: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> Result<i32> {
    let mut command = Command::new(program);
    command.env_clear().args([server::ARGUMENT, name]);
    // SAFETY: The closure runs in the forked child of a process with a single thread, so it may run
    // any code.
    unsafe { command.pre_exec(setup) };
    let child = command.spawn().context(|| "starting a process")?;
    Ok(child.id() as i32)
}

/// Switches the calling process to the user and to the group with the same ID.
pub fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: The length is 0, so the kernel does not read the null pointer.
    check(unsafe { libc::setgroups(0, std::ptr::null()) }.into())?;
    // SAFETY: The call takes numbers only.
    check(unsafe { libc::setresgid(uid, uid, uid) }.into())?;
    // SAFETY: The call takes numbers only.
    check(unsafe { libc::setresuid(uid, uid, uid) }.into())?;
    Ok(())
}

/// Converts the result of a system call: a negative value means that `errno` holds the error.
pub fn check(result: i64) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Waits for a connection.
pub(super) fn accept(listener: &UnixListener, timeout: Duration) -> io::Result<UnixStream> {
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    if poll(&mut waiting, timeout)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    listener.accept().map(|(stream, _)| stream)
}

/// Prepares a program that starts peers. Makes the process not dumpable, so that the module skips its memory. Makes
/// the program executable and readable for all users: a process is not dumpable if its user cannot read its program,
/// and the module would skip the peers' memory, too.
pub fn prepare() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    fs::set_permissions(SELF, fs::Permissions::from_mode(0o755))
}
