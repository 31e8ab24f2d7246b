// SPDX-License-Identifier: GPL-2.0

//! Page faults that user space resolves.
//!
//! Reference: Documentation/admin-guide/mm/userfaultfd.rst, include/uapi/linux/userfaultfd.h.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::time::Duration;

use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;

use crate::memory::content::PAGE_SIZE;
use crate::process::peer::spawn::check;
use crate::Span;

/// Watch missing pages (`UFFDIO_REGISTER_MODE_MISSING`).
pub const MISSING: u64 = 1 << 0;
/// Watch write-protected pages (`UFFDIO_REGISTER_MODE_WP`).
pub const WRITE_PROTECT: u64 = 1 << 1;
/// Pages can be moved into the watched range (`UFFD_FEATURE_MOVE`).
pub const FEATURE_MOVE: u64 = 1 << 16;

const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFD_API: u64 = 0xaa;
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
const UFFD_PAGEFAULT_FLAG_WP: u64 = 1 << 1;

/// A request number and the length of its argument, the kernel's structure as an array of numbers.
macro_rules! request {
    ($name:ident, $number:expr, $words:expr) => {
        /// `_IOWR(0xAA, number, structure)`
        const $name: (libc::c_ulong, usize) = (
            0xc000_aa00 | ($number as libc::c_ulong) | (($words * 8) as libc::c_ulong) << 16,
            $words,
        );
    };
}

request!(UFFDIO_API, 0x3f, 3);
request!(UFFDIO_REGISTER, 0x00, 4);
request!(UFFDIO_COPY, 0x03, 5);
request!(UFFDIO_ZEROPAGE, 0x04, 4);
request!(UFFDIO_MOVE, 0x05, 5);
request!(UFFDIO_WRITEPROTECT, 0x06, 3);
/// `_IOR(0xAA, 0x01, struct uffdio_range)`
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;

/// A userfaultfd.
pub struct Userfaultfd(File);

/// A fault that waits for its resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Address of the page.
    pub page: u64,
    /// Whether the fault is a write to a write-protected page.
    pub write_protect: bool,
}

impl Userfaultfd {
    /// Opens a userfaultfd with these features, for faults in user mode.
    pub fn open(features: u64) -> io::Result<Self> {
        // A blocking userfaultfd can't be polled: poll(2) returns at once, with an error.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: The call takes flags only.
        let fd = check(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })? as i32;
        // SAFETY: The call just created the descriptor, which has no other owner.
        let faults = Userfaultfd(unsafe { File::from_raw_fd(fd) });
        faults.request(UFFDIO_API, [UFFD_API, features, 0])?;
        Ok(faults)
    }

    /// Watches a span for faults of this mode.
    pub fn register(&self, span: Span, mode: u64) -> io::Result<()> {
        self.request(UFFDIO_REGISTER, [span.addr, span.bytes(), mode, 0])
    }

    /// Stops watching a span. Blocked tasks retry their access.
    pub fn unregister(&self, span: Span) -> io::Result<()> {
        let range = [span.addr, span.bytes()];
        // SAFETY: The request reads a `struct uffdio_range`, which `range` matches.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_UNREGISTER, &range) }.into())
            .map(drop)
    }

    /// Fills a missing page with one page of bytes.
    pub fn copy(&self, page: Span, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(bytes.len() as u64, page.bytes());
        let source = bytes.as_ptr() as u64;
        self.request(UFFDIO_COPY, [page.addr, source, page.bytes(), 0, 0])
    }

    /// Maps the shared zero page in place of a missing page.
    pub fn zero(&self, page: Span) -> io::Result<()> {
        self.request(UFFDIO_ZEROPAGE, [page.addr, page.bytes(), 0, 0])
    }

    /// Moves a page to the place of a missing one.
    pub fn move_page(&self, from: Span, to: Span) -> io::Result<()> {
        self.request(UFFDIO_MOVE, [to.addr, from.addr, to.bytes(), 0, 0])
    }

    /// Write-protects pages, or removes the protection.
    pub fn write_protect(&self, span: Span, wanted: bool) -> io::Result<()> {
        self.request(
            UFFDIO_WRITEPROTECT,
            [span.addr, span.bytes(), u64::from(wanted)],
        )
    }

    /// Waits for the next fault; returns `None` after `timeout`, or if the fault is resolved already.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Option<Fault>> {
        let mut waiting = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        if poll(&mut waiting, timeout)? == 0 {
            return Ok(None);
        }
        // struct uffd_msg: the event is in the first byte, flags and address follow after 8 bytes.
        let mut message = [0; 32];
        match self.0.read_exact(&mut message) {
            // The task that waited was resumed meanwhile.
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            read => read?,
        }
        if message[0] != UFFD_EVENT_PAGEFAULT {
            return Err(io::Error::other(format!("not a fault: {message:?}")));
        }
        let word = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().expect("8 bytes"));
        Ok(Some(Fault {
            page: word(16) & !(PAGE_SIZE - 1),
            write_protect: word(8) & UFFD_PAGEFAULT_FLAG_WP != 0,
        }))
    }

    fn request<const WORDS: usize>(
        &self,
        (number, words): (libc::c_ulong, usize),
        mut argument: [u64; WORDS],
    ) -> io::Result<()> {
        assert_eq!(words, WORDS);
        // SAFETY: The argument is as long as the request number says.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), number, argument.as_mut_ptr()) }.into())
            .map(drop)
    }
}
