// SPDX-License-Identifier: GPL-2.0

//! Processes with memory of known contents, registered for merging.

use guest::kernel::feature::Feature;
use guest::kernel::procfs;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::slice::from_raw_parts_mut;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
/// Number of words at the end of a page that differ in `Alike` pages: 100 bytes, rounded down.
const LAST_WORDS: usize = 100 / 8;
/// Pages of a huge page.
pub const HUGE_PAGES: usize = 512;
/// Spreads equal pages over a huge page.
const SCATTER: usize = 203;
/// More pages than any work has.
const FAR: usize = 1 << 32;

/// The contents of the pages.
#[derive(Clone, Copy)]
pub enum Content {
    /// All differ, from the first word on.
    Unique,
    /// All differ, but only in the last words.
    Alike,
    /// Each content exists this many times, spread over the processes.
    Copies(usize),
    /// Zeroes.
    Zero,
    /// In huge pages: this many pages of each huge page equal the pages at the same place in the
    /// other processes, which have `each` pages. All other pages differ.
    Parts {
        /// Equal pages of a huge page.
        equal: usize,
        /// Pages of a process.
        each: usize,
    },
}

impl Content {
    /// The number of the random content of page `index` of `of` pages.
    fn id(self, index: usize, of: usize) -> usize {
        match self {
            Content::Copies(copies) => index % (of / copies),
            // Scattered over the huge page: `SCATTER` is odd.
            Content::Parts { equal, each } => {
                let is_equal = index * SCATTER % HUGE_PAGES < equal;
                let place = if is_equal { index % each } else { of + index };
                // Contents are different for each number of equal pages.
                place + equal * FAR
            }
            _ => index,
        }
    }
}

/// Processes that hold memory; dropping this ends them.
pub struct Workers {
    children: Vec<(libc::pid_t, UnixStream)>,
}

impl Workers {
    /// Starts `processes` processes that divide `pages` pages; returns when all pages are filled.
    pub fn spawn(processes: usize, pages: usize, content: Content) -> Self {
        Self::spawn_with(processes, pages, content, Worker::wait)
    }

    /// As [`Workers::spawn`], for processes with a duty.
    pub fn spawn_with(processes: usize, pages: usize, content: Content, duty: Duty) -> Self {
        allow_files(2 * processes as u64 + 100);
        let children = (0..processes)
            .map(|index| {
                let own = index * pages / processes..(index + 1) * pages / processes;
                spawn_one(own, pages, content, duty)
            })
            .collect();
        Workers { children }
    }

    /// Asks all processes to do their duty once; returns the answer of each when all have done
    /// it.
    pub fn ask<const N: usize>(&mut self) -> Vec<[u64; N]> {
        for (_, pipe) in &mut self.children {
            pipe.write_all(b"?").expect("ask a worker");
        }
        let pipes = self.children.iter_mut().map(|(_, pipe)| pipe);
        pipes
            .map(|pipe| [(); N].map(|()| read_number(pipe)))
            .collect()
    }

    /// Number of their pages that are merged, by their page tables.
    pub fn merged_pages(&self) -> u64 {
        self.pages("KSM")
    }

    /// Number of their pages that are parts of huge pages.
    pub fn huge_pages(&self) -> u64 {
        self.pages("AnonHugePages")
    }

    /// The sum of a field of `smaps_rollup`.
    fn pages(&self, field: &str) -> u64 {
        let of_one = |&(pid, _): &(libc::pid_t, UnixStream)| {
            let kb = procfs::rollup(pid, field).expect("a worker's pages");
            kb * 1024 / PAGE_SIZE as u64
        };
        self.children.iter().map(of_one).sum()
    }
}

fn read_number(pipe: &mut UnixStream) -> u64 {
    let mut bytes = [0; 8];
    pipe.read_exact(&mut bytes).expect("a worker died");
    u64::from_ne_bytes(bytes)
}

/// The work of a process after filling its memory; the process ends when this returns.
pub type Duty = fn(&mut Worker);

/// A process that holds memory, from its own side.
pub struct Worker {
    memory: &'static mut [u64],
    /// The range of its pages, and the number of all pages.
    pages: Range<usize>,
    of: usize,
    content: Content,
    pipe: UnixStream,
}

impl Worker {
    /// Waits until it is no longer needed.
    pub fn wait(&mut self) {
        while self.is_asked() {}
    }

    /// Waits for a request. Returns false if it is no longer needed.
    pub fn is_asked(&mut self) -> bool {
        self.pipe.read_exact(&mut [0]).is_ok()
    }

    /// Answers a request.
    pub fn answer(&mut self, numbers: &[u64]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        self.pipe.write_all(&bytes).expect("answer the parent");
    }

    /// Writes new content to every page with one of each `interval` contents: a content that no page
    /// has had, and equal where pages were equal. Each `round` has its own contents. Returns the
    /// number of these pages.
    pub fn rewrite(&mut self, interval: usize, round: usize) -> u64 {
        let mut rewritten = 0;
        for (page, index) in pages_of(self.memory).zip(self.pages.clone()) {
            let id = self.content.id(index, self.of);
            if id % interval == 0 {
                scribble(page, id + round * self.of);
                rewritten += 1;
            }
        }
        rewritten
    }

    fn fill(&mut self) {
        for (page, index) in pages_of(self.memory).zip(self.pages.clone()) {
            let id = self.content.id(index, self.of);
            match self.content {
                Content::Unique | Content::Copies(_) | Content::Parts { .. } => scribble(page, id),
                Content::Alike => {
                    let (alike, last) = page.split_at_mut(page.len() - LAST_WORDS);
                    scribble(alike, 0);
                    scribble(last, id);
                }
                Content::Zero => page.fill(0),
            }
        }
    }
}

fn pages_of(memory: &mut [u64]) -> std::slice::ChunksExactMut<'_, u64> {
    memory.chunks_exact_mut(PAGE_SIZE / 8)
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (pid, pipe) in self.children.drain(..) {
            // Later children have inherited this end, so closing it is not enough.
            let _ = pipe.shutdown(Shutdown::Both);
            // SAFETY: A child of this process, waited for once; its status is not needed.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        }
    }
}

/// Raises this process's limit of open files.
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
    pages: Range<usize>,
    of: usize,
    content: Content,
    duty: Duty,
) -> (libc::pid_t, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().expect("socketpair");
    // SAFETY: This process has one thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        drop(ours);
        let mut worker = Worker {
            memory: match content {
                Content::Parts { .. } => map_huge(pages.len()),
                _ => map(pages.len()),
            },
            pages,
            of,
            content,
            pipe: theirs,
        };
        worker.fill();
        worker.answer(&[0]);
        duty(&mut worker);
        // SAFETY: Ends the child without running the parent's destructors.
        unsafe { libc::_exit(0) };
    }
    drop(theirs);
    read_number(&mut ours);
    (pid, ours)
}

/// Writes random words, different for each `seed`.
fn scribble(words: &mut [u64], seed: usize) {
    let mut state = seed as u64 + 1;
    words.fill_with(|| next_random(&mut state));
}

/// Maps memory without huge pages, so that both scanners find the same pages, and registers it.
pub fn map(pages: usize) -> &'static mut [u64] {
    let memory = map_bytes(pages * PAGE_SIZE);
    if Feature::HugePages.missing().is_none() {
        advise(memory, libc::MADV_NOHUGEPAGE);
    }
    advise(memory, libc::MADV_MERGEABLE);
    memory
}

/// Maps memory that can be huge pages from its first page on, and registers it.
fn map_huge(pages: usize) -> &'static mut [u64] {
    let huge_page = HUGE_PAGES * PAGE_SIZE;
    let memory = map_bytes(pages * PAGE_SIZE + huge_page);
    let skipped = memory.as_ptr().align_offset(huge_page);
    let memory = &mut memory[skipped..][..pages * PAGE_SIZE / 8];
    advise(memory, libc::MADV_MERGEABLE);
    memory
}

fn map_bytes(bytes: usize) -> &'static mut [u64] {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: A new private mapping, which is never unmapped.
    unsafe {
        let memory = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0);
        let error = std::io::Error::last_os_error();
        assert_ne!(memory, libc::MAP_FAILED, "mmap: {error}");
        from_raw_parts_mut(memory.cast(), bytes / 8)
    }
}

fn advise(memory: &mut [u64], advice: libc::c_int) {
    let (addr, bytes) = (memory.as_mut_ptr().cast(), size_of_val(memory));
    // SAFETY: The advice changes no contents.
    let result = unsafe { libc::madvise(addr, bytes, advice) };
    assert_eq!(result, 0, "madvise: {}", std::io::Error::last_os_error());
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
