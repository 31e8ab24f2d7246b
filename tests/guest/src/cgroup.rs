// SPDX-License-Identifier: GPL-2.0

//! Memory cgroups (version 2) for tests.

use std::fs;
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
        procfs::write(&format!("{ROOT}/cgroup.subtree_control"), "+memory")?;
        let path = PathBuf::from(format!("{ROOT}/ksm_v_test_{name}"));
        fs::create_dir(&path).context(|| format!("making {}", path.display()))?;
        Ok(Cgroup { path })
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

    /// Limits its memory.
    pub fn limit(&self, bytes: u64) -> Result {
        procfs::write(&self.file("memory.max"), &bytes.to_string())
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
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        eprintln!("{}: could not be removed", self.path.display());
    }
}
