// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups (version 2) for tests.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::kernel::procfs;
use crate::Context;
use crate::Result;

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup that is removed on drop; its processes must be gone by then.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates a cgroup with memory accounting.
    pub fn new(name: &str) -> Result<Self> {
        Self::within(PathBuf::from(ROOT), &format!("ksm_v_test_{name}"))
    }

    /// Creates a child of this cgroup, which must not contain processes itself.
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

    /// Moves the calling process here. Its existing memory stays charged to its previous cgroup.
    pub fn enter(&self) -> Result {
        procfs::write(&self.procs(), "0")
    }

    /// Removes the cgroup. Fails if it still contains processes.
    pub fn remove(self) -> Result {
        let removed = fs::remove_dir(&self.path);
        removed.context(|| format!("removing {}", self.path.display()))
    }

    /// The path of `cgroup.procs`: a process ID written there moves the process into the cgroup.
    pub fn procs(&self) -> String {
        self.file("cgroup.procs")
    }

    /// The inode number, which identifies the cgroup in `/proc/kpagecgroup`.
    pub fn inode(&self) -> Result<u64> {
        let metadata = fs::metadata(&self.path);
        metadata
            .map(|data| data.ino())
            .context(|| self.path.display().to_string())
    }

    /// Bytes of anonymous memory charged to the cgroup.
    pub fn anon_bytes(&self) -> Result<u64> {
        procfs::number_in(&self.file("memory.stat"), "anon")
    }

    /// Bytes charged in total. The kernel charges in batches, so the value may be some dozens of
    /// pages off.
    pub fn current_bytes(&self) -> Result<u64> {
        procfs::number(&self.file("memory.current"))
    }

    /// The number of descendants that were removed but are still referenced.
    pub fn dying(&self) -> Result<u64> {
        procfs::number_in(&self.file("cgroup.stat"), "nr_dying_descendants")
    }

    /// Bytes of swap charged to the cgroup.
    pub fn swapped_bytes(&self) -> Result<u64> {
        procfs::number(&self.file("memory.swap.current"))
    }

    /// The number of its processes that the OOM killer killed.
    pub fn killed(&self) -> Result<u64> {
        procfs::number_in(&self.file("memory.events"), "oom_kill")
    }

    /// Forbids swapping out its memory.
    pub fn forbid_swap(&self) -> Result {
        procfs::write(&self.file("memory.swap.max"), "0")
    }

    /// Sets its hard memory limit.
    pub fn limit(&self, bytes: u64) -> Result {
        procfs::write(&self.file("memory.max"), &bytes.to_string())
    }

    /// Sets the limit above which its processes are throttled (`memory.high`).
    pub fn throttle(&self, bytes: u64) -> Result {
        procfs::write(&self.file("memory.high"), &bytes.to_string())
    }

    /// Removes the throttling limit.
    pub fn unthrottle(&self) -> Result {
        procfs::write(&self.file("memory.high"), "max")
    }

    /// Reclaims memory of its processes; fails with `EAGAIN` if the kernel reclaimed less.
    pub fn reclaim(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.file("memory.reclaim"), bytes.to_string())
    }

    /// Removes the hard memory limit.
    pub fn unlimit(&self) -> Result {
        procfs::write(&self.file("memory.max"), "max")
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just killed may take a moment to leave the cgroup.
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
