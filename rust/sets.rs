// SPDX-License-Identifier: GPL-2.0

//! What is known of contents, and who is about to merge them.
//!
//! Behind a mutex of its own, so that a thread that asks about a batch of pages keeps none from
//! finding its way: see [`crate::commons`].

use crate::commons::MOST_THREADS;
use crate::mm::neighbours;
use crate::mm::refusal::Refusals;
use crate::mm::shared;
use crate::mm::storage::KernelStorage;
use core::ops::Deref;
use core::ops::DerefMut;
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

/// Contents that are claimed at a time, at the most: each thread has as many as it replaces pages
/// at once, and who writes to `merge_now` has them, too.
const MOST_CLAIMS: usize = (MOST_THREADS as usize + 1) * neighbours::MOST;

pub(crate) type Engine = KsmScanner<KernelStorage>;

/// What a page is to be merged with, and the right to do so.
#[derive(Clone, Copy)]
pub(crate) enum Claim {
    /// With nothing: there is nothing any more, or another thread is about to make a shared page.
    Nothing,
    /// With nothing: the shared page on this frame takes no more.
    Full(Frame),
    /// With the shared page on this frame, of which it has taken a seat.
    Seat { frame: Frame, seat: Seat },
    /// With this page, in a new shared one that nobody else makes meanwhile.
    Twin(Frame),
}

impl Claim {
    /// What the engine has for the page.
    pub(crate) fn target(self) -> Option<Target> {
        match self {
            Claim::Nothing => None,
            Claim::Full(frame) | Claim::Seat { frame, .. } => Some(Target::Shared(frame)),
            Claim::Twin(frame) => Some(Target::Twin(frame)),
        }
    }
}

/// See the module.
pub(crate) struct Sets {
    /// Decides and counts. Boxed: with the roots of its tables it is larger than a stack should hold.
    pub(crate) engine: KBox<Engine>,
    /// How often pages were refused since the start.
    pub(crate) refusals: Refusals,
    /// Contents for which a thread is about to make a shared page.
    claims: KVVec<Key>,
}

impl Sets {
    /// Makes an engine that knows nothing.
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

    /// Brings the counts up to date.
    pub(crate) fn recount(&mut self) {
        self.engine.recount(shared::count);
    }

    /// Pages that were met since the start, passed over or not.
    pub(crate) fn pages_met(&self) -> u64 {
        let scanned = self.engine.get_stats().pages_scanned;
        scanned.wrapping_add(self.engine.pages_skipped())
    }

    /// With what to merge a page of `domain` of this key now, which `space` maps (`None`: maybe others, too). Who
    /// makes a shared page for it has the key until [`Self::disclaim`]: nobody else makes another
    /// meanwhile.
    pub(crate) fn claim(&mut self, key: Key, domain: Domain, space: Option<Space>) -> Claim {
        match self.engine.target(key, domain) {
            None => Claim::Nothing,
            Some(Target::Shared(frame)) => match self.engine.take_seat(frame, space) {
                Some(seat) => Claim::Seat { frame, seat },
                None => Claim::Full(frame),
            },
            Some(Target::Twin(frame)) => {
                let is_free = !self.claims.contains(&key);
                // There is room for all that threads may claim at a time.
                if is_free && self.claims.push_within_capacity(key).is_ok() {
                    Claim::Twin(frame)
                } else {
                    Claim::Nothing
                }
            }
        }
    }

    /// Takes back a claim on a key, whose page was merged or not.
    pub(crate) fn disclaim(&mut self, key: Key, claim: Claim, is_merged: bool) {
        match claim {
            Claim::Seat { seat, .. } if !is_merged => self.engine.give_back(seat),
            Claim::Twin(_) => self.give_key_back(key),
            Claim::Nothing | Claim::Full(_) | Claim::Seat { .. } => (),
        }
    }

    fn give_key_back(&mut self, key: Key) {
        if let Some(position) = self.claims.iter().position(|&claimed| claimed == key) {
            // The last one takes its place.
            let last = self.claims.pop();
            if let (Some(place), Some(last)) = (self.claims.get_mut(position), last) {
                *place = last;
            }
        }
    }
}

/// Not in line: what is moved to the heap is on the stack of this function only.
#[inline(never)]
fn engine(hash: HashKind, seed: u64) -> Result<KBox<Engine>> {
    let place = KBox::new_uninit(GFP_KERNEL)?;
    Ok(KBox::write(
        place,
        KsmScanner::with(KernelStorage, hash, seed),
    ))
}

/// The sets, and what is known of them without their lock.
#[pin_data]
pub(crate) struct LockedSets {
    #[pin]
    sets: Mutex<Sets>,
    keys: Keys,
    /// As [`KsmScanner::forgettable_parts`].
    forgettable: Atomic<usize>,
}

impl LockedSets {
    /// Has the sets locked from now on.
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

    /// As [`Self::lock`], unless someone has them.
    pub(crate) fn try_lock(&self) -> Option<SetsGuard<'_>> {
        let sets = self.sets.try_lock()?;
        Some(SetsGuard { sets, home: self })
    }

    /// How contents get their keys.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// How many parts the index could give up, as of a moment ago.
    pub(crate) fn forgettable(&self) -> usize {
        self.forgettable.load(Relaxed)
    }
}

/// The sets, locked. Dropping it has others know what they may ask without the lock.
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
