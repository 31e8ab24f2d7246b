// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups (version 2) for tests.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::procfs;
use crate::Context;
use crate::Result;

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup that is removed at the end, when its processes have to be gone.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup with memory accounting.
    pub fn new(name: &str) -> Result<Self> {
        Self::within(PathBuf::from(ROOT), &format!("ksm_v_test_{name}"))
    }

    /// Makes a cgroup in this one, which must not have processes itself.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::within(self.path.clone(), name)
    }

    fn within(parent: PathBuf, name: &str) -> Result<Self> {
        let control = parent.join("cgroup.subtree_control");
        procfs::write(&control.display().to_string(), "+memory")?;
        let path = parent.join(name);
        fs::create_dir(&path).context(|| format!("making {}", path.display()))?;
        Ok(Cgroup { path })
    }

    /// Moves the calling process here. What it has stays charged to where it was.
    pub fn enter(&self) -> Result {
        procfs::write(&self.procs(), "0")
    }

    /// Removes it. Fails if it has processes.
    pub fn remove(self) -> Result {
        let removed = fs::remove_dir(&self.path);
        removed.context(|| format!("removing {}", self.path.display()))
    }

    /// Path of the file to which a process is written that is to belong to the cgroup.
    pub fn procs(&self) -> String {
        self.file("cgroup.procs")
    }

    /// The number by which `/proc/kpagecgroup` calls it.
    pub fn inode(&self) -> Result<u64> {
        let metadata = fs::metadata(&self.path);
        metadata
            .map(|data| data.ino())
            .context(|| self.path.display().to_string())
    }

    /// Bytes charged for the anonymous memory of its processes.
    pub fn anon_bytes(&self) -> Result<u64> {
        procfs::number_in(&self.file("memory.stat"), "anon")
    }

    /// Bytes charged in all. The kernel charges in batches: this may be some dozens of pages off.
    pub fn current_bytes(&self) -> Result<u64> {
        procfs::number(&self.file("memory.current"))
    }

    /// Cgroups below it that were removed, but not let go of.
    pub fn dying(&self) -> Result<u64> {
        procfs::number_in(&self.file("cgroup.stat"), "nr_dying_descendants")
    }

    /// Bytes swapped out of its processes.
    pub fn swapped_bytes(&self) -> Result<u64> {
        procfs::number(&self.file("memory.swap.current"))
    }

    /// Processes of it that were killed because its memory was short.
    pub fn killed(&self) -> Result<u64> {
        procfs::number_in(&self.file("memory.events"), "oom_kill")
    }

    /// Has none of its memory swapped out.
    pub fn forbid_swap(&self) -> Result {
        procfs::write(&self.file("memory.swap.max"), "0")
    }

    /// Limits its memory.
    pub fn limit(&self, bytes: u64) -> Result {
        procfs::write(&self.file("memory.max"), &bytes.to_string())
    }

    /// Has its processes wait when they want more memory.
    pub fn throttle(&self, bytes: u64) -> Result {
        procfs::write(&self.file("memory.high"), &bytes.to_string())
    }

    /// Has them wait no longer.
    pub fn unthrottle(&self) -> Result {
        procfs::write(&self.file("memory.high"), "max")
    }

    /// Has the kernel reclaim memory of its processes; `EAGAIN` if it found less.
    pub fn reclaim(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.file("memory.reclaim"), bytes.to_string())
    }

    /// Lifts the limit.
    pub fn unlimit(&self) -> Result {
        procfs::write(&self.file("memory.max"), "max")
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just killed may need a moment to leave.
        for _ in 0..500 {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                _ => return,
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("{}: could not be removed", self.path.display());
    }
}
