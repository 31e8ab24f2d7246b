// SPDX-License-Identifier: GPL-2.0

//! The `anon_vma`s of the sharers of merged pages, by number.
//!
//! Each is referenced once, however many sharers name it, so that its number leads to it without a lock.
//! A lookup by address, which merging needs, takes a mutex under which nothing is reclaimed: whoever
//! merges may hold the lock of an anon_vma.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

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
const MOST: u32 = (1 << NUMBER_BITS) - 1;

/// Anon_vmas that are given up under the mutex at a time.
const BATCH: usize = 64;

/// The number of an anon_vma: never 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(pub(super) u32);

impl Number {
    /// No anon_vma's.
    pub(super) const NONE: Number = Number(0);
}

/// An anon_vma that is referenced.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    /// [`tag`] of its address; 0 for a vacant slot.
    tag: u64,
    number: u32,
    /// How many sharers name it. Where none does, [`sweep`] gives it up.
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

kernel::sync::global_lock! {
    // SAFETY: `init` initialises it, before which the module asks for nothing.
    unsafe(uninit) static KNOWN: Mutex<Table<Known, KernelStorage<false>>> = Table::new();
}

/// Makes the module's anon_vmas ready.
///
/// # Safety
///
/// To be called once, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: Promised by the caller.
    unsafe { KNOWN.init() };
}

/// The address, spread over all bits: no other address has the same.
fn tag(anon_vma: NonNull<bindings::anon_vma>) -> u64 {
    mix(anon_vma.as_ptr() as u64)
}

/// Memory of what is known of them, in bytes.
pub(super) fn bytes() -> usize {
    // That of an entry of an xarray, which has 64 of them in 576 bytes.
    let entry = 9usize;
    let known = KNOWN.lock();
    known
        .bytes()
        .saturating_add(known.len().saturating_mul(entry))
}

/// The number of the anon_vma of `vma`, for so many more sharers, until [`put`].
///
/// # Errors
///
/// `ENOMEM`; `ENOSPC`: there are too many; `ENOENT`: the area has none.
pub(super) fn get(vma: &StableVma<'_>, sharers: u32) -> Result<Number> {
    // SAFETY: The area is in place.
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
    // SAFETY: The area is in place, and keeps its anon_vma.
    unsafe { shim::ksm_v_get_anon_vma(anon_vma.as_ptr()) };
    Ok(Number(number))
}

/// Takes note that so many sharers fewer name `number`.
pub(super) fn put(number: Number, sharers: u32) {
    let Some(anon_vma) = at(number) else {
        return;
    };
    if let Some(known) = KNOWN.lock().get_mut(!tag(anon_vma)) {
        known.sharers = known.sharers.saturating_sub(sharers);
    }
}

/// The anon_vma of this number: it stays as long as a sharer names it.
pub(super) fn at(number: Number) -> Option<NonNull<bindings::anon_vma>> {
    // SAFETY: The array is initialised, and has pointers to anon_vmas only.
    let anon_vma = unsafe { bindings::xa_load(shim::ksm_v_xa_anon_vmas(), number.0 as usize) };
    NonNull::new(anon_vma.cast())
}

/// Gives up anon_vmas that no sharer names. May sleep.
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
        // Without the mutex: this waits for others who hold the lock of an anon_vma, and who may wait
        // for the mutex.
        for anon_vma in unused.iter_mut().filter_map(Option::take) {
            // SAFETY: The reference is the one that `get` took.
            unsafe { shim::ksm_v_put_anon_vma(anon_vma.as_ptr()) };
        }
        if !is_full {
            break;
        }
    }
    KNOWN.lock().shrink(&KernelStorage);
}

/// Frees all memory, at the end: a static is not dropped when the module is unloaded. No sharer may be left.
pub(super) fn end() {
    sweep();
    KNOWN.lock().clear();
    // SAFETY: The array is initialised, and nobody uses it any more.
    unsafe { bindings::xa_destroy(shim::ksm_v_xa_anon_vmas()) };
}

fn allocate(anon_vma: NonNull<bindings::anon_vma>) -> Result<u32> {
    let mut number = 0;
    // SAFETY: The array is initialised.
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

fn release(number: u32) {
    // SAFETY: The array is initialised.
    unsafe { bindings::xa_erase(shim::ksm_v_xa_anon_vmas(), number as usize) };
}
