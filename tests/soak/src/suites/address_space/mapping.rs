// SPDX-License-Identifier: GPL-2.0

//! Creation, removal, moves and changes of the size of mappings.

use std::io;
use std::os::fd::AsRawFd;

use guest::memory::file;
use guest::process::peer::spawn::check;
use guest::Context;
use guest::Result;
use guest::Span;

use super::fill_some;
use super::Space;
use super::NEW_PAGES;
use crate::region::Region;
use crate::shadow::Content;
use crate::worker::Worker;

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn pointer(addr: u64) -> *mut libc::c_void {
    addr as *mut libc::c_void
}

/// `mremap` of a region of this process to `pages`, with `flags` and the address hint `to`.
fn remap(span: Span, pages: u64, flags: i32, to: u64) -> io::Result<u64> {
    let (old, new) = (span.bytes() as usize, Span::new(0, pages).bytes() as usize);
    // SAFETY: The suite owns the region and anything that is mapped at `to`.
    let addr = unsafe { libc::mremap(pointer(span.addr), old, new, flags, pointer(to)) };
    check(addr as i64)
}

pub(super) fn map(space: &mut Space, worker: &mut Worker) -> Result {
    if !space.has_room() {
        return unmap(space, worker);
    }
    let pages = 1 + worker.rng.below(NEW_PAGES);
    let mut region = Region::map(pages).context(|| "mmap")?;
    fill_some(&mut region, worker, pages);
    space.put(region);
    Ok(())
}

/// Maps new memory in place of pages that may be merged.
pub(super) fn map_over(space: &mut Space, worker: &mut Worker) -> Result {
    let mut region = space.take(worker);
    let (first, count) = region.some(&mut worker.rng, 16);
    let rest = region.split_off(first + count);
    let span = region.split_off(first).span();
    // SAFETY: The suite owns this memory, and its shadow was just removed.
    let addr = unsafe {
        libc::mmap(
            pointer(span.addr),
            span.bytes() as usize,
            READ_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    check(addr as i64).context(|| "mmap, MAP_FIXED")?;
    for part in [region, Region::zeros(span), rest] {
        space.put(part);
    }
    trim(space, worker)
}

/// Maps a private file; the process has copies of the pages that it wrote to.
pub(super) fn map_file(space: &mut Space, worker: &mut Worker) -> Result {
    if !space.has_room() {
        return unmap(space, worker);
    }
    let content = Content::letter(&mut worker.rng);
    let span = map_new_file(NEW_PAGES / 2, content).context(|| "mapping a file")?;
    let mut region = Region::backed(span, content);
    fill_some(&mut region, worker, 16);
    space.put(region);
    Ok(())
}

fn map_new_file(pages: u64, content: Content) -> io::Result<Span> {
    let page = content.bytes();
    let file = file::unnamed("/dev/shm", (0..pages).map(|_| &page))?;
    // SAFETY: The kernel chooses a free address.
    let addr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            Span::new(0, pages).bytes() as usize,
            READ_WRITE,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    check(addr as i64).map(|addr| Span::new(addr, pages))
}

pub(super) fn unmap(space: &mut Space, worker: &mut Worker) -> Result {
    if space.regions.len() < 2 {
        return Ok(());
    }
    let region = space.take(worker);
    region.verify_all(&worker.tally)?;
    region.unmap().context(|| "munmap")
}

pub(super) fn unmap_middle(space: &mut Space, worker: &mut Worker) -> Result {
    if space.regions.len() < 2 {
        return Ok(());
    }
    let mut region = space.take(worker);
    let (first, count) = region.some(&mut worker.rng, 16);
    space.put(region.split_off(first + count));
    let middle = region.split_off(first);
    space.put(region);
    middle.unmap().context(|| "munmap")?;
    trim(space, worker)
}

/// Removes a region: splitting regions makes many.
fn trim(space: &mut Space, worker: &mut Worker) -> Result {
    while space.regions.len() > super::REGIONS {
        unmap(space, worker)?;
    }
    Ok(())
}

/// Moves a region page by page: protections and advice may have split it into many mappings.
fn move_to(region: Region, target: u64) -> Result<Region> {
    for index in 0..region.len() {
        let page = region.span().page(index);
        let to = Span::new(target, region.len()).page(index).addr;
        remap(page, 1, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to).context(|| "mremap")?;
    }
    Ok(region.moved_to(target))
}

pub(super) fn relocate(space: &mut Space, worker: &mut Worker) -> Result {
    let region = space.take(worker);
    let target = Region::map(region.len()).context(|| "mmap")?.span();
    space.put(move_to(region, target.addr)?);
    Ok(())
}

/// Moves a region over another one, whose contents are lost.
pub(super) fn relocate_over(space: &mut Space, worker: &mut Worker) -> Result {
    if space.regions.len() < 2 {
        return Ok(());
    }
    let region = space.take(worker);
    let mut target = space.take(worker);
    if region.len() > target.len() {
        space.put(target);
        space.put(region);
        return Ok(());
    }
    space.put(target.split_off(region.len()));
    let addr = target.span().addr;
    space.put(move_to(region, addr)?);
    Ok(())
}

pub(super) fn shrink(space: &mut Space, worker: &mut Worker) -> Result {
    let mut region = space.take(worker);
    let pages = 1 + worker.rng.below(region.len());
    let rest = region.split_off(pages);
    let last = Span::new(region.span().page(pages - 1).addr, 1 + rest.len());
    if !rest.is_empty() {
        // The kernel refuses to shrink across several mappings: then unmaps the tail.
        remap(last, 1, 0, 0)
            .map(drop)
            .or_else(|_| rest.unmap())
            .context(|| "mremap, shrinking")?;
    }
    space.put(region);
    Ok(())
}

/// Grows the last page, in place or by moving the whole region if there is no room.
pub(super) fn grow(space: &mut Space, worker: &mut Worker) -> Result {
    let region = space.take(worker);
    let (pages, more) = (region.len(), 1 + worker.rng.below(8));
    if region.backing() != Content::Zero || !space.has_room() {
        space.put(region);
        return Ok(());
    }
    let last = region.span().page(pages - 1);
    let grown = remap(last, 1 + more, 0, 0);
    if grown.is_ok() {
        space.put(region.resized(pages + more));
        return Ok(());
    }
    let target = Region::map(pages + more).context(|| "mmap")?.span();
    space.put(move_to(region, target.addr)?.resized(pages + more));
    Ok(())
}

/// Moves the contents; the mapping stays, and holds zeros or the file's contents.
pub(super) fn move_contents(space: &mut Space, worker: &mut Worker) -> Result {
    let mut region = space.take(worker);
    let (first, count) = region.some(&mut worker.rng, 16);
    space.put(region.split_off(first + count));
    let part = region.split_off(first);
    space.put(region);
    let (old, backing) = (part.span(), part.backing());
    let target = Region::map(count).context(|| "mmap")?.span();
    for index in 0..count {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let to = target.page(index).addr;
        remap(old.page(index), 1, flags, to).context(|| "mremap, MREMAP_DONTUNMAP")?;
    }
    space.put(part.moved_to(target.addr));
    space.put(Region::backed(old, backing));
    trim(space, worker)
}
