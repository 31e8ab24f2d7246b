// SPDX-License-Identifier: GPL-2.0

//! A set: the frame of one merged page, and the records of its sharers.

use crate::mm::sharers::record::Record;
use crate::mm::sharers::token::SetId;
use crate::mm::sharers::token::Token;
use crate::shim;
use core::cell::UnsafeCell;
use engine::Frame;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;

/// Number of records that are stored in the set itself, without an allocation.
const FEW: usize = 2;

/// The frame of a set that was given up.
pub(super) const GONE: u64 = u64::MAX;

/// Bytes of records that are in allocations.
static BYTES: Atomic<usize> = Atomic::new(0);

/// The records themselves if they are few, or a pointer to them.
#[derive(Clone, Copy)]
union Records {
    few: [Record; FEW],
    many: *mut Record,
}

/// The sharers of one page, and the page's frame.
///
/// # Invariants
///
/// `records` holds `len` initialised records: in `few` if there are at most [`FEW`], else in an allocation
/// with room for at least the next power of two. Only the holder of the lock of the folio on `frame`
/// changes them.
pub(in crate::mm) struct Set {
    /// 0 if the set is not in use.
    generation: Atomic<u32>,
    /// 0 until the page is mapped for the first time.
    len: Atomic<u32>,
    /// The frame number; [`GONE`] if the set was given up. In a set that is not in use: see [`Set::link`].
    pub(super) frame: Atomic<u64>,
    records: UnsafeCell<Records>,
}

impl Set {
    /// Begins the use of the set, without records, for the page on `frame`. Nobody else may use the set before.
    pub(super) fn begin(&self, frame: Frame, generation: u32) {
        // INVARIANT: There are no records yet.
        self.len.store(0, Relaxed);
        self.frame.store(frame.0, Relaxed);
        self.generation.store(generation, Release);
    }

    /// Ends the use of the set. Its records must still be removed.
    pub(super) fn end(&self) {
        self.generation.store(0, Release);
    }

    /// The token of the set, which has the number `id`.
    pub(super) fn token(&self, id: SetId) -> Token {
        Token::new(id, self.generation.load(Acquire))
    }

    /// Whether the set is in use.
    pub(super) fn is_used(&self) -> bool {
        self.generation.load(Acquire) != 0
    }

    /// The link of a set that is not in use: the number of the next such set in the free list.
    pub(in crate::mm) fn link(&self) -> u32 {
        self.frame.load(Relaxed) as u32
    }

    /// Sets the link of a set that is not in use.
    pub(in crate::mm) fn set_link(&self, number: u32) {
        self.frame.store(number.into(), Relaxed);
    }

    /// The number of records.
    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }

    /// The records.
    ///
    /// # Safety
    ///
    /// The folio lock must be held while the records are borrowed, and no record may be changed in that
    /// time.
    pub(in crate::mm) unsafe fn records(&self) -> &[Record] {
        let len = self.len();
        // SAFETY: By the type invariant there are `len` initialised records, in place or in an allocation.
        // The caller holds the folio lock and changes none while they are borrowed; nobody else may change
        // them.
        unsafe {
            let records = self.records.get();
            let first = if len <= FEW {
                (&raw const (*records).few).cast::<Record>()
            } else {
                (*records).many
            };
            core::slice::from_raw_parts(first, len)
        }
    }

    /// Adds a record.
    ///
    /// # Safety
    ///
    /// The folio lock must be held, and no records may be borrowed.
    pub(super) unsafe fn push(&self, record: Record) -> Result {
        let len = self.len();
        // SAFETY: The caller holds the folio lock and no borrow, so nobody else uses the records. By the
        // type invariant an allocation has room for the next power of two; `grow` makes more room when
        // `len` is one.
        unsafe {
            let records = self.records.get();
            if len < FEW {
                (&raw mut (*records).few)
                    .cast::<Record>()
                    .add(len)
                    .write(record);
            } else {
                if len.is_power_of_two() {
                    let many = grow(&*records, len)?;
                    (*records).many = many;
                }
                (*records).many.add(len).write(record);
            }
        }
        // INVARIANT: The record at the old `len` was just written, and there is room for it as the type
        // says.
        self.len.store(len as u32 + 1, Relaxed);
        Ok(())
    }

    /// Removes the record at `index` and returns it. The last record takes its place.
    ///
    /// # Safety
    ///
    /// The folio lock must be held, and no records may be borrowed.
    pub(super) unsafe fn remove(&self, index: usize) -> Option<Record> {
        // SAFETY: The caller holds the folio lock; nothing changes records before this borrow ends.
        let records = unsafe { self.records() };
        let (&gone, &last) = (records.get(index)?, records.last()?);
        let left = records.len() - 1;
        // SAFETY: The caller holds the folio lock, and the borrow above has ended. `index` is less than the
        // number of records. If exactly `FEW` are left, they are moved from the allocation into the set,
        // and the allocation is freed, which nothing uses any more.
        unsafe {
            let records = self.records.get();
            if left > FEW {
                (*records).many.add(index).write(last);
                BYTES.fetch_sub(room(left + 1) - room(left), Relaxed);
            }
            if left == FEW {
                let many = (*records).many;
                many.add(index).write(last);
                let few = [many.read(), many.add(1).read()];
                (*records).few = few;
                bindings::kfree(many.cast());
                BYTES.fetch_sub(room(FEW + 1), Relaxed);
            }
            if left < FEW {
                (&raw mut (*records).few)
                    .cast::<Record>()
                    .add(index)
                    .write(last);
            }
        }
        // INVARIANT: `left` records remain: in place up to `FEW`, else in the allocation.
        self.len.store(left as u32, Relaxed);
        Some(gone)
    }
}

/// Bytes of the allocation for `len` records, if these are more than [`FEW`].
fn room(len: usize) -> usize {
    len.next_power_of_two() * size_of::<Record>()
}

/// Returns an allocation with room for more than `len` records. `len` is a power of two that was reached.
///
/// # Safety
///
/// `records` must hold `len` records, as the invariant of [`Set`] says.
unsafe fn grow(records: &Records, len: usize) -> Result<*mut Record> {
    let size = room(len + 1);
    // SAFETY: The caller promises `len` records: in `few` if `len` is `FEW`, else in the allocation `many`,
    // which came from `krealloc()`. The new allocation has room for `FEW` records, which are copied out of
    // `few`.
    unsafe {
        let old = if len == FEW {
            core::ptr::null_mut()
        } else {
            records.many
        };
        let many: *mut Record =
            shim::ksm_v_krealloc(old.cast(), size, shim::KSM_V_GFP_NOWAIT_TABLE).cast();
        if many.is_null() {
            return Err(ENOMEM);
        }
        let before = if len == FEW { 0 } else { room(len) };
        BYTES.fetch_add(size - before, Relaxed);
        if len == FEW {
            many.cast::<[Record; FEW]>().write(records.few);
        }
        Ok(many)
    }
}

/// Bytes of records that are in allocations.
pub(super) fn record_bytes() -> usize {
    BYTES.load(Relaxed)
}
