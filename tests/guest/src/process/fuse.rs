// SPDX-License-Identifier: GPL-2.0

//! A FUSE file system whose daemon stops answering; a process that waits for the daemon while it
//! holds its mmap lock for writing; and a process that makes others wait for the daemon.
//!
//! Protocol: include/uapi/linux/fuse.h. The root of the file system is its only file.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use nix::sys::prctl;
use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::fork;
use nix::unistd::ForkResult;
use nix::unistd::Pid;

use crate::expect;
use crate::kernel::procfs;
use crate::process::task;
use crate::Context;
use crate::Result;

const PAGE: usize = 4096;
const MOUNT_POINT: &str = "/tmp/silent";
/// Size of the file in pages.
const FILE_PAGES: usize = 4096;

/// `enum fuse_opcode`.
mod opcode {
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
}

/// A word in memory that the processes of this file share.
type Word = &'static AtomicU32;

/// The daemon. Dropping it ends it; everything that waits for it then fails.
struct Daemon {
    pid: Pid,
    /// Nonzero: the daemon does not answer reads, either.
    is_silent: Word,
}

impl Daemon {
    /// Starts the daemon and waits until it has mounted its file.
    fn start() -> Result<Self> {
        fs::write(MOUNT_POINT, "").context(|| "making a mount point")?;
        let is_silent = word().context(|| "sharing a word")?;
        let pid = child(|| serve(is_silent)).context(|| "starting a daemon")?;
        let size = (FILE_PAGES * PAGE) as u64;
        let is_mounted = || fs::metadata(MOUNT_POINT).is_ok_and(|file| file.len() == size);
        let mounted = task::wait_until(task::PATIENCE, is_mounted);
        expect::that(mounted, || "FUSE: expected the daemon to mount its file")?;
        Ok(Daemon { pid, is_silent })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(self.pid);
        let path = CString::new(MOUNT_POINT).unwrap_or_default();
        // SAFETY: The path is a NUL-terminated string that outlives the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Forks a child process that runs `work`.
fn child(work: impl FnOnce() -> io::Result<()>) -> nix::Result<Pid> {
    // SAFETY: The test process has a single thread, so its child may run any code.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let _ = work();
            // SAFETY: Only ends the child.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => Ok(child),
    }
}

/// Kills a child and waits for its end.
fn end(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
}

/// A word shared with child processes, initially 0.
fn word() -> io::Result<Word> {
    let page = map(ptr::null_mut(), 1, libc::MAP_SHARED, None)?;
    // SAFETY: The page was just mapped, is zeroed, and is never unmapped.
    Ok(unsafe { &*page.cast::<AtomicU32>() })
}

/// A process blocked in `mmap(MAP_FIXED)`: the daemon has to write back the page of the file that was
/// mapped there before. The process holds its mmap lock for writing, and a detached VMA is still in
/// the VMA tree. It also maps `PAIRS` pairs of equal pages, directly before the file. Dropping this
/// ends both the process and the daemon.
pub struct Stuck {
    // Must end first: the blocked process cannot end before.
    daemon: Option<Daemon>,
    process: Pid,
}

impl Stuck {
    /// The number of pairs of equal pages in the process.
    pub const PAIRS: usize = 16;

    /// Starts the daemon and the process, and waits until the process is blocked.
    pub fn start() -> Result<Self> {
        Self::start_with(0)
    }

    /// Like [`Self::start`], but the VMA of the pairs is write-locked, too.
    pub fn start_with_locked_pairs() -> Result<Self> {
        Self::start_with(1)
    }

    /// Like [`Self::start`], but `mmap` also replaces `pages_before` pages before the file.
    fn start_with(pages_before: usize) -> Result<Self> {
        let daemon = Some(Daemon::start()?);
        let wait = || {
            let _ = wait_for_daemon(pages_before);
            loop {
                nix::unistd::pause();
            }
        };
        let process = child(wait).context(|| "starting a process")?;
        let stuck = Stuck { daemon, process };
        let waits = || task::stat(stuck.pid(), 3).is_ok_and(|state| state == "D");
        let waiting = task::wait_until(task::PATIENCE, || {
            waits() && {
                // Check again after a while: the process may have been in this state for a moment only.
                std::thread::sleep(std::time::Duration::from_millis(300));
                waits()
            }
        });
        expect::that(waiting, || {
            "expected the process to be blocked on its daemon"
        })?;
        Ok(stuck)
    }

    /// Ends the daemon, which unblocks the process. The process keeps its pages.
    pub fn release(&mut self) {
        self.daemon = None;
    }

    /// The ID of the blocked process.
    pub fn pid(&self) -> i32 {
        self.process.as_raw()
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.daemon = None;
        end(self.process);
    }
}

/// A process with pairs of equal pages in a private mapping of the file. It discards some pages at
/// the moment when they are unmerged: the fault that the unmerge triggers then waits for the daemon.
pub struct Discarder {
    daemon: Option<Daemon>,
    process: Pid,
    /// 1: the process has its pages. 2: it waits until its pages are unmerged.
    is_ready: Word,
}

impl Discarder {
    /// The number of pairs of equal pages in the process.
    pub const PAIRS: usize = FILE_PAGES / 2;

    /// Starts the daemon and the process, and waits until the process has its pages.
    pub fn start() -> Result<Self> {
        let daemon = Daemon::start()?;
        let is_ready = word().context(|| "sharing a word")?;
        let is_silent = daemon.is_silent;
        let process = child(|| discard(is_ready, is_silent)).context(|| "starting a process")?;
        let discarder = Discarder {
            daemon: Some(daemon),
            process,
            is_ready,
        };
        discarder.wait(1)?;
        Ok(discarder)
    }

    /// Makes the daemon stop answering, and the process wait until its pages are unmerged.
    pub fn lie_in_wait(&self) -> Result {
        procfs::write("/proc/sys/vm/drop_caches", "1")?;
        if let Some(daemon) = &self.daemon {
            daemon.is_silent.store(1, Ordering::Release);
        }
        self.wait(2)
    }

    fn wait(&self, state: u32) -> Result {
        let is_ready = || self.is_ready.load(Ordering::Acquire) == state;
        let ready = task::wait_until(task::PATIENCE, is_ready);
        expect::that(ready, || "expected the process with the pages to go on")
    }
}

impl Drop for Discarder {
    fn drop(&mut self) {
        self.daemon = None;
        end(self.process);
    }
}

/// Converts the result of a system call: a negative value means that `errno` holds the error.
fn check(result: i64) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Maps pairs of equal pages, one more page, and the file directly behind them. Writes to the file,
/// then maps new memory over the file and the `pages_before` pages before it.
fn wait_for_daemon(pages_before: usize) -> io::Result<()> {
    // This process was forked from the test process, which is not dumpable, so the module would skip
    // it.
    prctl::set_dumpable(true)?;
    let file = File::options().read(true).write(true).open(MOUNT_POINT)?;
    let pages = 2 * Stuck::PAIRS + 1;
    let anon = map(ptr::null_mut(), pages + 1, libc::MAP_PRIVATE, None)?;
    // SAFETY: At least this many pages were just mapped.
    let (behind, first) = unsafe {
        fill_pairs(anon, Stuck::PAIRS);
        (
            anon.add(pages * PAGE),
            anon.add((pages - pages_before) * PAGE),
        )
    };
    map(behind, 1, libc::MAP_SHARED | libc::MAP_FIXED, Some(&file))?;
    // SAFETY: The page was just mapped, writable.
    unsafe { behind.write_volatile(1) };
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
    map(first, 1 + pages_before, flags, None)?;
    Ok(())
}

/// # Safety
///
/// The caller must own `2 * pairs` writable pages at `pages`.
unsafe fn fill_pairs(pages: *mut u8, pairs: usize) {
    for page in 0..2 * pairs {
        // The text repeats, so any sample of a few words tells the pages apart.
        let text = format!("silent {:>9}", page % pairs).repeat(PAGE / 16);
        // SAFETY: The caller guarantees that the page is writable; the text is one page long.
        unsafe {
            pages
                .add(page * PAGE)
                .copy_from_nonoverlapping(text.as_ptr(), text.len());
        }
    }
}

/// Maps pairs of equal pages. Then repeatedly waits until the page table entry of one page changes,
/// and discards the next page.
fn discard(is_ready: Word, is_silent: Word) -> io::Result<()> {
    /// The distance in pages between two pages that it waits for.
    const DISTANCE: usize = 4;
    /// The number of different delays before a page is discarded.
    const DELAYS: usize = 64;
    prctl::set_dumpable(true)?;
    let file = File::options().read(true).write(true).open(MOUNT_POINT)?;
    let pages = map(ptr::null_mut(), FILE_PAGES, libc::MAP_PRIVATE, Some(&file))?;
    let advise = |first: usize, count: usize, advice| {
        // SAFETY: The range is part of the new mapping, which nobody else uses.
        check(unsafe { libc::madvise(pages.add(first * PAGE).cast(), count * PAGE, advice) }.into())
    };
    // Disable readahead, which would put the file's pages into the page cache.
    advise(0, FILE_PAGES, libc::MADV_RANDOM)?;
    // SAFETY: The pages were just mapped, writable.
    unsafe { fill_pairs(pages, Discarder::PAIRS) };
    is_ready.store(1, Ordering::Release);
    while is_silent.load(Ordering::Acquire) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let pagemap = File::open("/proc/self/pagemap")?;
    let entry = |page: usize| {
        let mut entry = [0; 8];
        let at = (pages as usize / PAGE + page) * entry.len();
        pagemap.read_exact_at(&mut entry, at as u64)?;
        io::Result::Ok(u64::from_ne_bytes(entry))
    };
    let before: Vec<u64> = (0..FILE_PAGES).map(entry).collect::<io::Result<_>>()?;
    is_ready.store(2, Ordering::Release);
    for (page, &before) in before.iter().enumerate().step_by(DISTANCE) {
        while entry(page)? == before {}
        // The next page is being unmerged now, or in a moment.
        for _ in 0..page / DISTANCE % DELAYS {
            std::hint::spin_loop();
        }
        advise(page + 1, 1, libc::MADV_DONTNEED)?;
    }
    Ok(())
}

fn map(at: *mut u8, pages: usize, flags: i32, file: Option<&File>) -> io::Result<*mut u8> {
    let (fd, anonymous) = file.map_or((-1, libc::MAP_ANONYMOUS), |file| (file.as_raw_fd(), 0));
    // SAFETY: MAP_FIXED replaces only memory that this process mapped for this purpose.
    let mapped = unsafe {
        libc::mmap(
            at.cast(),
            pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | anonymous,
            fd,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(mapped.cast())
}

/// Mounts the file and answers requests. It never answers the requests that follow from a write to
/// the file, and no reads once `is_silent` is set.
fn serve(is_silent: Word) -> io::Result<()> {
    let path = c"/dev/fuse".as_ptr();
    // SAFETY: The path is a NUL-terminated string.
    let fd = check(unsafe { libc::open(path, libc::O_RDWR) }.into())?;
    // SAFETY: The descriptor was just opened and has no other owner.
    let mut device = unsafe { File::from_raw_fd(fd as i32) };
    let options = format!("fd={fd},rootmode=100666,user_id=0,group_id=0,allow_other");
    let (target, options) = (CString::new(MOUNT_POINT)?, CString::new(options)?);
    // SAFETY: All pointers are NUL-terminated strings that outlive the call.
    let mounted = unsafe {
        libc::mount(
            c"silent".as_ptr(),
            target.as_ptr(),
            c"fuse".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    check(mounted.into())?;
    let mut request = vec![0u8; 1 << 18];
    loop {
        let len = device.read(&mut request)?;
        let Some(request) = request.get(..len) else {
            continue;
        };
        let word = |at: usize| {
            request.get(at..at + 4).map_or(0, |bytes| {
                bytes
                    .iter()
                    .rev()
                    .fold(0u32, |word, &byte| (word << 8) | u32::from(byte))
            })
        };
        let unique = u64::from(word(8)) | (u64::from(word(12)) << 32);
        let (error, body) = match word(4) {
            opcode::INIT => (0, init(word(48))),
            opcode::GETATTR => (0, attributes()),
            opcode::OPEN => (0, vec![0; 16]),
            opcode::READ if is_silent.load(Ordering::Acquire) != 0 => continue,
            opcode::READ => (0, vec![0; word(56) as usize]),
            opcode::WRITE | opcode::SETATTR | opcode::FSYNC | opcode::FLUSH => continue,
            _ => (-libc::ENOSYS, Vec::new()),
        };
        let mut reply = Vec::new();
        reply.extend((16 + body.len() as u32).to_le_bytes());
        reply.extend(error.to_le_bytes());
        reply.extend(unique.to_le_bytes());
        reply.extend(body);
        // Some requests expect no answer, so an error is ignored.
        let _ = device.write(&reply);
    }
}

/// `struct fuse_init_out` of version 7.31.
fn init(max_readahead: u32) -> Vec<u8> {
    let mut words = vec![7u32, 31, max_readahead, 0, 0, 1 << 17, 1];
    words.resize(16, 0);
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// `struct fuse_attr_out` of the file. The attributes are valid for an hour.
fn attributes() -> Vec<u8> {
    let mut words = vec![3600u32, 0, 0, 0];
    // ino, size, blocks, three times; their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
    words.extend([1, 0, (FILE_PAGES * PAGE) as u32, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    words.extend([0, 0, 0, 0o100_666, 1, 0, 0, 0, PAGE as u32, 0]);
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}
