// SPDX-License-Identifier: GPL-2.0

//! The directory of mainline's KSM, served by mainline or by the module
//! (Documentation/admin-guide/mm/ksm.rst of the kernel).

use std::time::Duration;

use nix::mount::mount;
use nix::mount::umount2;
use nix::mount::MntFlags;
use nix::mount::MsFlags;

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::knob;
use crate::process::task;
use crate::Context;
use crate::Result;

/// How long merging the memory of a test may take.
const MERGE_TIMEOUT: Duration = task::PATIENCE;

/// The server of `/sys/kernel/mm/ksm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The kernel's own scanner.
    Ksmd,
    /// The module: its directory `compat` is bind-mounted there.
    Module,
}

/// `/sys/kernel/mm/ksm` while it exists: initially stopped, nothing merged, and set to scan fast.
pub struct Mainline {
    mounted: bool,
}

impl Mainline {
    /// Makes `server` serve the directory.
    pub fn of(server: Server) -> Result<Self> {
        let mainline = Mainline {
            mounted: server == Server::Module,
        };
        if mainline.mounted {
            bind()?;
        }
        mainline.settle()?;
        Ok(mainline)
    }

    fn settle(&self) -> Result {
        for (name, value) in [
            ("run", 2),
            ("run", 0),
            ("pages_to_scan", 5000),
            ("sleep_millisecs", 10),
            ("use_zero_pages", 0),
        ] {
            self.set(name, value)?;
        }
        Ok(())
    }

    /// Reads a file that holds a number.
    pub fn number(&self, name: &str) -> Result<u64> {
        procfs::number(&path(name))
    }

    /// Writes a number as `echo` does.
    pub fn set(&self, name: &str, value: u64) -> Result {
        procfs::write(&path(name), &format!("{value}\n"))
    }

    /// Scans for `count` passes, then stops.
    pub fn scan(&self, count: u64) -> Result {
        // The pass that runs when the count is read may have begun before.
        let target = self.number("full_scans")? + count + 1;
        self.set("run", 1)?;
        let done = || self.number("full_scans").is_ok_and(|found| found >= target);
        let is_done = task::wait_until(MERGE_TIMEOUT, done);
        self.set("run", 0)?;
        expect::that(is_done, || format!("full_scans: expected {target}"))
    }

    /// Starts scanning, waits until `pages_sharing` reaches `sharing`, and stops.
    pub fn merge(&self, sharing: u64) -> Result {
        self.set("run", 1)?;
        let done = || {
            self.number("pages_sharing")
                .is_ok_and(|found| found >= sharing)
        };
        task::wait_until(MERGE_TIMEOUT, done);
        self.set("run", 0)?;
        expect::eq("pages_sharing", sharing, self.number("pages_sharing")?)
    }
}

impl Drop for Mainline {
    fn drop(&mut self) {
        let settled = self.set("run", 2).and_then(|()| self.set("run", 0));
        if let Err(failed) = settled {
            eprintln!("cleaning up: {}", failed.message().unwrap_or("failed"));
        }
        if self.mounted {
            // A lazy unmount: files that a program holds open stay usable until they are closed.
            let _ = umount2(knob::MAINLINE, MntFlags::MNT_DETACH);
        }
    }
}

fn path(name: &str) -> String {
    format!("{}/{name}", knob::MAINLINE)
}

fn bind() -> Result {
    let compat = format!("{}/compat", knob::DIR);
    mount(
        Some(compat.as_str()),
        knob::MAINLINE,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .context(|| format!("mount --bind {compat} {}", knob::MAINLINE))
}
