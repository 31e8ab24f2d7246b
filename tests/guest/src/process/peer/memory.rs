// SPDX-License-Identifier: GPL-2.0

//! Memory operations of a peer, by address.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::time::Instant;

use super::spawn::check;
use crate::memory::content;
use crate::memory::content::Ids;
use crate::memory::content::WORDS;
use crate::memory::file;
use crate::Span;

/// `MAP_DROPPABLE` of include/uapi/linux/mman.h.
const MAP_DROPPABLE: i32 = 0x08;
/// `MPOL_MF_MOVE` of include/uapi/linux/mempolicy.h.
const MPOL_MF_MOVE: u32 = 1 << 1;
/// `MPOL_MF_STRICT` and `MPOL_MF_MOVE_ALL`: also move pages shared with others.
const MPOL_MF_ALL: u32 = 0b101;
/// The address of the BIOS in the first MiB: memory that is not RAM and can be mapped through /dev/mem.
const BIOS: i64 = 0xf_0000;

/// A kind of memory. The socket protocol uses the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// Private anonymous memory.
    Anon,
    /// Shared anonymous memory.
    SharedAnon,
    /// A shared mapping of a file.
    SharedFile,
    /// A private mapping of a file.
    PrivateFile,
    /// Memory that the kernel may drop.
    Droppable,
    /// Private memory of hugetlbfs.
    Huge,
    /// A private mapping of the BIOS, which has page frame numbers but no struct pages (`VM_PFNMAP`).
    Special,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::Anon,
        Kind::SharedAnon,
        Kind::SharedFile,
        Kind::PrivateFile,
        Kind::Droppable,
        Kind::Huge,
        Kind::Special,
    ];

    /// The kind with this number.
    pub fn from_number(number: u64) -> io::Result<Kind> {
        let kind = Kind::ALL.into_iter().find(|&kind| kind as u64 == number);
        kind.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn flags(self) -> i32 {
        use libc::MAP_ANONYMOUS;
        use libc::MAP_PRIVATE;
        use libc::MAP_SHARED;
        match self {
            Kind::Anon => MAP_PRIVATE | MAP_ANONYMOUS,
            Kind::SharedAnon => MAP_SHARED | MAP_ANONYMOUS,
            Kind::SharedFile => MAP_SHARED,
            Kind::PrivateFile | Kind::Special => MAP_PRIVATE,
            Kind::Droppable => MAP_DROPPABLE | MAP_ANONYMOUS,
            Kind::Huge => MAP_PRIVATE | MAP_ANONYMOUS | libc::MAP_HUGETLB,
        }
    }
}

/// Maps private anonymous memory at an address that the kernel chooses.
pub fn map_anywhere(pages: u64) -> io::Result<Span> {
    // SAFETY: The kernel chooses an unused address range.
    let addr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            Span::new(0, pages).bytes() as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            Kind::Anon.flags(),
            -1,
            0,
        )
    };
    check(addr as i64).map(|addr| Span::new(addr, pages))
}

/// Maps a span at exactly its address.
pub fn map(span: Span, kind: Kind) -> io::Result<()> {
    let (file, offset) = match kind {
        Kind::SharedFile | Kind::PrivateFile => (Some(file_for(span)?), 0),
        Kind::Special => (Some(OpenOptions::new().read(true).open("/dev/mem")?), BIOS),
        _ => (None, 0),
    };
    map_file(span, kind.flags(), file.as_ref(), offset)
}

fn map_file(span: Span, flags: i32, file: Option<&File>, offset: i64) -> io::Result<()> {
    // SAFETY: MAP_FIXED_NOREPLACE never replaces an existing mapping.
    let addr = unsafe {
        libc::mmap(
            span.addr as *mut libc::c_void,
            span.bytes() as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | libc::MAP_FIXED_NOREPLACE,
            file.map_or(-1, AsRawFd::as_raw_fd),
            offset,
        )
    };
    check(addr as i64).map(drop)
}

/// An unnamed file as long as the span, filled with pages that differ.
fn file_for(span: Span) -> io::Result<File> {
    let page = |index| content::bytes(|word| content::word(u64::MAX - index, word));
    file::unnamed("/tmp", (0..span.pages).map(page))
}

/// Extends the heap by `pages` whole pages and returns the address of the first.
pub fn heap(pages: u64) -> io::Result<u64> {
    // SAFETY: Reading the end of the heap changes nothing.
    let end = unsafe { libc::sbrk(0) } as u64;
    let gap = end.next_multiple_of(content::PAGE_SIZE) - end;
    let bytes = gap + Span::new(0, pages).bytes();
    // SAFETY: The C library's allocator tolerates a heap that somebody else extends.
    let start = unsafe { libc::sbrk(bytes as libc::intptr_t) };
    check(start as i64).map(|addr| addr + gap)
}

/// The words of page `index` of a span.
fn words(span: Span, index: u64) -> impl Iterator<Item = (usize, *mut u64)> {
    let first = span.page(index).addr as *mut u64;
    (0..WORDS).map(move |word| (word, first.wrapping_add(word)))
}

/// Writes contents.
pub fn fill(span: Span, ids: Ids) {
    for index in 0..span.pages {
        for (word, place) in words(span, index) {
            // SAFETY: The test passes only spans that it created. A wrong span causes a fault, which
            // ends this process and fails the test.
            unsafe { place.write_volatile(content::word(ids.of(index), word)) };
        }
    }
}

/// Compares contents; an error describes the difference.
pub fn check_contents(span: Span, ids: Ids) -> Result<(), String> {
    for index in 0..span.pages {
        for (word, place) in words(span, index) {
            // SAFETY: As in `fill`.
            let found = unsafe { place.read_volatile() };
            let expected = content::word(ids.of(index), word);
            if found != expected {
                return Err(format!(
                    "page {index} of {span:?}, word {word}: \
                     expected {expected:#x} of content {}, found {found:#x}",
                    ids.of(index)
                ));
            }
        }
    }
    Ok(())
}

/// Writes a word.
pub fn poke(addr: u64, value: u64) {
    // SAFETY: As in `fill`.
    unsafe { (addr as *mut u64).write_volatile(value) }
}

/// Reads a word.
pub fn peek(addr: u64) -> u64 {
    // SAFETY: As in `fill`.
    unsafe { (addr as *const u64).read_volatile() }
}

/// `madvise`.
pub fn advise(span: Span, advice: u64) -> io::Result<()> {
    // SAFETY: The memory is the test's own, which expects the change to its contents.
    check(unsafe { libc::madvise(pointer(span), length(span), advice as i32) }.into()).map(drop)
}

/// Binds a span to a NUMA node, moving only pages that no other process maps.
pub fn bind(span: Span, node: u64) -> io::Result<()> {
    bind_with(span, node, MPOL_MF_MOVE)
}

/// Binds a span to a NUMA node, moving shared pages, too.
pub fn bind_all(span: Span, node: u64) -> io::Result<()> {
    bind_with(span, node, MPOL_MF_ALL)
}

fn bind_with(span: Span, node: u64, flags: u32) -> io::Result<()> {
    let mask = 1u64 << node;
    // SAFETY: The kernel moves pages that this process has mapped and only reads the mask.
    check(unsafe {
        libc::syscall(
            libc::SYS_mbind,
            span.addr,
            span.bytes(),
            libc::MPOL_BIND,
            &mask,
            u64::from(u64::BITS),
            flags,
        )
    })
    .map(drop)
}

/// Discards every other page.
pub fn perforate(span: Span) -> io::Result<()> {
    let mut pages = (0..span.pages).step_by(2);
    pages.try_for_each(|index| advise(span.page(index), libc::MADV_DONTNEED as u64))
}

/// `mprotect`.
pub fn protect(span: Span, protection: u64) -> io::Result<()> {
    // SAFETY: A forbidden access to the span only ends this process.
    let result = unsafe { libc::mprotect(pointer(span), length(span), protection as i32) };
    check(result.into()).map(drop)
}

/// `mlock`.
pub fn lock(span: Span) -> io::Result<()> {
    // SAFETY: Locking does not change contents.
    check(unsafe { libc::mlock(pointer(span), length(span)) }.into()).map(drop)
}

/// `mlock2` for pages that are faulted in later.
pub fn lock_on_fault(span: Span) -> io::Result<()> {
    // SAFETY: Locking does not change contents.
    let result = unsafe { libc::mlock2(pointer(span), length(span), libc::MLOCK_ONFAULT) };
    check(result.into()).map(drop)
}

/// `mlockall` for current and future mappings.
pub fn lock_all() -> io::Result<()> {
    // SAFETY: The call takes flags only.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) }.into()).map(drop)
}

/// `map_shadow_stack` with a restore token at the end.
pub fn map_shadow_stack(span: Span) -> io::Result<()> {
    const SYS_MAP_SHADOW_STACK: libc::c_long = 453;
    const SHADOW_STACK_SET_TOKEN: u64 = 1;
    // SAFETY: The kernel maps new memory at an unused address.
    let addr = unsafe {
        libc::syscall(
            SYS_MAP_SHADOW_STACK,
            span.addr,
            span.bytes(),
            SHADOW_STACK_SET_TOKEN,
        )
    };
    check(addr).map(drop)
}

/// Changes and restores the first word of each page for the given time. Each written word must still
/// be there one round later, before the next write.
pub fn flip(span: Span, time: Duration) -> Result<(), String> {
    let start = Instant::now();
    let place = |index: u64| span.page(index).addr;
    let original: Vec<u64> = (0..span.pages).map(|index| peek(place(index))).collect();
    let mut written = original.clone();
    let mut rounds = 0;
    while start.elapsed() < time || rounds % 2 == 1 {
        for (index, word) in written.iter_mut().enumerate() {
            let found = peek(place(index as u64));
            if found != *word {
                return Err(format!(
                    "page {index}, round {rounds}: expected {word:#x} as written, found {found:#x}"
                ));
            }
            *word = if rounds % 2 == 0 {
                !original[index]
            } else {
                original[index]
            };
            poke(place(index as u64), *word);
        }
        rounds += 1;
    }
    Ok(())
}

/// Writes a word to each page.
pub fn touch(span: Span) {
    for index in 0..span.pages {
        poke(span.page(index).addr, index);
    }
}

/// Reads one word of each page; in anonymous memory this maps the shared zero page.
pub fn read(span: Span) {
    for index in 0..span.pages {
        peek(span.page(index).addr);
    }
}

/// `munlock`.
pub fn unlock(span: Span) -> io::Result<()> {
    // SAFETY: Unlocking does not change contents.
    check(unsafe { libc::munlock(pointer(span), length(span)) }.into()).map(drop)
}

/// `munmap`.
pub fn unmap(span: Span) -> io::Result<()> {
    // SAFETY: The test created the span; nothing else is mapped there.
    check(unsafe { libc::munmap(pointer(span), length(span)) }.into()).map(drop)
}

/// `mremap` to `addr`, where nothing useful may be mapped.
pub fn remap(span: Span, addr: u64) -> io::Result<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let target = addr as *mut libc::c_void;
    // SAFETY: The test chose both ranges; nothing else is mapped there.
    let found = unsafe { libc::mremap(pointer(span), length(span), length(span), flags, target) };
    check(found as i64).map(drop)
}

fn pointer(span: Span) -> *mut libc::c_void {
    span.addr as *mut libc::c_void
}

fn length(span: Span) -> usize {
    span.bytes() as usize
}
