// SPDX-License-Identifier: GPL-2.0

//! Processes with memory of known contents, registered for merging.

use guest::kernel::feature::Feature;
use guest::kernel::procfs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
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
    /// A clone's part of an image: of ten successive pages it writes five.
    Clone {
        /// Pages of a clone.
        each: usize,
    },
}

/// Of ten pages of a clone, those that all clones fill equally, and those that each fills with its own content.
const EQUAL_OF_TEN: Range<usize> = 0..4;
const OWN_OF_TEN: Range<usize> = 4..5;

/// The number of pages that all clones of `each` pages fill equally.
pub fn equal_pages(each: usize) -> usize {
    (0..each)
        .filter(|place| EQUAL_OF_TEN.contains(&(place % 10)))
        .count()
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
            Content::Clone { each } if EQUAL_OF_TEN.contains(&(index % each % 10)) => index % each,
            Content::Clone { .. } => of + index,
            _ => index,
        }
    }

    /// Whether a process fills the page.
    fn fills(self, index: usize) -> bool {
        match self {
            Content::Clone { each } => index % each % 10 < OWN_OF_TEN.end,
            _ => true,
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
                let map = || match content {
                    Content::Parts { .. } => map_huge(own.len()),
                    _ => map(own.len()),
                };
                spawn_one(map, own.clone(), pages, content, duty)
            })
            .collect();
        Workers { children }
    }

    /// No process yet.
    pub fn none() -> Self {
        Workers {
            children: Vec::new(),
        }
    }

    /// Starts a clone of `image`, one of `clones`. Returns its process ID when it has filled its pages.
    pub fn add_clone(&mut self, image: &Image, clones: usize) -> libc::pid_t {
        let (each, number) = (image.words * 8 / PAGE_SIZE, self.children.len());
        let own = number * each..(number + 1) * each;
        let map = || image.inherited();
        let content = Content::Clone { each };
        let clone = spawn_one(map, own, clones * each, content, Worker::wait);
        let pid = clone.0;
        self.children.push(clone);
        pid
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
        let pages = pages_of(self.memory).zip(self.pages.clone());
        for (page, index) in pages.filter(|(_, index)| self.content.fills(*index)) {
            let id = self.content.id(index, self.of);
            match self.content {
                Content::Unique
                | Content::Copies(_)
                | Content::Parts { .. }
                | Content::Clone { .. } => scribble(page, id),
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
    map: impl FnOnce() -> &'static mut [u64],
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
            memory: map(),
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

/// Memory of this process that its children inherit.
pub struct Image {
    addr: *mut u64,
    words: usize,
}

impl Image {
    /// A private mapping of a file, of which no page is copied yet.
    pub fn of_file(pages: usize) -> Self {
        let bytes = pages * PAGE_SIZE;
        let file = tempfile(bytes);
        let memory = map_private(bytes, 0, file.as_raw_fd());
        advise(memory, libc::MADV_MERGEABLE);
        Self::new(memory)
    }

    /// Anonymous memory that this process has filled.
    pub fn of_parent(pages: usize) -> Self {
        let memory = map(pages);
        for (index, page) in pages_of(memory).enumerate() {
            scribble(page, 2 * FAR + index);
        }
        Self::new(memory)
    }

    fn new(memory: &'static mut [u64]) -> Self {
        Image {
            addr: memory.as_mut_ptr(),
            words: memory.len(),
        }
    }

    /// The memory as a child has it.
    fn inherited(&self) -> &'static mut [u64] {
        // SAFETY: A child has a copy of the mapping, which it never unmaps, and no other reference to it.
        unsafe { from_raw_parts_mut(self.addr, self.words) }
    }
}

/// Gives the memory back: it is registered, and the next work must not meet it.
impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: The mapping of `new()`, whose reference is not used any more.
        unsafe { libc::munmap(self.addr.cast(), self.words * 8) };
    }
}

/// A file in memory, without a name.
fn tempfile(bytes: usize) -> File {
    // SAFETY: The name is a string that ends with a zero.
    let file = unsafe { libc::memfd_create(c"image".as_ptr(), 0) };
    assert!(
        file >= 0,
        "memfd_create: {}",
        std::io::Error::last_os_error()
    );
    // SAFETY: A new file that nothing else closes.
    let file = unsafe { File::from_raw_fd(file) };
    file.set_len(bytes as u64).expect("the image has room");
    file
}

fn map_bytes(bytes: usize) -> &'static mut [u64] {
    map_private(bytes, libc::MAP_ANONYMOUS, -1)
}

fn map_private(bytes: usize, flags: libc::c_int, file: libc::c_int) -> &'static mut [u64] {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = flags | libc::MAP_PRIVATE;
    // SAFETY: A new private mapping. Only `Image` unmaps its own, when nothing refers to it any more.
    unsafe {
        let memory = libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0);
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
