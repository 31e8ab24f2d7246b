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
//! # Lifetime of a set
//!
//! [`count`] gives up a set when nothing maps its page any more. With the folio lock held that state is
//! final: only this module adds mappings of such a KSM folio (a fault on a swap entry maps a copy, see
//! `ksm_might_need_to_copy()`), and entries are replaced by migration entries only under the folio lock. If
//! the folio itself is gone, its frame is free, or holds a folio with another token.
//!
//! A thread that holds the lock of a folio with the token may use the set, if the set names the folio's
//! frame: a folio that was just migrated away still has the token. A walk that moves the set and a thread
//! that gives it up both change the frame by an atomic exchange (to the new frame, or to [`GONE`]), so only
//! one of them succeeds.

use crate::mm::anon_vmas;
use crate::mm::anon_vmas::Number;
use crate::mm::anon_vmas::NUMBER_BITS;
use crate::mm::page::frame_of_folio;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::rmap::Mapping;
use crate::mm::rmap_ksm;
use crate::mm::set_table;
use crate::mm::vma::StableVma;
use crate::shim;
use crate::sys::kthread::cond_resched;
use core::cell::Cell;
use core::cell::UnsafeCell;
use core::ops::ControlFlow;
use core::ptr::NonNull;
use engine::Frame;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;
use kernel::sync::rcu;
use kernel::time::Instant;
use kernel::time::Monotonic;

/// Bits of an index in an anon_vma. Areas at larger indices are left alone.
const INDEX_BITS: u32 = u64::BITS - NUMBER_BITS;
/// Number of records that are stored in the set itself, without an allocation.
const FEW: usize = 2;
/// The frame of a set that was given up.
const GONE: u64 = u64::MAX;

/// The number of a set, which identifies a merged page in [`crate::mm::shared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId(u32);

impl SetId {
    /// The name that identifies the page in the engine.
    pub(crate) fn name(self) -> Frame {
        Frame(self.0.into())
    }

    /// The set of this name.
    pub(crate) fn of_name(name: Frame) -> Self {
        // No bits are lost: names are made by `name`, from 32 bits.
        SetId(name.0 as u32)
    }
}

/// The value in a folio's `index` that identifies its set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u64);

impl Token {
    /// The smallest generation: generations are so large that no index of an anonymous page is a token.
    const GENERATION: u32 = 1 << 31;

    fn new(id: SetId, generation: u32) -> Self {
        Token((u64::from(generation) << u32::BITS) | u64::from(id.0))
    }

    /// The token in a folio whose index is `index`.
    pub(super) fn of_index(index: u64) -> Self {
        Token(index)
    }

    fn id(self) -> SetId {
        SetId(self.0 as u32)
    }

    /// Whether a set with this token is in use.
    pub(super) fn is_known(self) -> bool {
        let _rcu = rcu::read_lock();
        let set = load(self.id());
        // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is
        // held.
        set.is_some_and(|set| unsafe { set.as_ref() }.token(self.id()) == self)
    }

    /// The name of the set; `None` if this is not a token. If the token is of a mapped page, the set is in
    /// use.
    #[inline]
    pub(super) fn name(self) -> Option<Frame> {
        let is_token = self.0 >> u32::BITS >= u64::from(Self::GENERATION);
        is_token.then(|| self.id().name())
    }
}

/// A sharer of a page: an anon_vma, and an index in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Record(u64);

impl Record {
    /// The record that pages get if the kernel does not walk records: see [`rmap_ksm::is_redirected`].
    const NONE: Record = Record(0);

    fn new(number: Number, index: u64) -> Self {
        Record((u64::from(number.0) << INDEX_BITS) | index)
    }

    fn number(self) -> Number {
        Number((self.0 >> INDEX_BITS) as u32)
    }

    /// The index in the anon_vma.
    pub(super) fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }

    /// The anon_vma, which stays at least as long as the record does.
    pub(super) fn anon_vma(self) -> Option<NonNull<bindings::anon_vma>> {
        anon_vmas::at(self.number())
    }

    fn is_unused(self) -> bool {
        let is_unused = |anon_vma: NonNull<bindings::anon_vma>| {
            // SAFETY: The record owns a count in `anon_vmas`, which keeps a reference to the anon_vma.
            unsafe { shim::ksm_v_anon_vma_is_unused(anon_vma.as_ptr()) }
        };
        self.anon_vma().is_some_and(is_unused)
    }
}

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
pub(super) struct Set {
    /// 0 if the set is not in use.
    generation: Atomic<u32>,
    /// 0 until the page is mapped for the first time.
    len: Atomic<u32>,
    frame: Atomic<u64>,
    records: UnsafeCell<Records>,
}

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

/// Bytes of records that are in allocations.
static BYTES: Atomic<usize> = Atomic::new(0);

/// The generation of the next set.
static GENERATION: Atomic<u32> = Atomic::new(0);

/// Initialises the sets.
///
/// # Safety
///
/// Must be called once, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: The caller promises that this is the first and only call, so that nothing uses these statics
    // yet.
    unsafe {
        IN_USE.init();
        GIVING_UP.init();
        anon_vmas::init();
        set_table::init();
    }
    GENERATION.store(crate::mm::random() as u32, Relaxed);
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

/// Memory of sets, records and the tables that lead to them, in bytes.
pub(crate) fn bytes() -> usize {
    let of_records = BYTES.load(Relaxed);
    (set_table::bytes())
        .saturating_add(of_records)
        .saturating_add(anon_vmas::bytes())
}

impl Set {
    fn token(&self, id: SetId) -> Token {
        Token::new(id, self.generation.load(Acquire))
    }

    fn is_used(&self) -> bool {
        self.generation.load(Acquire) != 0
    }

    /// The link of a set that is not in use: the number of the next such set in the free list.
    pub(super) fn link(&self) -> u32 {
        self.frame.load(Relaxed) as u32
    }

    /// Sets the link of a set that is not in use.
    pub(super) fn set_link(&self, number: u32) {
        self.frame.store(number.into(), Relaxed);
    }

    fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }

    /// The records.
    ///
    /// # Safety
    ///
    /// The folio lock must be held while the records are borrowed, and no record may be changed in that
    /// time.
    pub(super) unsafe fn records(&self) -> &[Record] {
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
    unsafe fn push(&self, record: Record) -> Result {
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
    unsafe fn remove(&self, index: usize) -> Option<Record> {
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

#[inline]
fn load(id: SetId) -> Option<NonNull<Set>> {
    // SAFETY: The callers hold the RCU read lock, or know of a set that is in use. Either keeps the chunk.
    set_table::at(id.0).filter(|set| unsafe { set.as_ref() }.is_used())
}

/// The token and the frame of a set.
fn look_up(id: SetId) -> Option<(Token, Frame)> {
    let _rcu = rcu::read_lock();
    // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is held.
    let set = unsafe { load(id)?.as_ref() };
    Some((set.token(id), Frame(set.frame.load(Acquire))))
}

/// Makes the set of `page`, a new shared page that nobody else knows. If the page gets no sharer, the
/// caller must give up the set by [`give_up_new`].
///
/// # Errors
///
/// `ENOMEM`; `ENODEV`: the module is being unloaded.
pub(super) fn new(page: &PageRef) -> Result<SetId> {
    enter()?;
    make(page).inspect_err(|_| leave())
}

fn make(page: &PageRef) -> Result<SetId> {
    let id = SetId(set_table::take()?);
    let generation = GENERATION.fetch_add(1, Relaxed) | Token::GENERATION;
    let set = set_table::at(id.0).ok_or(ENOMEM)?;
    // SAFETY: `take` returned the number of a set in its chunk, which stays while a set is in use, as
    // `SETS` counts this one already. Nobody else uses the set before its generation is stored.
    let set = unsafe { set.as_ref() };
    set.len.store(0, Relaxed);
    set.frame.store(page.frame().0, Relaxed);
    set.generation.store(generation, Release);
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

fn leave() {
    if change_sets(1, |count| count - 1) {
        return;
    }
    let _transition = IN_USE.lock();
    if SETS.fetch_sub(1, Full) == 1 {
        crate::mm::shared::note_none();
        // SAFETY: The reference is the one that `enter` took. The module's code stays until this thread has
        // left it: module exit waits for the threads of the module.
        unsafe { shim::ksm_v_module_put() };
    }
}

/// The merged page of a set, wherever it is now; `None` if it is gone. The page may just have been migrated
/// away: [`of`] checks that under the folio lock.
pub(super) fn page(id: SetId) -> Option<PageRef> {
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
pub(super) fn of<'a>(page: &'a LockedPage<'_>) -> Option<&'a Set> {
    let token = page.token()?;
    let _rcu = rcu::read_lock();
    // SAFETY: `load` returned a set in its chunk, and chunks are not freed while the RCU read lock is held.
    // Beyond that, the folio lock keeps the set in use, if the folio is on the set's frame (checked below):
    // a set is given up only under that lock, or when no folio with its token is on its frame. See the
    // module documentation.
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
pub(super) unsafe fn of_walked<'a>(folio: NonNull<bindings::folio>) -> Option<&'a Set> {
    // SAFETY: The caller keeps a reference to the folio, so that its index and its frame may be read.
    let (token, frame) = unsafe {
        let index = shim::ksm_v_folio_index(folio.as_ptr()) as u64;
        (Token(index), frame_of_folio(folio))
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

/// The anon_vma of a VMA, reserved for some new sharers.
pub(super) struct Base<'a> {
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
    pub(super) fn new(vma: &'a StableVma<'a>, sharers: u32) -> Result<Self> {
        let is_recorded = rmap_ksm::is_redirected() && sharers > 0;
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
pub(super) unsafe fn add(set: &Set, base: &Base<'_>, addr: usize) -> Result<Option<Record>> {
    if !rmap_ksm::is_redirected() {
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
pub(super) unsafe fn take_back(set: &Set, record: Record) {
    // SAFETY: The caller holds the folio lock and borrows no record. The borrow of `set.records()` ends
    // before `remove` is called.
    unsafe {
        let position = set.records().iter().rposition(|&other| other == record);
        if let Some(record) = position.and_then(|position| set.remove(position)) {
            forget(record);
        }
    }
}

fn forget(record: Record) {
    if record != Record::NONE {
        anon_vmas::put(record.number(), 1);
    }
}

/// Gives up a set whose page never got a sharer. Does nothing if it got one.
pub(super) fn give_up_new(id: SetId) {
    let _alone = GIVING_UP.lock();
    let Some(set) = load(id) else {
        return;
    };
    // SAFETY: The set is in use, which keeps its chunk: sets are given up under this mutex only.
    if unsafe { set.as_ref() }.len() == 0 {
        // SAFETY: The page has no sharer, and only its maker knows it, who gives it up here: the engine
        // offers it to no other thread before it is merged into.
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
    // SAFETY: The folio is locked and unmapped, which is final (see the module documentation). Its token
    // was cleared, so nobody finds the set by the page. `GONE` keeps a walk from moving the set.
    unsafe { free(id, set) };
    None
}

/// The number of entries that map the page of a set, and the number of its records; `None` if nothing maps
/// it, or if that can't be told without a reference.
fn mapped(id: SetId) -> Option<(u32, usize)> {
    let (_, mappings, records) = peek(id)?;
    (mappings > 0).then_some((mappings, records))
}

/// Whether no reference can be taken to the page of a set just now, because it is being moved or swapped out.
///
/// A page whose memory has failed keeps its mapping and index when it is freed: it is gone.
pub(super) fn is_on_the_move(id: SetId) -> bool {
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
        set.generation.store(0, Release);
        while let Some(record) = set.remove(set.len().wrapping_sub(1)) {
            forget(record);
        }
    }
    set_table::give_back(id.0);
    leave();
}

/// Drops records of a page that has more records than mappings.
fn drop_stale(page: &PageRef, mappings: usize) {
    let is_too_many = |set: &Set| set.len() > mappings;
    drop_records(page, is_too_many, |page, record| {
        !is_mapped_by(page, record)
    });
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
    if !is_due || !rmap_ksm::is_redirected() {
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
    let looked = rmap_ksm::each_area(record, true, &mut |vma, addr| {
        is_mapped = Mapping::find_surely(page, vma, addr).is_some();
        if is_mapped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    is_mapped || !looked
}

/// Number of passes between two sweeps.
const SWEEP_EVERY: u32 = 16;

/// Number of passes that have ended.
static PASSES: Atomic<u32> = Atomic::new(0);

/// Ends a pass, and [sweeps](sweep) after every [`SWEEP_EVERY`] passes.
pub(crate) fn end_pass() {
    let passes = PASSES.fetch_add(1, Relaxed);
    if passes % SWEEP_EVERY == SWEEP_EVERY - 1 {
        sweep();
    }
}

/// Shortest time, in milliseconds, between the last pass or sweep and the next sweep from the work item. If
/// nothing is scanned, only the work item notices that shared pages are gone; without it the module would
/// stay in use.
const TIDY_MS: u32 = 10_000;
/// The work item spends at most one part in `TIDY_SHARE` of the time sweeping.
const TIDY_SHARE: u32 = 100;

/// Sweeps, unless a pass has ended since the last call. Returns the number of milliseconds after which to
/// call it again; 0 if no set is left.
#[no_mangle]
extern "C" fn ksm_v_tidy() -> u32 {
    static SEEN: Atomic<u32> = Atomic::new(0);
    let passes = PASSES.load(Relaxed);
    if SEEN.xchg(passes, Relaxed) != passes {
        return TIDY_MS;
    }
    let start = Instant::<Monotonic>::now();
    sweep();
    if sets() == 0 {
        return 0;
    }
    let took_ms = u32::try_from(start.elapsed().as_millis()).unwrap_or(u32::MAX);
    took_ms
        .saturating_mul(TIDY_SHARE)
        .clamp(TIDY_MS, 10 * 60 * 1000)
}

/// Counts all sets and gives up those whose pages are gone. Drops records of exited processes, and
/// anon_vmas without records. May sleep.
pub(crate) fn sweep() {
    for number in 1..=set_table::last() {
        let set = SetId(number);
        if count(set).is_some() {
            if let Some(page) = page(set) {
                drop_records(&page, |set| set.len() > 1, |_, record| record.is_unused());
            }
        }
        cond_resched();
    }
    anon_vmas::sweep();
    let _transition = IN_USE.lock();
    if sets() == 0 {
        set_table::clear();
    }
}

/// Frees all memory when the module is unloaded. No merged page may be left.
pub(super) fn end() {
    sweep();
    anon_vmas::end();
}
