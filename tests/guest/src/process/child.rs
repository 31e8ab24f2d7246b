// SPDX-License-Identifier: GPL-2.0

//! A child process that attempts one operation with fewer privileges than the test.

use std::io;

use nix::sys::wait::waitpid;
use nix::sys::wait::WaitStatus;
use nix::unistd::fork;
use nix::unistd::ForkResult;

pub use crate::process::peer::become_user;

/// `CAP_NET_RAW` of include/uapi/linux/capability.h.
pub const CAP_NET_RAW: u32 = 13;

/// `CAP_SYS_ADMIN` of include/uapi/linux/capability.h.
pub const CAP_SYS_ADMIN: u32 = 21;

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Exit status of a child whose operation failed without an error number.
const NO_NUMBER: i32 = 255;

/// Runs `act` in a child process and returns its result.
pub fn attempt(act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: The test process has a single thread, so its child may run any code.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let status =
                act().map_or_else(|error| error.raw_os_error().unwrap_or(NO_NUMBER), |()| 0);
            // SAFETY: Only ends the child; the parent keeps everything the test owns.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, NO_NUMBER) => Err(io::Error::other("failed in the child")),
            WaitStatus::Exited(_, number) => Err(io::Error::from_raw_os_error(number)),
            status => Err(io::Error::other(format!("the child ended with {status:?}"))),
        },
    }
}

/// Header that names the calling process.
const OWN: Header = Header {
    version: VERSION_3,
    pid: 0,
};

/// Drops one capability, below 32, for good.
pub fn drop_capability(capability: u32) -> io::Result<()> {
    let mut data = [Data::default(); 2];
    // SAFETY: Header and data have the layout of this version.
    check(unsafe { libc::syscall(libc::SYS_capget, &OWN, data.as_mut_ptr()) })?;
    data[0].effective &= !(1 << capability);
    data[0].permitted &= !(1 << capability);
    set_capabilities(data)
}

/// Drops all capabilities for good.
pub fn drop_capabilities() -> io::Result<()> {
    set_capabilities([Data::default(); 2])
}

/// Keeps only this capability, which must be below 32 and held by the process. It survives `execve`
/// as an ambient capability.
pub fn keep_one_capability(capability: u32) -> io::Result<()> {
    let bit = 1 << capability;
    let low = Data {
        effective: bit,
        permitted: bit,
        inheritable: bit,
    };
    set_capabilities([low, Data::default()])?;
    let (raise, capability) = (libc::PR_CAP_AMBIENT_RAISE, libc::c_ulong::from(capability));
    // SAFETY: The call takes numbers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) }.into())
}

fn set_capabilities(data: [Data; 2]) -> io::Result<()> {
    // SAFETY: Header and data have the layout of this version.
    check(unsafe { libc::syscall(libc::SYS_capset, &OWN, data.as_ptr()) })
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
