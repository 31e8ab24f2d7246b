// SPDX-License-Identifier: GPL-2.0

//! The sharers of a merged page: its *set*, from which the kernel finds all mappings of the page
//! ([`crate::mm::rmap_ksm`]) when it moves the page, swaps it out, or loses it to a memory error.
//!
//! # Identity
//!
//! A merged page is identified by the number of its set, not by its frame. The folio's `index`, which
//! nothing else reads of a KSM folio, holds a *token*: the set's number, and a generation that
//! distinguishes sets which used the same number one after the other. Migration copies `index`. The first
//! walk over the new folio, which restores the entries, therefore finds the set, and stores the new frame
//! in it.
//!
//! # Sharers
//!
//! A sharer is a *record* of 8 bytes: the number of an anon_vma ([`anon_vmas`]), and the index of the page
//! in it. The kernel identifies any anonymous page by these two. So records follow forks, splits and
//! `mremap()`: the walk finds the VMAs that are there now. One record stands for all processes that forked
//! the mapping.
//!
//! Records change only under the folio lock of the shared page, which every walk holds, too. A record is
//! added before its entry is set. A superfluous record does no harm. If a record is missing while an entry
//! maps the page, migration fails. If a record were *removed* between `try_to_migrate()` and
//! `remove_migration_ptes()`, the page would be lost; this can't happen, because both run under one hold of
//! the folio lock.
//!
//! [`add`] records a sharer, as `stable_tree_append()` in `mm/ksm.c` does.
//!
//! # Lifetime of a set
//!
//! [`count`] gives up a set when nothing maps its page any more. With the folio lock held that state is
//! final: only this module adds mappings of such a KSM folio (a fault on a swap entry maps a copy, see
//! `ksm_might_need_to_copy()`), and entries are replaced by migration entries only under the folio lock. If
//! the folio itself is gone, its frame is free, or holds a folio with another token.
//!
//! A thread that holds the lock of a folio with the token may use the set, if the set names the folio's
//! frame: a folio that was just migrated away still has the token. A walk that moves the set and a thread
//! that gives it up both change the frame by an atomic exchange (to the new frame, or to `GONE`), so only
//! one of them succeeds.

mod add;
mod lifetime;
mod lookup;
mod record;
mod set;
mod stale;
mod sweep;
mod token;

pub(super) use add::add;
pub(super) use add::take_back;
pub(super) use add::Base;
pub(crate) use lifetime::count;
pub(super) use lifetime::give_up_new;
pub(super) use lifetime::new;
pub(crate) use lifetime::sets;
pub(super) use lookup::is_known;
pub(super) use lookup::is_on_the_move;
pub(super) use lookup::of;
pub(super) use lookup::of_walked;
pub(super) use lookup::page;
pub(super) use record::each_area;
pub(super) use record::Record;
pub(super) use set::Set;
pub(crate) use sweep::end_pass;
pub(crate) use sweep::sweep;
pub(crate) use token::SetId;
pub(super) use token::Token;

use crate::mm::anon_vmas;
use crate::mm::redirect;
use crate::mm::set_table;
use crate::shim;

/// The tables of sharers, which the kernel uses through the redirects, from load to unload. There must be no
/// merged page when this is dropped.
pub(crate) struct Tables;

impl Tables {
    /// Initialises the tables, and redirects the kernel to them. Must be called once, before anything is
    /// merged.
    pub(super) fn begin() -> Self {
        // SAFETY: The `init` of the module calls this function once, before anything uses the sets.
        unsafe { lifetime::init() };
        // SAFETY: The `init` of the module calls this function once. The sets are initialised.
        unsafe { redirect::begin() };
        Tables
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        // SAFETY: The work item is static. No set is left, so nothing queues it again after this.
        unsafe { shim::ksm_v_tidy_end() };
        // SAFETY: `begin` made the redirects, and this value is dropped once. No merged page is left.
        unsafe { redirect::end() };
        sweep::end();
    }
}

/// Memory of sets, records and the tables that lead to them, in bytes.
pub(crate) fn bytes() -> usize {
    set_table::bytes()
        .saturating_add(set::record_bytes())
        .saturating_add(anon_vmas::bytes())
}
