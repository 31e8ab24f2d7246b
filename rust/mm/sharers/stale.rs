// SPDX-License-Identifier: GPL-2.0

//! Drops stale records: those of sharers that no longer map the page.

use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::redirect::is_redirected;
use crate::mm::rmap::Mapping;
use crate::mm::sharers::lookup::load;
use crate::mm::sharers::lookup::of;
use crate::mm::sharers::record::each_area;
use crate::mm::sharers::record::forget;
use crate::mm::sharers::record::Record;
use crate::mm::sharers::set::Set;
use core::ops::ControlFlow;
use kernel::sync::rcu;

/// Drops records of a page that has more records than mappings.
pub(super) fn drop_stale(page: &PageRef, mappings: usize) {
    let is_too_many = |set: &Set| set.len() > mappings;
    drop_records(page, is_too_many, |page, record| {
        !is_mapped_by(page, record)
    });
}

/// Drops records of a page whose processes have exited.
pub(super) fn drop_unused(page: &PageRef) {
    drop_records(page, |set| set.len() > 1, |_, record| record.is_unused());
}

/// Drops the records of a page that `is_stale` accepts, except for the last one. Does so only if
/// `is_to_look` accepts the set.
fn drop_records(
    page: &PageRef,
    is_to_look: impl Fn(&Set) -> bool,
    is_stale: impl Fn(&LockedPage<'_>, Record) -> bool,
) {
    // Most pages have nothing to drop, so check that before locking the folio.
    let Some(token) = page.token() else {
        return;
    };
    let is_due = {
        let _rcu = rcu::read_lock();
        // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is
        // held.
        load(token.id()).is_some_and(|set| is_to_look(unsafe { set.as_ref() }))
    };
    if !is_due || !is_redirected() {
        return;
    }
    let Some(locked) = page.try_lock() else {
        return;
    };
    let Some(set) = of(&locked) else {
        return;
    };
    for index in (0..set.len()).rev() {
        // SAFETY: The folio is locked, and the record is copied, so that the borrow ends with this line.
        let record = unsafe { set.records() }.get(index).copied();
        if set.len() > 1 && record.is_some_and(|record| is_stale(&locked, record)) {
            // SAFETY: The folio is locked, and no record is borrowed.
            unsafe { set.remove(index) }.into_iter().for_each(forget);
        }
    }
}

/// Whether an entry maps the page where `record` says; true if that can't be told.
fn is_mapped_by(page: &LockedPage<'_>, record: Record) -> bool {
    let mut is_mapped = false;
    let looked = each_area(record, true, &mut |vma, addr| {
        is_mapped = Mapping::find_surely(page, vma, addr).is_some();
        if is_mapped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    is_mapped || !looked
}
