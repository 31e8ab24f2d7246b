// SPDX-License-Identifier: GPL-2.0

//! The table of `anon_vma`s that the sharers of merged pages use, by number.
//!
//! The table holds one reference to each anon_vma, however many sharers name it, so that its number leads
//! to it without a lock. Merging looks an anon_vma up by address, under a mutex. Nothing is reclaimed under
//! that mutex, because a merging thread may hold the lock of an anon_vma, which reclaim takes, too.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::mm::storage::Element;
use crate::mm::storage::KernelStorage;
use crate::mm::vma::StableVma;
use crate::shim;
use core::ptr::NonNull;
use engine::hash::mix;
use engine::table::Entry;
use engine::table::Table;
use kernel::bindings;
use kernel::prelude::*;

/// Bits of a number.
pub(super) const NUMBER_BITS: u32 = 24;
/// The largest number.
const MOST: u32 = (1 << NUMBER_BITS) - 1;

/// Most anon_vmas that are removed in one hold of the mutex.
const BATCH: usize = 64;

/// The number of an anon_vma: 0 only if there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(pub(super) u32);

impl Number {
    /// The number that no anon_vma has.
    pub(super) const NONE: Number = Number(0);
}

/// An anon_vma in the table, with a reference.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The [`tag`] of its address; 0 for a vacant slot.
    tag: u64,
    number: u32,
    /// The number of sharers that name it. If it is 0, [`sweep`] removes the anon_vma.
    sharers: u32,
}

impl Entry for Known {
    fn is_vacant(&self) -> bool {
        self.tag == 0
    }

    fn hash(&self) -> u64 {
        !self.tag
    }
}

// SAFETY: The type consists of integers, and its default is derived, so the default is all zeroes.
unsafe impl Element for Known {
    const IS_ZERO: bool = true;
}

kernel::sync::global_lock! {
    // SAFETY: `init` initialises it, and runs before anything else in the module uses the table.
    unsafe(uninit) static KNOWN: Mutex<Table<Known, KernelStorage<false>>> = Table::new();
}

/// Initialises the table of anon_vmas.
///
/// # Safety
///
/// Must be called once, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: The caller promises that this is the first and only call, so that nothing uses the lock yet.
    unsafe { KNOWN.init() };
}

/// The address, spread over all bits. Different addresses have different tags.
fn tag(anon_vma: NonNull<bindings::anon_vma>) -> u64 {
    mix(anon_vma.as_ptr() as u64)
}

/// Memory of the table, in bytes.
pub(super) fn bytes() -> usize {
    // The share of an entry in an xarray node, which has 64 slots in 576 bytes.
    let entry = 9usize;
    let known = KNOWN.lock();
    known
        .bytes()
        .saturating_add(known.len().saturating_mul(entry))
}

/// Returns the number of the anon_vma of `vma`, and counts `sharers` more sharers until [`put`].
///
/// # Errors
///
/// `ENOMEM`; `ENOSPC`: there are too many anon_vmas or sharers; `ENOENT`: the VMA has no anon_vma.
pub(super) fn get(vma: &StableVma<'_>, sharers: u32) -> Result<Number> {
    // SAFETY: By the invariant of `StableVma` the VMA is in place.
    let anon_vma = unsafe { shim::ksm_v_vma_anon_vma(vma.as_ptr()) };
    let anon_vma = NonNull::new(anon_vma).ok_or(ENOENT)?;
    let mut known = KNOWN.lock();
    if let Some(known) = known.get_mut(!tag(anon_vma)) {
        known.sharers = known.sharers.checked_add(sharers).ok_or(ENOSPC)?;
        return Ok(Number(known.number));
    }
    let number = allocate(anon_vma)?;
    let entry = Known {
        tag: tag(anon_vma),
        number,
        sharers,
    };
    if known.insert(&KernelStorage, entry).is_err() {
        release(number);
        return Err(ENOMEM);
    }
    // SAFETY: By the invariant of `StableVma` a lock is held that blocks `unlink_anon_vmas()`, so the VMA
    // keeps its anon_vma, and the anon_vma still has a reference.
    unsafe { shim::ksm_v_get_anon_vma(anon_vma.as_ptr()) };
    Ok(Number(number))
}

/// Counts `sharers` fewer sharers for `number`.
pub(super) fn put(number: Number, sharers: u32) {
    let Some(anon_vma) = at(number) else {
        return;
    };
    if let Some(known) = KNOWN.lock().get_mut(!tag(anon_vma)) {
        known.sharers = known.sharers.saturating_sub(sharers);
    }
}

/// The anon_vma with this number. It stays as long as a sharer names it.
pub(super) fn at(number: Number) -> Option<NonNull<bindings::anon_vma>> {
    // SAFETY: The xarray is a static that is initialised at compile time, and holds only pointers to
    // anon_vmas.
    let anon_vma = unsafe { bindings::xa_load(shim::ksm_v_xa_anon_vmas(), number.0 as usize) };
    NonNull::new(anon_vma.cast())
}

/// Removes anon_vmas that no sharer names. May sleep.
pub(super) fn sweep() {
    let mut unused = [None; BATCH];
    loop {
        let mut room = unused.iter_mut();
        KNOWN.lock().retain(|known| {
            if known.sharers > 0 {
                return true;
            }
            let Some(place) = room.next() else {
                return true;
            };
            *place = at(Number(known.number));
            release(known.number);
            false
        });
        let is_full = room.next().is_none();
        // Not under the mutex: this may wait for a thread that holds the lock of an anon_vma and waits for
        // the mutex.
        for anon_vma in unused.iter_mut().filter_map(Option::take) {
            // SAFETY: The anon_vma was removed from the table, so this is the reference that `get` took,
            // given up once.
            unsafe { shim::ksm_v_put_anon_vma(anon_vma.as_ptr()) };
        }
        if !is_full {
            break;
        }
    }
    KNOWN.lock().shrink(&KernelStorage);
}

/// Frees all memory, because a static is not dropped when the module is unloaded. No sharer may be left.
pub(super) fn end() {
    sweep();
    KNOWN.lock().clear();
    // SAFETY: The xarray is a static that is initialised at compile time, and nobody uses it any more.
    unsafe { bindings::xa_destroy(shim::ksm_v_xa_anon_vmas()) };
}

/// Gives `anon_vma` a number, and enters it in the xarray.
fn allocate(anon_vma: NonNull<bindings::anon_vma>) -> Result<u32> {
    let mut number = 0;
    // SAFETY: The xarray is a static that is initialised at compile time, and `number` lives until the call
    // returns.
    let error = unsafe {
        shim::ksm_v_xa_alloc(
            shim::ksm_v_xa_anon_vmas(),
            &mut number,
            anon_vma.as_ptr().cast(),
            MOST,
            shim::KSM_V_GFP_NOWAIT_TABLE,
        )
    };
    kernel::error::to_result(error)?;
    Ok(number)
}

/// Removes a number from the xarray, and frees it.
fn release(number: u32) {
    // SAFETY: The xarray is a static that is initialised at compile time.
    unsafe { bindings::xa_erase(shim::ksm_v_xa_anon_vmas(), number as usize) };
}
