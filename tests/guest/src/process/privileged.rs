// SPDX-License-Identifier: GPL-2.0

//! Programs that grant privileges on execution: copies of this very program with a set-ID mode bit or
//! a capability attribute.

use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::fs::PermissionsExt;

use crate::expect;
use crate::kernel::procfs;
use crate::process::peer::spawn;
use crate::process::peer::User;
use crate::Context;
use crate::Result;

/// A directory whose file system supports set-user-ID programs and extended attributes.
const PLACE: &str = "/tmp";

/// `VFS_CAP_REVISION_2` and `VFS_CAP_FLAGS_EFFECTIVE` of include/uapi/linux/capability.h.
const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;

/// What a program grants to a process that executes it.
#[derive(Clone, Copy, Debug)]
pub enum Gift {
    /// The user ID of its owner.
    User(User),
    /// The ID of its group.
    Group(User),
    /// A capability, below 32.
    Capability(u32),
    /// Nothing; and other users cannot read the program.
    Nothing,
}

/// A program; dropping this removes its file.
pub struct Program {
    path: String,
}

impl Program {
    /// Creates a program that everybody may execute.
    pub fn new(gift: Gift) -> Result<Self> {
        let path = format!("{PLACE}/ksm_v_privileged.{}", std::process::id());
        let program = Program { path };
        program
            .install(gift)
            .context(|| format!("{}: {gift:?}", program.path))?;
        Ok(program)
    }

    /// The path of the program.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn install(&self, gift: Gift) -> io::Result<()> {
        fs::copy(spawn::SELF, &self.path)?;
        let mode = match gift {
            Gift::User(user) => {
                chown(&self.path, Some(user.id()), None)?;
                0o4755
            }
            Gift::Group(user) => {
                chown(&self.path, None, Some(user.id()))?;
                0o2755
            }
            Gift::Capability(capability) => {
                self.give_capability(capability)?;
                0o755
            }
            Gift::Nothing => 0o711,
        };
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }

    /// Grants a capability as permitted and effective, as setcap(8) does.
    fn give_capability(&self, capability: u32) -> io::Result<()> {
        const NAME: &CStr = c"security.capability";
        let words = [REVISION_2_EFFECTIVE, 1 << capability, 0, 0, 0];
        let value: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let path = CString::new(self.path.as_str())?;
        // SAFETY: The path, the name and the value outlive the call.
        let result = unsafe {
            libc::setxattr(
                path.as_ptr(),
                NAME.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                0,
            )
        };
        spawn::check(result.into()).map(drop)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

const SUID_DUMPABLE: &str = "/proc/sys/fs/suid_dumpable";

/// Sets whether privileged programs are dumpable; dropping this sets 0 again.
pub struct SuidDumpable;

impl SuidDumpable {
    /// Writes the value.
    pub fn set(value: u32) -> Result<Self> {
        procfs::write(SUID_DUMPABLE, &value.to_string())?;
        Ok(SuidDumpable)
    }
}

impl Drop for SuidDumpable {
    fn drop(&mut self) {
        let _ = procfs::write(SUID_DUMPABLE, "0");
    }
}

/// Expects these real, effective, saved and file system IDs in the line `Uid` or `Gid` of
/// `/proc/PID/status`.
pub fn expect_ids(pid: i32, name: &str, expected: [User; 4]) -> Result {
    let path = format!("/proc/{pid}/status");
    let text = procfs::read(&path)?;
    let prefix = format!("{name}:");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    let found: Vec<u32> = line
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let expected = expected.map(User::id).to_vec();
    expect::eq(format!("{name} of {path}"), expected, found)
}
