// SPDX-License-Identifier: GPL-2.0

//! The lifetime of sets: makes the set of a new shared page, and gives up the set of a page that is gone. The
//! module is in use while there is a set.

use crate::mm::anon_vmas;
use crate::mm::movable;
use crate::mm::page::PageRef;
use crate::mm::set_table;
use crate::mm::sharers::lookup::is_on_the_move;
use crate::mm::sharers::lookup::load;
use crate::mm::sharers::lookup::mapped;
use crate::mm::sharers::lookup::of;
use crate::mm::sharers::lookup::page;
use crate::mm::sharers::record::forget;
use crate::mm::sharers::set::Set;
use crate::mm::sharers::set::GONE;
use crate::mm::sharers::stale::drop_stale;
use crate::mm::sharers::token::SetId;
use crate::mm::sharers::token::Token;
use crate::shim;
use crate::sys::random::get_random_u64;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::rcu;

/// Shortest time, in milliseconds, between the last pass or sweep and the next sweep from the work item. If
/// nothing is scanned, only the work item notices that shared pages are gone; without it the module would
/// stay in use.
pub(super) const TIDY_MS: u32 = 10_000;

/// The number of sets. While it is not 0, the module holds a reference to itself. Changes from and to 0 are
/// made under [`IN_USE`] only.
static SETS: Atomic<usize> = Atomic::new(0);

kernel::sync::global_lock! {
    // SAFETY: `init` initialises it, and runs before anything else in the module uses sets.
    unsafe(uninit) static IN_USE: Mutex<()> = ();
}

kernel::sync::global_lock! {
    // SAFETY: `init` initialises it, and runs before anything else in the module uses sets.
    unsafe(uninit) static GIVING_UP: Mutex<()> = ();
}

/// The generation of the next set.
static GENERATION: Atomic<u32> = Atomic::new(0);

/// Initialises the sets.
///
/// # Safety
///
/// Must be called once, before anything else uses sets.
pub(super) unsafe fn init() {
    // SAFETY: The caller promises that this is the first and only call, so that nothing uses these statics
    // yet.
    unsafe {
        IN_USE.init();
        GIVING_UP.init();
        anon_vmas::init();
        set_table::init();
    }
    GENERATION.store(get_random_u64() as u32, Relaxed);
}

/// The number of sets. While it is not 0, the module is in use.
pub(crate) fn sets() -> usize {
    SETS.load(Relaxed)
}

/// Changes the count without [`IN_USE`]. Returns false without a change if the count is `edge`, the value
/// from which the change would begin or end the use of the module.
fn change_sets(edge: usize, change: impl Fn(usize) -> usize) -> bool {
    let mut count = sets();
    while count != edge {
        match SETS.cmpxchg(count, change(count), Full) {
            Ok(_) => return true,
            Err(other) => count = other,
        }
    }
    false
}

/// Makes the set of `page`, a new shared page that nobody else knows. If the page gets no sharer, the
/// caller must give up the set by [`give_up_new`].
///
/// # Errors
///
/// `ENOMEM`; `ENODEV`: the module is being unloaded.
pub(in crate::mm) fn new(page: &PageRef) -> Result<SetId> {
    enter()?;
    make(page).inspect_err(|_| leave())
}

/// Makes the set, which was counted already.
fn make(page: &PageRef) -> Result<SetId> {
    let id = SetId(set_table::take()?);
    let generation = GENERATION.fetch_add(1, Relaxed) | Token::GENERATION;
    let set = set_table::at(id.0).ok_or(ENOMEM)?;
    // SAFETY: `take` returned the number of a set in its chunk, which stays while a set is in use, as
    // `SETS` counts this one already. Nobody else uses the set before its generation is stored.
    let set = unsafe { set.as_ref() };
    set.begin(page.frame(), generation);
    page.set_token_index(Token::new(id, generation).0);
    Ok(id)
}

/// Counts a set. The first set also takes a reference to the module, so that while a page is merged, the
/// code that finds its sharers stays.
fn enter() -> Result {
    if change_sets(0, |count| count + 1) {
        return Ok(());
    }
    let _transition = IN_USE.lock();
    if sets() == 0 {
        // SAFETY: This thread runs code of the module, so `THIS_MODULE` is valid.
        if !unsafe { shim::ksm_v_try_module_get() } {
            return Err(ENODEV);
        }
        // SAFETY: The work item is static; it may be queued until the module is unloaded, and the reference
        // just taken prevents that.
        unsafe { shim::ksm_v_tidy_later(TIDY_MS) };
    }
    SETS.fetch_add(1, Full);
    Ok(())
}

/// Counts one set less. The last set gives up the reference to the module.
fn leave() {
    if change_sets(1, |count| count - 1) {
        return;
    }
    let _transition = IN_USE.lock();
    if SETS.fetch_sub(1, Full) == 1 {
        movable::note_none();
        // SAFETY: The reference is the one that `enter` took. The module's code stays until this thread has
        // left it: module exit waits for the threads of the module.
        unsafe { shim::ksm_v_module_put() };
    }
}

/// Frees the table of sets if no set is left.
pub(super) fn clear_if_unused() {
    let _transition = IN_USE.lock();
    if sets() == 0 {
        set_table::clear();
    }
}

/// Gives up a set whose page never got a sharer. Does nothing if it got one.
pub(in crate::mm) fn give_up_new(id: SetId) {
    let _alone = GIVING_UP.lock();
    let Some(set) = load(id) else {
        return;
    };
    // SAFETY: The set is in use, which keeps its chunk: sets are given up under this mutex only.
    if unsafe { set.as_ref() }.len() == 0 {
        // SAFETY: The page has no sharer, and only its maker knows it, which is the caller: the engine offers
        // the page to no other thread before something is merged into it.
        unsafe { free(id, set) };
    }
}

/// The number of page table entries that map the merged page of a set; `None` if the page is gone, and then
/// the set is given up. Otherwise drops records that are certainly stale. A page that is being migrated
/// counts as mapped once, because the caller must not wait for that.
pub(crate) fn count(id: SetId) -> Option<u32> {
    if let Some((mappings, records)) = mapped(id) {
        if records > mappings as usize {
            if let Some(page) = page(id) {
                drop_stale(&page, mappings as usize);
            }
        }
        return Some(mappings);
    }
    let _alone = GIVING_UP.lock();
    let Some(page) = page(id) else {
        return give_up_gone(id);
    };
    let Some(locked) = page.try_lock() else {
        return Some(1);
    };
    let (Some(set), 0) = (of(&locked), locked.mappings()) else {
        return Some(1);
    };
    // The page is new: its maker gives it up if nothing maps it.
    if set.len() == 0 {
        return Some(1);
    }
    if set.frame.cmpxchg(page.frame().0, GONE, Full).is_err() {
        return Some(1);
    }
    page.set_token_index(0);
    let set = NonNull::from(set);
    // SAFETY: The folio is locked and unmapped, which is final (see `crate::mm::sharers`). Its token
    // was cleared, so nobody finds the set by the page. `GONE` keeps a walk from moving the set.
    unsafe { free(id, set) };
    None
}

/// Gives up a set whose page is gone. A page in the memory of a device, to which no reference can be taken
/// ([`PageRef::get`]), counts as mapped once until it is freed or returns.
fn give_up_gone(id: SetId) -> Option<u32> {
    let pointer = {
        let _rcu = rcu::read_lock();
        load(id)?
    };
    // SAFETY: The set is in use, which keeps its chunk: sets are given up under the mutex that the caller
    // holds.
    let set = unsafe { pointer.as_ref() };
    // The page is new, and its maker has not finished it.
    if set.len() == 0 {
        return Some(1);
    }
    let frame = &set.frame;
    let known = frame.load(Acquire);
    let token = set.token(id);
    // SAFETY: The function accepts any frame number.
    if unsafe { shim::ksm_v_is_merged_on_device(known as usize, token.0 as usize) } {
        return Some(1);
    }
    // Migration freezes the references of a folio in the swap cache for a moment: it is there, and can't be
    // referenced.
    let is_there = page(id).is_some() || is_on_the_move(id);
    if is_there || frame.cmpxchg(known, GONE, Full).is_err() {
        return Some(1);
    }
    // SAFETY: No folio with the set's token is on its frame, and the exchange shows that the page was not
    // moved since that was seen. `GONE` keeps a later walk from finding the set.
    unsafe { free(id, pointer) };
    None
}

/// Frees a set.
///
/// # Safety
///
/// `set` must have the number `id`, must not be freed yet, and nobody may find it by a page any more.
unsafe fn free(id: SetId, set: NonNull<Set>) {
    // SAFETY: The caller promises that the set is not freed yet, and that nobody else finds it: so nobody
    // changes or borrows its records, and the folio lock, which would protect them, is not needed.
    unsafe {
        let set = set.as_ref();
        set.end();
        while let Some(record) = set.remove(set.len().wrapping_sub(1)) {
            forget(record);
        }
    }
    set_table::give_back(id.0);
    leave();
}
