// SPDX-License-Identifier: GPL-2.0

//! Direct I/O: the pages are pinned while a kernel thread reads or writes them for a disk, a loop
//! device on a file in memory.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use guest::expect;
use guest::ksm_v::module;
use guest::memory::content::PAGE_SIZE;
use guest::process::peer::spawn::check;
use guest::process::task;
use guest::Context;
use guest::Result;
use guest::Span;

use crate::region::Region;
use crate::shadow::Page;
use crate::stage::Stage;
use crate::worker::Worker;

const DISK: &str = "/dev/loop0";
const FILE: &str = "/dev/shm/ksm_v_soak.disk";
/// Number of disk pages for a worker.
const SHARE: u64 = 32;
/// Number of workers with a share of the disk.
const SHARES: u64 = 8;
/// Most pages in one read or write.
const RUN: u64 = 8;

/// Makes the disk; returns the reason if it cannot.
pub fn make() -> Option<String> {
    let made = || -> Result {
        if !Path::new(DISK).exists() {
            module::load_beside("loop")?;
        }
        task::wait_until(task::PATIENCE, || Path::new(DISK).exists());
        let file = File::create(FILE).and_then(|file| file.set_len(SHARE * SHARES * PAGE_SIZE));
        file.context(|| FILE)?;
        losetup(&[DISK, FILE])?;
        fs::set_permissions(DISK, Permissions::from_mode(0o666)).context(|| DISK)
    };
    let failed = made().err()?;
    Some(failed.message().unwrap_or("failed").to_owned())
}

/// Removes the file at once; the disk goes when the last worker closes it.
pub fn forget_at_end(stage: &Stage) -> Result {
    stage.wait();
    fs::remove_file(FILE).context(|| FILE)?;
    losetup(&["-d", DISK])
}

fn losetup(arguments: &[&str]) -> Result {
    let done = Command::new("busybox")
        .arg("losetup")
        .args(arguments)
        .output();
    match done {
        Ok(done) if done.status.success() => Ok(()),
        other => Err(format!("losetup {arguments:?}: {other:?}").into()),
    }
}

/// A worker's share of the disk, and its expected contents.
pub struct Disk {
    file: File,
    offset: u64,
    pages: Vec<Page>,
}

impl Disk {
    /// Opens the disk for direct I/O.
    pub fn open(worker: usize) -> Result<Self> {
        expect::that((worker as u64) < SHARES, || "no disk for so many workers")?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(DISK)
            .context(|| DISK)?;
        Ok(Disk {
            file,
            offset: worker as u64 * SHARE * PAGE_SIZE,
            pages: vec![Page::default(); SHARE as usize],
        })
    }

    /// Writes pages of the region to the disk.
    pub fn write(&mut self, region: &Region, worker: &mut Worker) -> Result {
        let run = Run::any(region, worker);
        let memory = run.memory(region);
        // SAFETY: The pages are mapped.
        let written = check(unsafe {
            libc::pwrite(
                self.file.as_raw_fd(),
                memory.addr as *const libc::c_void,
                memory.bytes() as usize,
                self.place(&run),
            ) as i64
        });
        run.expect_whole("O_DIRECT write", written)?;
        for page in 0..run.pages {
            self.pages[(run.slot + page) as usize] = region.page(run.index + page).clone();
        }
        Ok(())
    }

    /// Reads from the disk into pages of the region, which must then show the disk's contents.
    pub fn read(&mut self, region: &mut Region, worker: &mut Worker) -> Result {
        let run = Run::any(region, worker);
        let memory = run.memory(region);
        // SAFETY: The pages are mapped, and expected to change.
        let read = check(unsafe {
            libc::pread(
                self.file.as_raw_fd(),
                memory.addr as *mut libc::c_void,
                memory.bytes() as usize,
                self.place(&run),
            ) as i64
        });
        run.expect_whole("O_DIRECT read", read)?;
        for page in 0..run.pages {
            let held = self.pages[(run.slot + page) as usize].clone();
            region.expect_page(run.index + page, held);
        }
        region.verify_some(run.index, run.pages, &worker.tally)
    }

    fn place(&self, run: &Run) -> i64 {
        (self.offset + run.slot * PAGE_SIZE) as i64
    }
}

/// Random ranges: pages in memory, and as many on the disk.
struct Run {
    index: u64,
    slot: u64,
    pages: u64,
}

impl Run {
    fn any(region: &Region, worker: &mut Worker) -> Self {
        let pages = 1 + worker.rng.below(RUN);
        Run {
            index: worker.rng.below(region.len() - pages + 1),
            slot: worker.rng.below(SHARE - pages + 1),
            pages,
        }
    }

    fn memory(&self, region: &Region) -> Span {
        region.span().part(self.index, self.pages)
    }

    fn expect_whole(&self, what: &str, done: io::Result<u64>) -> Result {
        let done = done.context(|| what)?;
        expect::eq(format!("bytes of an {what}"), self.pages * PAGE_SIZE, done)
    }
}
