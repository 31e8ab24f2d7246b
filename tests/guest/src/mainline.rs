// SPDX-License-Identifier: GPL-2.0

//! The files that mainline's KSM has, and that of the module in their place
//! (Documentation/admin-guide/mm/ksm.rst of the kernel).

use std::time::Duration;

use nix::mount::mount;
use nix::mount::umount2;
use nix::mount::MntFlags;
use nix::mount::MsFlags;

use crate::expect;
use crate::knob;
use crate::procfs;
use crate::task;
use crate::Context;
use crate::Result;

/// How long it may take to merge the memory of a test.
const MERGE_TIMEOUT: Duration = crate::task::PATIENCE;

/// Who serves `/sys/kernel/mm/ksm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The kernel's own scanner.
    Ksmd,
    /// The module: its directory `compat` is mounted there.
    Module,
}

/// `/sys/kernel/mm/ksm` for as long as this exists: stopped, nothing merged, quick once started.
pub struct Mainline {
    mounted: bool,
}

impl Mainline {
    /// Makes it the server's.
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

    /// Starts to scan, waits until `sharing` pages are saved, and stops.
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
            // What a program still holds open may stay until that is closed.
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
