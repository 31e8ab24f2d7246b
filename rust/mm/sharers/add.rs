// SPDX-License-Identifier: GPL-2.0

//! Records a new sharer of a merged page, before the page is mapped.

use crate::mm::anon_vmas;
use crate::mm::anon_vmas::Number;
use crate::mm::redirect::is_redirected;
use crate::mm::sharers::record::forget;
use crate::mm::sharers::record::Record;
use crate::mm::sharers::record::INDEX_BITS;
use crate::mm::sharers::set::Set;
use crate::mm::vma::StableVma;
use crate::shim;
use core::cell::Cell;
use kernel::prelude::*;

/// The anon_vma of a VMA, reserved for some new sharers.
pub(in crate::mm) struct Base<'a> {
    vma: &'a StableVma<'a>,
    number: Number,
    /// The number of sharers that are still reserved.
    left: Cell<u32>,
}

impl<'a> Base<'a> {
    /// Reserves the anon_vma of `vma` for at most `sharers` new sharers.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENOSPC`: too many anon_vmas are known.
    pub(in crate::mm) fn new(vma: &'a StableVma<'a>, sharers: u32) -> Result<Self> {
        let is_recorded = is_redirected() && sharers > 0;
        Ok(Base {
            vma,
            number: if is_recorded {
                anon_vmas::get(vma, sharers)?
            } else {
                Number::NONE
            },
            left: Cell::new(if is_recorded { sharers } else { 0 }),
        })
    }

    /// The record of the sharer at `addr`.
    fn record(&self, addr: usize) -> Result<Record> {
        // SAFETY: By the invariant of `StableVma` the VMA is not freed.
        let index = unsafe { shim::ksm_v_anon_index(self.vma.as_ptr(), addr) } as u64;
        if index >> INDEX_BITS != 0 {
            return Err(ERANGE);
        }
        Ok(Record::new(self.number, index))
    }
}

impl Drop for Base<'_> {
    fn drop(&mut self) {
        if self.left.get() > 0 {
            anon_vmas::put(self.number, self.left.get());
        }
    }
}

/// Records a sharer of a locked page whose set is `set`. Returns `None` if it is recorded already.
///
/// # Errors
///
/// `ENOMEM`, `ENOSPC`; `ERANGE`: the index is too large.
///
/// # Safety
///
/// `set` must be the set of a page whose folio lock the caller holds, and no record of it may be borrowed.
pub(in crate::mm) unsafe fn add(set: &Set, base: &Base<'_>, addr: usize) -> Result<Option<Record>> {
    if !is_redirected() {
        if set.len() > 0 {
            return Ok(None);
        }
        // A single record says that the page has been mapped.
        // SAFETY: The caller holds the folio lock and borrows no record.
        return unsafe { set.push(Record::NONE) }.map(|()| Some(Record::NONE));
    }
    let record = base.record(addr)?;
    let left = base.left.get().checked_sub(1).ok_or(ENOSPC)?;
    // SAFETY: The caller holds the folio lock and borrows no record. The borrow in the condition ends
    // before the push.
    unsafe {
        if is_recent(set.records(), record) {
            return Ok(None);
        }
        set.push(record)?;
    }
    base.left.set(left);
    Ok(Some(record))
}

/// Whether `record` is among the last few, as when a page was written to and merged again.
fn is_recent(records: &[Record], record: Record) -> bool {
    const RECENT: usize = 8;
    records
        .iter()
        .rev()
        .take(RECENT)
        .any(|&other| other == record)
}

/// Removes a record that [`add`] has just added.
///
/// # Safety
///
/// As for [`add`].
pub(in crate::mm) unsafe fn take_back(set: &Set, record: Record) {
    // SAFETY: The caller holds the folio lock and borrows no record. The borrow of `set.records()` ends
    // before `remove` is called.
    unsafe {
        let position = set.records().iter().rposition(|&other| other == record);
        if let Some(record) = position.and_then(|position| set.remove(position)) {
            forget(record);
        }
    }
}
