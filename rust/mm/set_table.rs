// SPDX-License-Identifier: GPL-2.0

//! The table of the [sets](crate::mm::sharers) of sharers, by number. Sets do not move, and are found by
//! three loads, without a lock.
//!
//! A chunk is a page of sets; a directory is a page of pointers to chunks. Free sets are linked by their
//! numbers. Chunks are kept until there is no set at all. Lookups hold an RCU read lock, or know that a set
//! is in use.

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

/// Number of sets in a chunk.
const CHUNK: usize = PAGE_SIZE / size_of::<Set>();
const _: () = assert!(size_of::<Set>() == 32);
/// Number of pointers in a directory.
const DIRECTORY: usize = PAGE_SIZE / size_of::<usize>();
/// Number of directories: enough for 1 TiB of shared pages that all differ.
const DIRECTORIES: usize = 4096;
/// The number of sets for which the table has room.
const MOST: usize = CHUNK * DIRECTORY * DIRECTORIES;

/// A pointer to a directory or to a chunk; 0 if there is none.
type Pointer = Atomic<usize>;

/// The pointers to the directories.
static ROOT: [Pointer; DIRECTORIES] = [const { Atomic::new(0) }; DIRECTORIES];

/// The numbers that are free.
pub(super) struct Free {
    /// The number that was freed last, or 0. Each free set links to the one that was freed before.
    last: u32,
    /// The first number that was never used. All larger numbers were never used, either.
    fresh: u32,
}

kernel::sync::global_lock! {
    // SAFETY: `init` initialises it, and runs before anything else in the module uses the table.
    unsafe(uninit) static FREE: Mutex<Free> = Free { last: 0, fresh: 1 };
}

/// Initialises the table.
///
/// # Safety
///
/// Must be called once, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: The caller promises that this is the first and only call, so that nothing uses the lock yet.
    unsafe { FREE.init() };
}

/// The place of the set with this number. The number may be free; `None` if its chunk was never allocated.
/// The place stays while an RCU read lock is held, or while some set is in use.
#[inline]
pub(super) fn at(number: u32) -> Option<NonNull<Set>> {
    let number = number as usize;
    let directory = ROOT.get(number / CHUNK / DIRECTORY)?.load(Acquire) as *const Pointer;
    if directory.is_null() {
        return None;
    }
    // SAFETY: A directory has `DIRECTORY` pointers. The callers hold the RCU read lock, or know of a set
    // that is in use; either keeps the directory.
    let chunk = unsafe { &*directory.add(number / CHUNK % DIRECTORY) }.load(Acquire) as *mut Set;
    // SAFETY: A chunk has `CHUNK` sets, so the result lies within it.
    NonNull::new(chunk).map(|chunk| unsafe { chunk.add(number % CHUNK) })
}

/// Takes a free number. A set must be counted already, so that the table stays. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn take() -> Result<u32> {
    let mut free = FREE.lock();
    let number = free.last;
    if let Some(set) = at(number).filter(|_| number != 0) {
        // SAFETY: The chunk stays, because a set is counted already. The set is free, so its link belongs
        // to this list.
        free.last = unsafe { set.as_ref() }.link();
        return Ok(number);
    }
    if free.fresh as usize >= MOST {
        return Err(ENOMEM);
    }
    let number = free.fresh as usize;
    let directory = ROOT.get(number / CHUNK / DIRECTORY).ok_or(ENOMEM)?;
    let directory = page_at(directory)? as *const Pointer;
    // SAFETY: A directory has `DIRECTORY` pointers, and stays, because a set is counted already.
    page_at(unsafe { &*directory.add(number / CHUNK % DIRECTORY) })?;
    free.fresh += 1;
    Ok(number as u32)
}

/// Returns a number to the table.
pub(super) fn give_back(number: u32) {
    let mut free = FREE.lock();
    if let Some(set) = at(number) {
        // SAFETY: The number was in use until now, and its set is still counted, so the chunk stays.
        unsafe { set.as_ref() }.set_link(free.last);
        free.last = number;
    }
}

/// The largest number that was ever used.
pub(super) fn last() -> u32 {
    FREE.lock().fresh - 1
}

/// Memory of the table, in bytes.
pub(super) fn bytes() -> usize {
    let chunks = (FREE.lock().fresh as usize - 1).div_ceil(CHUNK);
    (chunks + chunks.div_ceil(DIRECTORY)) * PAGE_SIZE
}

/// Frees all memory. No number may be in use, and none may be taken at the same time. May sleep.
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
    // SAFETY: This thread may sleep. The pointers were cleared, so a lookup that begins now does not find
    // the directories.
    unsafe { bindings::synchronize_rcu() };
    for directory in directories {
        let pointers = directory as *const Pointer;
        for index in 0..DIRECTORY {
            // SAFETY: A directory has `DIRECTORY` pointers, and is not freed yet.
            let chunk = unsafe { &*pointers.add(index) }.load(Acquire);
            // SAFETY: The chunk was allocated by `page_at`, or is null. No lookup uses it after
            // `synchronize_rcu()`.
            unsafe { bindings::kvfree(chunk as *const c_void) };
        }
        // SAFETY: The directory was allocated by `page_at`. No lookup uses it after `synchronize_rcu()`.
        unsafe { bindings::kvfree(directory as *const c_void) };
    }
}

/// The page that a pointer leads to. Allocates a page of zeroes if there is none.
fn page_at(pointer: &Pointer) -> Result<usize> {
    let page = pointer.load(Acquire);
    if page != 0 {
        return Ok(page);
    }
    // SAFETY: The callers may sleep, and hold no lock that reclaim takes, too.
    let page = unsafe { shim::ksm_v_kvmalloc(PAGE_SIZE, shim::KSM_V_GFP_TABLE) };
    if page.is_null() {
        return Err(ENOMEM);
    }
    pointer.store(page as usize, Release);
    Ok(page as usize)
}
