// SPDX-License-Identifier: GPL-2.0

//! What is known of contents, and which threads are about to merge them.
//!
//! The sets have a mutex of their own, so a thread that asks about a batch of pages does not keep
//! others from finding their next place: see [`crate::scan::turns`] for the lock order.

use crate::mm::neighbours;
use crate::mm::refusal::Refusals;
use crate::mm::shared;
use crate::mm::storage::KernelStorage;
use core::ops::Deref;
use core::ops::DerefMut;
use engine::knobs::MOST_THREADS;
use engine::Domain;
use engine::Frame;
use engine::HashKind;
use engine::Key;
use engine::Keys;
use engine::KsmScanner;
use engine::Seat;
use engine::Space;
use engine::Target;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::lock::mutex::MutexBackend;
use kernel::sync::lock::Guard;
use kernel::sync::Mutex;

/// Largest number of contents claimed at a time: each thread, and `merge_now`, claims as many as it
/// replaces pages at once.
const MOST_CLAIMS: usize = (MOST_THREADS as usize + 1) * neighbours::MOST;

pub(crate) type Engine = KsmScanner<KernelStorage>;

/// The target of a page, and the right to merge the page with it.
#[derive(Clone, Copy)]
pub(crate) enum Claim {
    /// No target: it has gone, or another thread is about to make the shared page.
    Nothing,
    /// No target: the shared page on this frame takes no more sharers.
    Full(Frame),
    /// The shared page on this frame, on which a seat was taken.
    Seat { frame: Frame, seat: Seat },
    /// This page, in a new shared page that no other thread makes meanwhile.
    Twin(Frame),
}

impl Claim {
    /// The target that the engine has for the page.
    pub(crate) fn target(self) -> Option<Target> {
        match self {
            Claim::Nothing => None,
            Claim::Full(frame) | Claim::Seat { frame, .. } => Some(Target::Shared(frame)),
            Claim::Twin(frame) => Some(Target::Twin(frame)),
        }
    }
}

/// The sets, see the module documentation.
pub(crate) struct Sets {
    /// The engine, which decides and counts. Boxed: with the roots of its tables it is too large for a
    /// stack.
    pub(crate) engine: KBox<Engine>,
    /// How often pages were refused since the module was loaded.
    pub(crate) refusals: Refusals,
    /// Contents for which a thread is about to make a shared page.
    claims: KVVec<Key>,
}

impl Sets {
    /// Makes an engine with empty sets.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(hash: HashKind, seed: u64) -> Result<Self> {
        Ok(Sets {
            engine: engine(hash, seed)?,
            refusals: Refusals::default(),
            claims: KVVec::with_capacity(MOST_CLAIMS, GFP_KERNEL)?,
        })
    }

    /// Recounts the mappings of the shared pages.
    pub(crate) fn recount(&mut self) {
        self.engine.recount(shared::count);
    }

    /// Pages scanned or skipped since the module was loaded.
    pub(crate) fn pages_met(&self) -> u64 {
        let scanned = self.engine.get_stats().pages_scanned;
        scanned.wrapping_add(self.engine.pages_skipped())
    }

    /// Claims the current target of a page of `domain` with this key. `space` is the only address space
    /// that maps the page; `None` if others may map it, too. A claim on a twin holds the key until
    /// [`Self::disclaim`], so that no other thread makes a second shared page meanwhile.
    pub(crate) fn claim(&mut self, key: Key, domain: Domain, space: Option<Space>) -> Claim {
        match self.engine.target(key, domain) {
            None => Claim::Nothing,
            Some(Target::Shared(frame)) => match self.engine.take_seat(frame, space) {
                Some(seat) => Claim::Seat { frame, seat },
                None => Claim::Full(frame),
            },
            Some(Target::Twin(frame)) => {
                let is_free = !self.claims.contains(&key);
                // There is room for all claims that threads may hold at a time.
                if is_free && self.claims.push_within_capacity(key).is_ok() {
                    Claim::Twin(frame)
                } else {
                    Claim::Nothing
                }
            }
        }
    }

    /// Releases a claim on a key, whether its page was merged or not.
    pub(crate) fn disclaim(&mut self, key: Key, claim: Claim, is_merged: bool) {
        match claim {
            Claim::Seat { seat, .. } if !is_merged => self.engine.give_back(seat),
            Claim::Twin(_) => self.give_key_back(key),
            Claim::Nothing | Claim::Full(_) | Claim::Seat { .. } => (),
        }
    }

    fn give_key_back(&mut self, key: Key) {
        if let Some(position) = self.claims.iter().position(|&claimed| claimed == key) {
            // Swap-remove: the last claim takes its place.
            let last = self.claims.pop();
            if let (Some(place), Some(last)) = (self.claims.get_mut(position), last) {
                *place = last;
            }
        }
    }
}

/// Makes an engine on the heap. Not inlined, so that the engine is on the stack of this function only
/// before it is moved.
#[inline(never)]
fn engine(hash: HashKind, seed: u64) -> Result<KBox<Engine>> {
    let place = KBox::new_uninit(GFP_KERNEL)?;
    Ok(KBox::write(
        place,
        KsmScanner::with(KernelStorage, hash, seed),
    ))
}

/// The sets behind their mutex, and what can be read without it.
#[pin_data]
pub(crate) struct LockedSets {
    #[pin]
    sets: Mutex<Sets>,
    keys: Keys,
    /// [`KsmScanner::forgettable_parts`], as of the last unlock.
    forgettable: Atomic<usize>,
}

impl LockedSets {
    /// Puts the sets behind a mutex.
    pub(crate) fn new(sets: Sets) -> impl PinInit<Self> {
        pin_init!(LockedSets {
            keys: *sets.engine.keys(),
            forgettable: Atomic::new(0),
            sets <- new_mutex!(sets, "ksm_v::sets"),
        })
    }

    /// Locks the sets.
    pub(crate) fn lock(&self) -> SetsGuard<'_> {
        SetsGuard {
            sets: self.sets.lock(),
            home: self,
        }
    }

    /// Locks the sets, unless they are locked already.
    pub(crate) fn try_lock(&self) -> Option<SetsGuard<'_>> {
        let sets = self.sets.try_lock()?;
        Some(SetsGuard { sets, home: self })
    }

    /// The scheme by which contents get their keys.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Number of index segments worth thinning out, as of the last unlock.
    pub(crate) fn forgettable(&self) -> usize {
        self.forgettable.load(Relaxed)
    }
}

/// The locked sets. Dropping the guard updates the values that can be read without the lock.
pub(crate) struct SetsGuard<'a> {
    sets: Guard<'a, Sets, MutexBackend>,
    home: &'a LockedSets,
}

impl Deref for SetsGuard<'_> {
    type Target = Sets;

    fn deref(&self) -> &Sets {
        &self.sets
    }
}

impl DerefMut for SetsGuard<'_> {
    fn deref_mut(&mut self) -> &mut Sets {
        &mut self.sets
    }
}

impl Drop for SetsGuard<'_> {
    fn drop(&mut self) {
        let parts = self.sets.engine.forgettable_parts();
        self.home.forgettable.store(parts, Relaxed);
    }
}
