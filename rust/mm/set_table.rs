// SPDX-License-Identifier: GPL-2.0

//! The [sets](crate::mm::sharers) of sharers, by number: at addresses that stay, found by three loads and
//! without a lock.
//!
//! A chunk is a page of sets, a directory a page of pointers to chunks. Sets that are free are linked by number.
//! Chunks are kept until there is no set at all: whoever looks one up holds an RCU read lock.

use crate::mm::sharers::Set;
use crate::shim;
use core::ptr::NonNull;
use engine::PAGE_SIZE;
use kernel::bindings;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Release;

/// Sets in a chunk.
const CHUNK: usize = PAGE_SIZE / size_of::<Set>();
const _: () = assert!(size_of::<Set>() == 32);
/// Pointers in a directory.
const DIRECTORY: usize = PAGE_SIZE / size_of::<usize>();
/// Directories: for the sets of 1 TiB of memory that is all shared and all different.
const DIRECTORIES: usize = 4096;
const MOST: usize = CHUNK * DIRECTORY * DIRECTORIES;

/// A pointer to a page of pointers, or to a chunk; 0 where there is none.
type Pointer = Atomic<usize>;

static ROOT: [Pointer; DIRECTORIES] = [const { Atomic::new(0) }; DIRECTORIES];

/// Which numbers are free.
pub(super) struct Free {
    /// The last one that was freed; 0: none. Each leads to the one before.
    last: u32,
    /// Those from this one on were never in use.
    fresh: u32,
}

kernel::sync::global_lock! {
    // SAFETY: `init` initialises it, before which the module asks for nothing.
    unsafe(uninit) static FREE: Mutex<Free> = Free { last: 0, fresh: 1 };
}

/// # Safety
///
/// To be called once, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: Promised by the caller.
    unsafe { FREE.init() };
}

/// The place of a number: which may be free, but has been in use. It stays for as long as an RCU read lock
/// is held, or some set is in use.
#[inline]
pub(super) fn at(number: u32) -> Option<NonNull<Set>> {
    let number = number as usize;
    let directory = ROOT.get(number / CHUNK / DIRECTORY)?.load(Acquire) as *const Pointer;
    if directory.is_null() {
        return None;
    }
    // SAFETY: A directory has so many pointers.
    let chunk = unsafe { &*directory.add(number / CHUNK % DIRECTORY) }.load(Acquire) as *mut Set;
    // SAFETY: A chunk has so many sets.
    NonNull::new(chunk).map(|chunk| unsafe { chunk.add(number % CHUNK) })
}

/// Takes a number that is free. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn take() -> Result<u32> {
    let mut free = FREE.lock();
    let number = free.last;
    if let Some(set) = at(number).filter(|_| number != 0) {
        // SAFETY: The place is free, so that its link is that of this list.
        free.last = unsafe { set.as_ref() }.link();
        return Ok(number);
    }
    if free.fresh as usize >= MOST {
        return Err(ENOMEM);
    }
    let number = free.fresh as usize;
    let directory = ROOT.get(number / CHUNK / DIRECTORY).ok_or(ENOMEM)?;
    let directory = page_at(directory)? as *const Pointer;
    // SAFETY: A directory has so many pointers, and stays: numbers are in use, or about to be.
    page_at(unsafe { &*directory.add(number / CHUNK % DIRECTORY) })?;
    free.fresh += 1;
    Ok(number as u32)
}

/// Gives a number back.
pub(super) fn give_back(number: u32) {
    let mut free = FREE.lock();
    if let Some(set) = at(number) {
        // SAFETY: In place, as the number was in use.
        unsafe { set.as_ref() }.set_link(free.last);
        free.last = number;
    }
}

/// The number behind which none was ever in use.
pub(super) fn last() -> u32 {
    FREE.lock().fresh - 1
}

/// Bytes of the table.
pub(super) fn bytes() -> usize {
    let chunks = (FREE.lock().fresh as usize - 1).div_ceil(CHUNK);
    (chunks + chunks.div_ceil(DIRECTORY)) * PAGE_SIZE
}

/// Frees all memory. No number may be in use, and none be taken meanwhile. May sleep.
pub(super) fn clear() {
    let mut free = FREE.lock();
    if free.fresh == 1 {
        return;
    }
    *free = Free { last: 0, fresh: 1 };
    let mut directories = KVVec::new();
    for pointer in &ROOT {
        let directory = pointer.load(Acquire);
        if directory != 0 && directories.push(directory, GFP_KERNEL).is_ok() {
            pointer.store(0, Release);
        }
    }
    // SAFETY: This thread may sleep. Nobody finds them any more who begins to look now.
    unsafe { bindings::synchronize_rcu() };
    for directory in directories {
        let pointers = directory as *const Pointer;
        for index in 0..DIRECTORY {
            // SAFETY: A directory has so many pointers.
            let chunk = unsafe { &*pointers.add(index) }.load(Acquire);
            // SAFETY: As allocated by `page_at`, or NULL.
            unsafe { bindings::kvfree(chunk as *const c_void) };
        }
        // SAFETY: As above.
        unsafe { bindings::kvfree(directory as *const c_void) };
    }
}

/// The page that a pointer leads to, which is allocated if there is none: zeroes.
fn page_at(pointer: &Pointer) -> Result<usize> {
    let page = pointer.load(Acquire);
    if page != 0 {
        return Ok(page);
    }
    // SAFETY: No lock is held under which this must not reclaim.
    let page = unsafe { shim::ksm_v_kvmalloc(PAGE_SIZE, shim::KSM_V_GFP_TABLE) };
    if page.is_null() {
        return Err(ENOMEM);
    }
    pointer.store(page as usize, Release);
    Ok(page as usize)
}
