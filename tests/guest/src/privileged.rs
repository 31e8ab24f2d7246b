// SPDX-License-Identifier: GPL-2.0

//! Programs that give whoever executes them privileges: copies of this very program, with the mode
//! or the extended attribute that does it.

use std::ffi::CStr;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::os::unix::fs::PermissionsExt;

use crate::expect;
use crate::peer::spawn;
use crate::peer::User;
use crate::procfs;
use crate::Context;
use crate::Result;

/// A directory whose file system has set-user-ID programs and extended attributes.
const PLACE: &str = "/tmp";

/// `VFS_CAP_REVISION_2` and `VFS_CAP_FLAGS_EFFECTIVE` of include/uapi/linux/capability.h.
const REVISION_2_EFFECTIVE: u32 = 0x0200_0001;

/// What a program gives to whoever executes it.
#[derive(Clone, Copy, Debug)]
pub enum Gift {
    /// Its owner's user id.
    User(User),
    /// Its group's id.
    Group(User),
    /// A capability, below 32.
    Capability(u32),
    /// Nothing; nor may others read it.
    Nothing,
}

/// A program; its file is removed when this is dropped.
pub struct Program {
    path: String,
}

impl Program {
    /// Makes a program that anybody may execute.
    pub fn new(gift: Gift) -> Result<Self> {
        let path = format!("{PLACE}/ksm_v_privileged.{}", std::process::id());
        let program = Program { path };
        program
            .install(gift)
            .context(|| format!("{}: {gift:?}", program.path))?;
        Ok(program)
    }

    /// Its file.
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

    /// As setcap(8) does: permitted and effective.
    fn give_capability(&self, capability: u32) -> io::Result<()> {
        const NAME: &CStr = c"security.capability";
        let words = [REVISION_2_EFFECTIVE, 1 << capability, 0, 0, 0];
        let value: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let path = CString::new(self.path.as_str())?;
        // SAFETY: Path, name and value live until the call returns.
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

/// Whether privileged programs are dumpable, as long as this exists; 0 otherwise.
pub struct SuidDumpable;

impl SuidDumpable {
    /// Sets it.
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

/// Expects real, effective, saved and file-system ids, as `/proc/PID/status` has them in `Uid` or
/// `Gid`.
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
