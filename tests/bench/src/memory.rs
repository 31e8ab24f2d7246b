// SPDX-License-Identifier: GPL-2.0

//! Processes with memory of known contents, registered for merging.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::slice::from_raw_parts_mut;

const PAGE_SIZE: usize = 4096;
/// Words at the end of a page in which those differ that are alike: 100 bytes, rounded down.
const LAST_WORDS: usize = 100 / 8;

/// What the pages hold.
#[derive(Clone, Copy)]
pub enum Content {
    /// All differ, from their first word on.
    Unique,
    /// All differ, in their last words only.
    Alike,
    /// Every content is there so many times, spread over the processes.
    Copies(usize),
    /// Zeroes.
    Zero,
}

/// Processes that hold memory until this is dropped.
pub struct Workers {
    children: Vec<(libc::pid_t, UnixStream)>,
}

impl Workers {
    /// Starts `processes` processes that share out `pages` pages; returns when all are filled.
    pub fn spawn(processes: usize, pages: usize, content: Content) -> Self {
        allow_files(2 * processes as u64 + 100);
        let children = (0..processes)
            .map(|index| {
                spawn_one(
                    index * pages / processes..(index + 1) * pages / processes,
                    pages,
                    content,
                )
            })
            .collect();
        Workers { children }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (pid, pipe) in self.children.drain(..) {
            // Later children have inherited this end, so that closing it would not be enough.
            let _ = pipe.shutdown(Shutdown::Both);
            // SAFETY: A child of this process, waited for once; no status is wanted.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        }
    }
}

/// Allows this process so many open files.
fn allow_files(count: u64) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: Only reads `limit`.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(result, 0, "setrlimit: {}", std::io::Error::last_os_error());
}

fn spawn_one(
    pages: std::ops::Range<usize>,
    of: usize,
    content: Content,
) -> (libc::pid_t, UnixStream) {
    let (mut ours, mut theirs) = UnixStream::pair().expect("socketpair");
    // SAFETY: This process has one thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        drop(ours);
        fill(pages, of, content);
        theirs.write_all(b"!").expect("tell the parent");
        let _ = theirs.read(&mut [0]); // until the parent shuts it down
                                       // SAFETY: Ends the child without running the parent's destructors.
        unsafe { libc::_exit(0) };
    }
    drop(theirs);
    ours.read_exact(&mut [0]).expect("a worker died");
    (pid, ours)
}

fn fill(pages: std::ops::Range<usize>, of: usize, content: Content) {
    let memory = map(pages.len());
    for (page, index) in memory.chunks_exact_mut(PAGE_SIZE / 8).zip(pages) {
        match content {
            Content::Unique => scribble(page, index),
            Content::Copies(copies) => scribble(page, index % (of / copies)),
            Content::Alike => {
                let (alike, last) = page.split_at_mut(page.len() - LAST_WORDS);
                scribble(alike, 0);
                scribble(last, index);
            }
            Content::Zero => page.fill(0),
        }
    }
}

/// Writes random words, different for each `seed`.
fn scribble(words: &mut [u64], seed: usize) {
    let mut state = seed as u64 + 1;
    words.fill_with(|| next_random(&mut state));
}

/// Maps memory without huge pages, so that both scanners meet the same pages, and registers it.
fn map(pages: usize) -> &'static mut [u64] {
    let bytes = pages * PAGE_SIZE;
    // SAFETY: A new private mapping, which is never unmapped.
    unsafe {
        let memory = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(
            memory,
            libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        assert_eq!(libc::madvise(memory, bytes, libc::MADV_NOHUGEPAGE), 0);
        assert_eq!(libc::madvise(memory, bytes, libc::MADV_MERGEABLE), 0);
        from_raw_parts_mut(memory.cast(), bytes / 8)
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
