// SPDX-License-Identifier: GPL-2.0

//! Other parts of the kernel that hold pages of a process, or watch them.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;

use io_uring::opcode;
use io_uring::types;
use io_uring::IoUring;

use super::spawn::check;
use crate::content;
use crate::content::Ids;
use crate::content::PAGE_SIZE;
use crate::content::WORDS;
use crate::userfaultfd::Userfaultfd;
use crate::userfaultfd::FEATURE_MOVE;
use crate::userfaultfd::MISSING;
use crate::Span;

/// A pipe that was given pages.
pub struct Spliced {
    reader: File,
    /// Keeps the pipe from ending.
    _writer: File,
}

impl Spliced {
    /// Gives the pages of a span to a new pipe; also returns how many bytes it took.
    pub fn new(span: Span) -> io::Result<(Self, u64)> {
        let (reader, writer) = pipe()?;
        let buffer = iovec(span);
        // SAFETY: `buffer` is a valid iovec; its pages stay this process's own.
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
    // SAFETY: `ends` has room for the two.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    // SAFETY: The call made both descriptors, for us alone.
    Ok(unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) })
}

fn iovec(span: Span) -> libc::iovec {
    libc::iovec {
        iov_base: span.addr as *mut libc::c_void,
        iov_len: span.bytes() as usize,
    }
}

/// An io_uring with a registered buffer, whose pages are pinned for as long as it lives.
pub struct Pinned(IoUring);

impl Pinned {
    /// Pins the pages of a span.
    pub fn new(span: Span) -> io::Result<Self> {
        let ring = IoUring::new(4)?;
        // SAFETY: The pages belong to the test, which does not mind what is read into them.
        unsafe { ring.submitter().register_buffers(&[iovec(span)]) }?;
        Ok(Pinned(ring))
    }

    /// Unpins the pages. Closing the ring does so, too, but at some later time.
    pub fn release(self) -> io::Result<()> {
        self.0.submitter().unregister_buffers()
    }

    /// Writes a word to an address of the buffer, through its pinned page.
    pub fn write(&mut self, addr: u64, value: u64) -> io::Result<()> {
        let (reader, mut writer) = pipe()?;
        writer.write_all(&value.to_ne_bytes())?;
        let read = opcode::ReadFixed::new(types::Fd(reader.as_raw_fd()), addr as *mut u8, 8, 0);
        // SAFETY: The buffer outlives the ring, and `reader` the request, which ends below.
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

/// A userfaultfd that watches a span. Dropping it ends the watch.
pub(super) struct Watched {
    faults: Userfaultfd,
}

impl Watched {
    /// Watches a span for faults of some mode.
    pub(super) fn new(span: Span, mode: u64) -> io::Result<Self> {
        Self::with(0, span, mode)
    }

    /// Watches a span for missing pages, to move pages there.
    pub(super) fn to_move(span: Span) -> io::Result<Self> {
        Self::with(FEATURE_MOVE, span, MISSING)
    }

    fn with(features: u64, span: Span, mode: u64) -> io::Result<Self> {
        let faults = Userfaultfd::open(features)?;
        faults.register(span, mode)?;
        Ok(Watched { faults })
    }

    /// Moves pages into the span, one by one; returns how many the kernel would not.
    pub(super) fn refused_moves(&self, from: Span, to: Span) -> u64 {
        let is_refused = |&page: &u64| {
            self.faults
                .move_page(from.page(page), to.page(page))
                .is_err()
        };
        (0..from.pages).filter(is_refused).count() as u64
    }
}
