// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of another process's memory: `process_vm_readv`, `process_vm_writev`,
//! `/proc/PID/mem`, and ptrace.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;

use guest::expect;
use guest::memory::content::PAGE_SIZE;
use guest::process::peer::memory;
use guest::process::trace;
use guest::Context;
use guest::Result;
use nix::sys::uio;
use nix::sys::uio::RemoteIoVec;
use nix::unistd::Pid;

use crate::child;
use crate::child::Child;
use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

use super::any_word;

/// Number of pages that neither process may write to.
const SEALED: u64 = 16;

/// A child with a copy of this process's memory; it does nothing.
pub struct Partner {
    child: Child,
    /// Its writable memory.
    open: Region,
    /// Its read-only memory.
    sealed: Region,
    /// The same memory of this process.
    own_sealed: Region,
}

impl Partner {
    /// Forks the child.
    pub fn new(region: &Region, worker: &mut Worker) -> Result<Self> {
        let sealed = Region::filled(SEALED, &mut worker.rng).context(|| "mmap")?;
        memory::protect(sealed.span(), libc::PROT_READ as u64).context(|| "mprotect")?;
        Ok(Partner {
            child: child::fork(rest)?,
            open: region.clone(),
            sealed: sealed.clone(),
            own_sealed: sealed,
        })
    }

    /// Ends the child and forks another one.
    pub fn renew(&mut self, region: &Region) -> Result {
        let former = std::mem::replace(&mut self.child, child::fork(rest)?);
        self.open = region.clone();
        self.sealed = self.own_sealed.clone();
        former.end()
    }

    /// Writes a page with `process_vm_writev`.
    pub fn write(&mut self, worker: &mut Worker) -> Result {
        let (index, content) = any_page(&self.open, worker);
        let bytes = content.bytes();
        let written = uio::process_vm_writev(
            Pid::from_raw(self.child.pid()),
            &[IoSlice::new(&bytes)],
            &[remote(&self.open, index)],
        );
        let written = written.context(|| "process_vm_writev")?;
        expect::eq("bytes of a process_vm_writev", bytes.len(), written)?;
        self.open.expect(index, content);
        self.verify_page(&self.open, index, worker)
    }

    /// Reads a page with `process_vm_readv`.
    pub fn verify(&mut self, worker: &mut Worker) -> Result {
        let index = worker.rng.below(self.open.len());
        self.verify_page(&self.open, index, worker)
    }

    /// Writes a page through `/proc/PID/mem`.
    pub fn write_file(&mut self, worker: &mut Worker) -> Result {
        let (index, content) = any_page(&self.open, worker);
        self.write_by_file(&self.open, index, content)?;
        self.open.expect(index, content);
        self.verify_page(&self.open, index, worker)
    }

    /// Writes to read-only memory (`FOLL_FORCE`), as only a debugger may: a word by ptrace, or a page
    /// through `/proc/PID/mem`.
    pub fn force(&mut self, worker: &mut Worker) -> Result {
        let (index, content) = any_page(&self.sealed, worker);
        let (word, value) = (any_word(worker), worker.rng.number());
        let pid = self.child.pid();
        if worker.rng.below(2) == 0 {
            trace::attached(pid, || self.write_by_file(&self.sealed, index, content))?;
            self.sealed.expect(index, content);
        } else if self.sealed.page(index).can_poke() {
            trace::write(pid, self.sealed.place(index, word), &[value])?;
            self.sealed.expect_word(index, word, value);
        }
        self.verify_page(&self.sealed, index, worker)?;
        self.own_sealed.verify(index, &worker.tally)
    }

    /// Compares all memory of the child, and the sealed pages of this process.
    pub fn verify_all(&self, worker: &Worker) -> Result {
        for region in [&self.open, &self.sealed] {
            (0..region.len()).try_for_each(|index| self.verify_page(region, index, worker))?;
        }
        self.own_sealed.verify_all(&worker.tally)
    }

    /// Ends the child.
    pub fn end(self) -> Result {
        self.child.end()
    }

    fn write_by_file(&self, region: &Region, index: u64, content: Content) -> Result {
        let bytes = content.bytes();
        let written = self
            .memory()
            .and_then(|file| file.write_all_at(&bytes, region.place(index, 0)));
        written.context(|| "writing to /proc/PID/mem")
    }

    fn memory(&self) -> io::Result<File> {
        let path = format!("/proc/{}/mem", self.child.pid());
        OpenOptions::new().write(true).open(path)
    }

    fn verify_page(&self, region: &Region, index: u64, worker: &Worker) -> Result {
        let mut bytes = vec![0; PAGE_SIZE as usize];
        let read = uio::process_vm_readv(
            Pid::from_raw(self.child.pid()),
            &mut [IoSliceMut::new(&mut bytes)],
            &[remote(region, index)],
        );
        let read = read.context(|| "process_vm_readv")?;
        expect::eq("bytes of a process_vm_readv", bytes.len(), read)?;
        let word = |word: usize| {
            let bytes = bytes[word * 8..][..8].try_into().expect("8 bytes");
            Ok(u64::from_ne_bytes(bytes))
        };
        region.verify_read(index, &worker.tally, word)
    }
}

/// The child's work: nothing.
fn rest() -> Result {
    loop {
        nix::unistd::pause();
    }
}

fn any_page(region: &Region, worker: &mut Worker) -> (u64, Content) {
    let index = worker.rng.below(region.len());
    (index, Content::any(&mut worker.rng))
}

fn remote(region: &Region, index: u64) -> RemoteIoVec {
    RemoteIoVec {
        base: region.place(index, 0) as usize,
        len: PAGE_SIZE as usize,
    }
}
