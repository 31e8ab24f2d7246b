// SPDX-License-Identifier: GPL-2.0

//! Users of a process's pages elsewhere in the kernel, which hold or watch them.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use io_uring::opcode;
use io_uring::types;
use io_uring::IoUring;

use super::spawn::check;
use crate::memory::content;
use crate::memory::content::Ids;
use crate::memory::content::PAGE_SIZE;
use crate::memory::content::WORDS;
use crate::process::userfaultfd::Userfaultfd;
use crate::process::userfaultfd::FEATURE_MOVE;
use crate::process::userfaultfd::MISSING;
use crate::Span;

/// A pipe that holds pages.
pub struct Spliced {
    reader: File,
    /// Keeps the reader from seeing the end of the pipe.
    _writer: File,
}

impl Spliced {
    /// Gives the pages of a span to a new pipe; also returns how many bytes the pipe took.
    pub fn new(span: Span) -> io::Result<(Self, u64)> {
        let (reader, writer) = pipe()?;
        let buffer = iovec(span);
        // SAFETY: `buffer` is a valid iovec, and this process keeps its pages.
        let given = check(unsafe {
            libc::vmsplice(writer.as_raw_fd(), &buffer, 1, libc::SPLICE_F_NONBLOCK) as i64
        })?;
        let spliced = Spliced {
            reader,
            _writer: writer,
        };
        Ok((spliced, given))
    }

    /// Reads the next page from the pipe.
    pub fn read_page(&mut self) -> io::Result<Vec<u8>> {
        let mut page = vec![0; PAGE_SIZE as usize];
        self.reader.read_exact(&mut page)?;
        Ok(page)
    }

    /// Reads pages from the pipe and compares them.
    pub(super) fn check(mut self, pages: u64, ids: Ids) -> Result<(), String> {
        for index in 0..pages {
            let page = self.read_page();
            let page = page.map_err(|error| format!("page {index} of the pipe: {error}"))?;
            check_page(&page, ids.of(index))
                .map_err(|why| format!("page {index} of the pipe, {why}"))?;
        }
        Ok(())
    }
}

fn check_page(page: &[u8], id: u64) -> Result<(), String> {
    let words = page
        .chunks_exact(8)
        .map(|chunk| u64::from_ne_bytes(chunk.try_into().expect("8 bytes")));
    let differs = words
        .enumerate()
        .find(|&(index, word)| word != content::word(id, index));
    match differs {
        Some((index, word)) => Err(format!(
            "word {index} of {WORDS}: not of content {id}: {word:#x}"
        )),
        None => Ok(()),
    }
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    // SAFETY: The call just created both descriptors, which have no other owner.
    Ok(unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) })
}

fn iovec(span: Span) -> libc::iovec {
    libc::iovec {
        iov_base: span.addr as *mut libc::c_void,
        iov_len: span.bytes() as usize,
    }
}

/// An io_uring with a registered buffer; its pages are pinned while it exists.
pub struct Pinned(IoUring);

impl Pinned {
    /// Pins the pages of a span.
    pub fn new(span: Span) -> io::Result<Self> {
        let ring = IoUring::new(4)?;
        // SAFETY: The pages belong to the test, which allows the kernel to write to them.
        unsafe { ring.submitter().register_buffers(&[iovec(span)]) }?;
        Ok(Pinned(ring))
    }

    /// Unpins the pages. Closing the ring also does so, but only at some later time.
    pub fn release(self) -> io::Result<()> {
        self.0.submitter().unregister_buffers()
    }

    /// Writes a word to an address in the buffer, through the pinned page.
    pub fn write(&mut self, addr: u64, value: u64) -> io::Result<()> {
        let (reader, mut writer) = pipe()?;
        writer.write_all(&value.to_ne_bytes())?;
        let read = opcode::ReadFixed::new(types::Fd(reader.as_raw_fd()), addr as *mut u8, 8, 0);
        // SAFETY: The buffer outlives the ring; `reader` outlives the request, which completes below.
        unsafe { self.0.submission().push(&read.build()) }.map_err(io::Error::other)?;
        self.0.submit_and_wait(1)?;
        let done = self.0.completion().next().map(|entry| entry.result());
        match done {
            Some(8) => Ok(()),
            other => Err(io::Error::other(format!(
                "the read into the buffer: {other:?}"
            ))),
        }
    }
}

/// A thread that fills missing pages of a span, as a virtual machine monitor restores a snapshot. [`Self::end`] ends
/// the watch.
pub(super) struct Restoring {
    ends: Arc<AtomicBool>,
    /// Number of pages filled.
    filled: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Restoring {
    /// How long the thread waits for a fault before it asks whether to end.
    const PATIENCE: Duration = Duration::from_millis(100);

    /// Watches a span, whose pages get these contents when they are first accessed.
    pub(super) fn new(span: Span, ids: Ids) -> io::Result<Self> {
        let mut faults = Userfaultfd::open(0)?;
        faults.register(span, MISSING)?;
        let (ends, filled) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (is_over, count) = (ends.clone(), filled.clone());
        let thread = thread::spawn(move || {
            while !is_over.load(Relaxed) {
                let Some(fault) = faults.next(Self::PATIENCE)? else {
                    continue;
                };
                let page = (fault.page - span.addr) / PAGE_SIZE;
                let bytes = content::bytes(|index| content::word(ids.of(page), index));
                // Counted first: the copy wakes the reader, who may ask for the number at once.
                count.fetch_add(1, Relaxed);
                faults.copy(span.page(page), &bytes)?;
            }
            faults.unregister(span)
        });
        Ok(Restoring {
            ends,
            filled,
            thread: Some(thread),
        })
    }

    /// The number of pages filled so far.
    pub(super) fn filled(&self) -> u64 {
        self.filled.load(Relaxed)
    }

    /// Ends the watch; pages that are missing then are pages of zeros.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.ends.store(true, Relaxed);
        let thread = self.thread.take().expect("taken once, here");
        thread.join().expect("the thread does not panic")
    }
}

/// A userfaultfd that watches a span. Dropping it ends the watch.
pub(super) struct Watched {
    faults: Userfaultfd,
}

impl Watched {
    /// Watches a span for faults of a mode.
    pub(super) fn new(span: Span, mode: u64) -> io::Result<Self> {
        Self::with(0, span, mode)
    }

    /// Watches a span for missing pages, as a destination for moved pages.
    pub(super) fn to_move(span: Span) -> io::Result<Self> {
        Self::with(FEATURE_MOVE, span, MISSING)
    }

    fn with(features: u64, span: Span, mode: u64) -> io::Result<Self> {
        let faults = Userfaultfd::open(features)?;
        faults.register(span, mode)?;
        Ok(Watched { faults })
    }

    /// The number of pages of the span that are not missing: nothing can be copied to their place.
    pub(super) fn present(&self, span: Span) -> u64 {
        let bytes = content::bytes(|_| 1);
        let is_present = |&page: &u64| {
            let copied = self.faults.copy(span.page(page), &bytes);
            copied.is_err_and(|why| why.raw_os_error() == Some(libc::EEXIST))
        };
        (0..span.pages).filter(is_present).count() as u64
    }

    /// Moves pages into the span, one by one; returns how many pages the kernel refused to move.
    pub(super) fn refused_moves(&self, from: Span, to: Span) -> u64 {
        let is_refused = |&page: &u64| {
            self.faults
                .move_page(from.page(page), to.page(page))
                .is_err()
        };
        (0..from.pages).filter(is_refused).count() as u64
    }
}
