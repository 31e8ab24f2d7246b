// SPDX-License-Identifier: GPL-2.0

//! The heap and stacks, which grow on access or through other calls than `mmap`.

use guest::memory::content::PAGE_SIZE;
use guest::memory::content::WORDS;
use guest::process::peer::memory;
use guest::process::peer::spawn::check;
use guest::Context;
use guest::Result;
use guest::Span;

use super::Space;
use crate::region::Region;
use crate::shadow::Content;
use crate::tally;
use crate::worker::Worker;

/// Most pages by which a mapping grows down.
const DOWN: u64 = 24;
/// The gap that the kernel keeps free below such a mapping, and a reserve.
const GAP_PAGES: u64 = 1024;

/// Grows the heap by some pages, works on them, and shrinks it again.
pub(super) fn heap(_: &mut Space, worker: &mut Worker) -> Result {
    let pages = 1 + worker.rng.below(16);
    let addr = memory::heap(pages).context(|| "brk")?;
    let mut region = Region::zeros(Span::new(addr, pages));
    visit(&mut region, worker)?;
    // SAFETY: Asking for the end of the heap changes nothing.
    let end = unsafe { libc::sbrk(0) } as u64;
    // If the allocator has extended the heap since, the pages stay: they are few.
    if end == region.span().range().end {
        // SAFETY: The end of the heap is the region's, and nothing uses the region any more.
        let result = unsafe { libc::sbrk(-(region.span().bytes() as libc::intptr_t)) };
        check(result as i64).context(|| "brk, shrinking")?;
    }
    Ok(())
}

/// Fills a region from its end to its start, and verifies it a moment later.
fn visit(region: &mut Region, worker: &mut Worker) -> Result {
    for index in (0..region.len()).rev() {
        region.fill(index, Content::any(&mut worker.rng));
    }
    std::thread::sleep(std::time::Duration::from_micros(worker.rng.below(4_000)));
    region.verify_all(&worker.tally)
}

/// Grows the process's own stack by calls, each with a page of its own.
pub(super) fn stack(_: &mut Space, worker: &mut Worker) -> Result {
    let depth = 1 + worker.rng.below(64);
    descend(depth, worker)
}

#[repr(align(4096))]
struct StackPage([u64; WORDS]);

#[inline(never)]
fn descend(depth: u64, worker: &mut Worker) -> Result {
    let mut page = StackPage([0; WORDS]);
    let content = Content::letter(&mut worker.rng);
    for (word, slot) in page.0.iter_mut().enumerate() {
        memory::poke(std::ptr::from_mut(slot) as u64, content.word(word));
    }
    if depth > 1 {
        descend(depth - 1, worker)?;
    } else {
        std::thread::sleep(std::time::Duration::from_micros(worker.rng.below(4_000)));
    }
    for (word, slot) in page.0.iter().enumerate() {
        let found = memory::peek(std::ptr::from_ref(slot) as u64);
        if found != content.word(word) {
            worker.tally.add(tally::MISMATCHES, 1);
            return Err(format!(
                "stack, {depth} from its end, word {word}: expected {:#x} of {content:?}, \
                 found {found:#x}",
                content.word(word)
            )
            .into());
        }
    }
    worker.tally.add(tally::BYTES_VERIFIED, PAGE_SIZE);
    Ok(())
}

/// Extends a mapping with `MAP_GROWSDOWN` by writes below it.
pub(super) fn down(_: &mut Space, worker: &mut Worker) -> Result {
    // There is room below it, which was mapped and unmapped.
    let room = memory::map_anywhere(GAP_PAGES + DOWN).context(|| "mmap")?;
    memory::unmap(room).context(|| "munmap")?;
    let last = room.page(room.pages - 1);
    // SAFETY: The range is free, or the call fails.
    let addr = unsafe {
        libc::mmap(
            last.addr as *mut libc::c_void,
            last.bytes() as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE
                | libc::MAP_ANONYMOUS
                | libc::MAP_GROWSDOWN
                | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    check(addr as i64).context(|| "mmap, MAP_GROWSDOWN")?;
    let pages = 1 + worker.rng.below(DOWN);
    let mut region = Region::zeros(room.part(room.pages - pages, pages));
    visit(&mut region, worker)?;
    region.unmap().context(|| "munmap")
}
