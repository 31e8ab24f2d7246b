// SPDX-License-Identifier: GPL-2.0

//! Finds the set of a merged page, and the merged page of a set, wherever it is now.

use crate::mm::page::frame_of_folio;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::set_table;
use crate::mm::sharers::set::Set;
use crate::mm::sharers::set::GONE;
use crate::mm::sharers::token::SetId;
use crate::mm::sharers::token::Token;
use crate::shim;
use core::ptr::NonNull;
use engine::Frame;
use kernel::bindings;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::rcu;

/// The set with this number, if it is in use.
#[inline]
pub(super) fn load(id: SetId) -> Option<NonNull<Set>> {
    // SAFETY: The callers hold the RCU read lock, or know of a set that is in use. Either keeps the chunk.
    set_table::at(id.0).filter(|set| unsafe { set.as_ref() }.is_used())
}

/// Whether a set with this token is in use.
pub(in crate::mm) fn is_known(token: Token) -> bool {
    look_up(token.id()).is_some_and(|(known, _)| known == token)
}

/// The token and the frame of a set.
fn look_up(id: SetId) -> Option<(Token, Frame)> {
    let _rcu = rcu::read_lock();
    // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is held.
    let set = unsafe { load(id)?.as_ref() };
    Some((set.token(id), Frame(set.frame.load(Acquire))))
}

/// The merged page of a set, wherever it is now; `None` if it is gone. The page may just have been migrated
/// away: [`of`] checks that under the folio lock.
pub(in crate::mm) fn page(id: SetId) -> Option<PageRef> {
    let mut last = None;
    loop {
        let (token, frame) = look_up(id)?;
        if last == Some(frame) {
            return None;
        }
        if let Some(page) = PageRef::get(frame).filter(|page| page.token() == Some(token)) {
            return Some(page);
        }
        // The page may have been migrated: the set is told its new frame before the old one is freed, so
        // look again.
        // SAFETY: This is only a barrier, which may be issued at any time.
        unsafe { shim::ksm_v_smp_rmb() };
        last = Some(frame);
    }
}

/// The set of a locked page; `None` if the page is not on the set's frame, or no longer.
pub(in crate::mm) fn of<'a>(page: &'a LockedPage<'_>) -> Option<&'a Set> {
    let token = page.token()?;
    let _rcu = rcu::read_lock();
    // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is held.
    // Beyond that, the folio lock keeps the set in use, if the folio is on the set's frame (checked below):
    // a set is given up only under that lock, or when no folio with its token is on its frame. See
    // `crate::mm::sharers`.
    let set = unsafe { load(token.id())?.as_ref() };
    let is_its = set.token(token.id()) == token && set.frame.load(Acquire) == page.frame().0;
    is_its.then_some(set)
}

/// As [`of`], for a folio that the kernel walks. This walk may be the first after a migration: then it
/// stores the new frame in the set.
///
/// # Safety
///
/// `folio` must be a KSM folio without a stable node, and must be referenced and locked for `'a`.
pub(in crate::mm) unsafe fn of_walked<'a>(folio: NonNull<bindings::folio>) -> Option<&'a Set> {
    // SAFETY: The caller keeps a reference to the folio, so that its index and its frame may be read.
    let (token, frame) = unsafe {
        let index = shim::ksm_v_folio_index(folio.as_ptr()) as u64;
        (Token::of_index(index), frame_of_folio(folio))
    };
    let _rcu = rcu::read_lock();
    // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is held.
    // Beyond that, the caller's folio lock keeps the set in use if the folio is on its frame, as in `of`.
    let set = unsafe { load(token.id())?.as_ref() };
    if set.token(token.id()) != token {
        return None;
    }
    let known = set.frame.load(Acquire);
    if known == frame.0 {
        return Some(set);
    }
    // A migration holds the lock of the old folio, too, and no entry maps that any more. If an entry does
    // map the folio on the known frame, `folio` is the old one, which nothing maps.
    if known == GONE || is_mapped(Frame(known)) {
        return None;
    }
    let moved = set.frame.cmpxchg(known, frame.0, Full);
    moved.is_ok().then_some(set)
}

/// Whether an entry maps the folio on `frame`.
fn is_mapped(frame: Frame) -> bool {
    PageRef::get(frame).is_some_and(|page| page.mappings() > 0)
}

/// The number of entries that map the page of a set, and the number of its records; `None` if nothing maps
/// it, or if that can't be told without a reference.
pub(super) fn mapped(id: SetId) -> Option<(u32, usize)> {
    let (_, mappings, records) = peek(id)?;
    (mappings > 0).then_some((mappings, records))
}

/// Whether no reference can be taken to the page of a set just now, because it is being moved or swapped out.
///
/// A page whose memory has failed keeps its mapping and index when it is freed: it is gone.
pub(in crate::mm) fn is_on_the_move(id: SetId) -> bool {
    // SAFETY: The function accepts any frame number.
    peek(id).is_some_and(|(frame, ..)| !unsafe { shim::ksm_v_pfn_hwpoison(frame.0 as usize) })
}

/// As [`mapped`], with the frame, and also for pages that nothing maps. Takes no reference to the page; `None`
/// if it is gone.
fn peek(id: SetId) -> Option<(Frame, u32, usize)> {
    let _rcu = rcu::read_lock();
    // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is held.
    let set = unsafe { load(id)?.as_ref() };
    let (frame, token) = (set.frame.load(Relaxed), set.token(id));
    // SAFETY: The function accepts any frame number; it checks that the frame is online.
    let mappings = unsafe { shim::ksm_v_merged_mapcount(frame as usize, token.0 as usize) };
    Some((Frame(frame), u32::try_from(mappings).ok()?, set.len()))
}
