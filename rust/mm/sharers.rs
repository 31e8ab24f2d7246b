// SPDX-License-Identifier: GPL-2.0

//! Who shares a merged page: its *set*, by which the kernel finds all mappings of the page
//! ([`crate::mm::rmap_ksm`]) when it moves, swaps or loses it.
//!
//! # Identity
//!
//! A merged page is known by the number of its set, not by its frame. The folio's `index`, which nothing
//! else reads of a KSM folio, is a *token*: that number, and a generation by which sets that had the same
//! number one after the other are told apart. Migration copies `index`, so the first walk over the new
//! folio, which puts the entries back, finds the set and tells it the new frame.
//!
//! # Sharers
//!
//! A sharer is a *record* of 8 bytes: the number of an anon_vma ([`anon_vmas`]) and the index of the page in
//! it, as the kernel knows any anonymous page. So forks, splits and `mremap()` are followed: the walk finds
//! whatever area is there now. One record stands for all processes that forked the mapping.
//!
//! Records change under the folio lock of the shared page only, which every walk holds too. A record is
//! made before its entry is set. One too many does no harm; one that is missing while an entry maps the
//! page makes migration fail, and one *removed* between `try_to_migrate()` and `remove_migration_ptes()`
//! would lose the page: both are under one hold of the folio lock.
//!
//! # Lifetime of a set
//!
//! A set is given up by [`count`], where nothing maps its page any more. With the folio lock held that is
//! final: nobody but this module maps a KSM folio anew (`ksm_might_need_to_copy()` has a copy swapped in), and
//! entries that are being migrated are so under the folio lock. Where the folio itself has gone, its frame
//! is free, or has another token.
//!
//! Whoever has a folio with the token locked may use the set, if the set agrees about the frame: a folio
//! that was just migrated away still looks alike. That [`GONE`] and a new frame are both written by an
//! exchange decides between a walk that moves the set and someone who gives it up.

use crate::mm::anon_vmas;
use crate::mm::anon_vmas::Number;
use crate::mm::anon_vmas::NUMBER_BITS;
use crate::mm::page::frame_of_folio;
use crate::mm::page::LockedPage;
use crate::mm::page::PageRef;
use crate::mm::pte::Mapping;
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

/// Bits of an index in an anon_vma: areas at larger ones are left alone.
const INDEX_BITS: u32 = u64::BITS - NUMBER_BITS;
/// Records that need no allocation.
const FEW: usize = 2;
/// The frame of a set that was given up.
const GONE: u64 = u64::MAX;

/// What [`crate::mm::shared`] knows a merged page by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId(u32);

impl SetId {
    /// The name under which the engine knows the page.
    pub(crate) fn name(self) -> Frame {
        Frame(self.0.into())
    }

    /// The set of this name.
    pub(crate) fn of_name(name: Frame) -> Self {
        // Names are made above, of no more bits.
        SetId(name.0 as u32)
    }
}

/// What a folio says of its set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u64);

impl Token {
    /// Generations are such that no index of an anonymous page is a token.
    const GENERATION: u32 = 1 << 31;

    fn new(id: SetId, generation: u32) -> Self {
        Token((u64::from(generation) << u32::BITS) | u64::from(id.0))
    }

    /// That of a folio with this index.
    pub(super) fn of_index(index: u64) -> Self {
        Token(index)
    }

    fn id(self) -> SetId {
        SetId(self.0 as u32)
    }

    /// Whether there is a set of this token.
    pub(super) fn is_known(self) -> bool {
        let _rcu = rcu::read_lock();
        let set = load(self.id());
        // SAFETY: In place, with the RCU read lock held.
        set.is_some_and(|set| unsafe { set.as_ref() }.token(self.id()) == self)
    }

    /// The name of its set; `None` of what is no token. Of a page that is mapped, the set is there.
    #[inline]
    pub(super) fn name(self) -> Option<Frame> {
        let is_token = self.0 >> u32::BITS >= u64::from(Self::GENERATION);
        is_token.then(|| self.id().name())
    }
}

/// A sharer of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Record(u64);

impl Record {
    /// In place of any record where nobody walks.
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

    /// The anon_vma: it stays as long as the record does.
    pub(super) fn anon_vma(self) -> Option<NonNull<bindings::anon_vma>> {
        anon_vmas::at(self.number())
    }

    fn is_unused(self) -> bool {
        let is_unused = |anon_vma: NonNull<bindings::anon_vma>| {
            // SAFETY: Referenced, on behalf of the record.
            unsafe { shim::ksm_v_anon_vma_is_unused(anon_vma.as_ptr()) }
        };
        self.anon_vma().is_some_and(is_unused)
    }
}

/// Few records in place, or where more of them are.
#[derive(Clone, Copy)]
union Records {
    few: [Record; FEW],
    many: *mut Record,
}

/// The sharers of one page, and where it is.
///
/// # Invariants
///
/// `records` has `len` initialised records: in place up to [`FEW`], else in an allocation of as many as the
/// next power of two. They are changed by who holds the lock of the folio on `frame` only.
pub(super) struct Set {
    /// Not 0 while it is in use.
    generation: Atomic<u32>,
    /// Nothing was mapped yet where this is 0.
    len: Atomic<u32>,
    frame: Atomic<u64>,
    records: UnsafeCell<Records>,
}

/// How many sets there are: where that is not 0, the module is in use. It becomes that, and 0 again, under
/// [`IN_USE`] only.
static SETS: Atomic<usize> = Atomic::new(0);

kernel::sync::global_lock! {
    // SAFETY: `init` initialises it, before which the module asks for nothing.
    unsafe(uninit) static IN_USE: Mutex<()> = ();
}

kernel::sync::global_lock! {
    // SAFETY: As above.
    unsafe(uninit) static GIVING_UP: Mutex<()> = ();
}

/// Bytes of records that are not in place.
static BYTES: Atomic<usize> = Atomic::new(0);

/// The generation of the next set.
static GENERATION: Atomic<u32> = Atomic::new(0);

/// Makes the sets ready.
///
/// # Safety
///
/// To be called once, before anything else of this file.
pub(super) unsafe fn init() {
    // SAFETY: Promised by the caller.
    unsafe {
        IN_USE.init();
        GIVING_UP.init();
        anon_vmas::init();
        set_table::init();
    }
    GENERATION.store(crate::mm::random() as u32, Relaxed);
}

/// How many sets there are: the module is in use as long as that is not 0.
pub(crate) fn sets() -> usize {
    SETS.load(Relaxed)
}

/// Changes the count without [`IN_USE`]; false, and nothing done, where it is `edge`: the one from which that
/// would begin or end the use of the module.
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

/// Memory of sets, of records and of what leads to them, in bytes.
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

    /// Of one that is not in use: the number of another such.
    pub(super) fn link(&self) -> u32 {
        self.frame.load(Relaxed) as u32
    }

    /// Sets that.
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
    /// The folio lock must be held for as long as they are borrowed, and none be changed meanwhile.
    pub(super) unsafe fn records(&self) -> &[Record] {
        let len = self.len();
        // SAFETY: Nobody changes them, by the caller's promise and the type invariant.
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
    /// The folio lock must be held, and no records be borrowed.
    unsafe fn push(&self, record: Record) -> Result {
        let len = self.len();
        // SAFETY: As promised by the caller, nobody else uses the records. By the type invariant the
        // allocation, if there is one, has room for the next power of two.
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
        // INVARIANT: One more was just written.
        self.len.store(len as u32 + 1, Relaxed);
        Ok(())
    }

    /// Removes the record of this number, and returns it; the last one takes its place.
    ///
    /// # Safety
    ///
    /// As for [`Self::push`].
    unsafe fn remove(&self, index: usize) -> Option<Record> {
        // SAFETY: As promised by the caller.
        let records = unsafe { self.records() };
        let (&gone, &last) = (records.get(index)?, records.last()?);
        let left = records.len() - 1;
        // SAFETY: As above. Where few are left they are moved into place, and the allocation is freed.
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
        // INVARIANT: One fewer is left, where it belongs.
        self.len.store(left as u32, Relaxed);
        Some(gone)
    }
}

/// Bytes that are allocated for so many records, more than [`FEW`].
fn room(len: usize) -> usize {
    len.next_power_of_two() * size_of::<Record>()
}

/// Has room for more than `len` records, a power of two that is reached.
///
/// # Safety
///
/// `records` has `len` of them, as [`Set`] says.
unsafe fn grow(records: &Records, len: usize) -> Result<*mut Record> {
    let size = room(len + 1);
    // SAFETY: As promised by the caller: in place, or in an allocation of `len`.
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
    // SAFETY: The caller holds the RCU read lock, or knows of a set that is in use.
    set_table::at(id.0).filter(|set| unsafe { set.as_ref() }.is_used())
}

/// The token and the frame of a set.
fn look_up(id: SetId) -> Option<(Token, Frame)> {
    let _rcu = rcu::read_lock();
    // SAFETY: In place, with the RCU read lock held.
    let set = unsafe { load(id)?.as_ref() };
    Some((set.token(id), Frame(set.frame.load(Acquire))))
}

/// Makes the set of a shared page that is new, on `page`, known to nobody else. It is to be given up by
/// [`give_up_new`] where the page gets no sharer.
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
    // SAFETY: In place, as its number was taken, for which nobody else uses it.
    let set = unsafe { set.as_ref() };
    set.len.store(0, Relaxed);
    set.frame.store(page.frame().0, Relaxed);
    set.generation.store(generation, Release);
    page.set_token_index(Token::new(id, generation).0);
    Ok(id)
}

/// The module is in use from the first set on, so that a merged page never lacks what finds its sharers.
fn enter() -> Result {
    if change_sets(0, |count| count + 1) {
        return Ok(());
    }
    let _transition = IN_USE.lock();
    if sets() == 0 {
        // SAFETY: Called by a thread of the module, which is loaded.
        if !unsafe { shim::ksm_v_try_module_get() } {
            return Err(ENODEV);
        }
        // SAFETY: May be called at any time until the module is unloaded, which is in use now.
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
        // SAFETY: The reference is the one that `enter` took. This thread keeps the module in place: who
        // unloads it waits for its threads.
        unsafe { shim::ksm_v_module_put() };
    }
}

/// The merged page of a set, wherever it is now; `None` where it has gone. A page that has just been moved
/// away may be returned: [`of`] tells.
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
        // Where it was moved: the set hears of the new frame before the old one is freed.
        // SAFETY: May be called at any time.
        unsafe { shim::ksm_v_smp_rmb() };
        last = Some(frame);
    }
}

/// The set of a page that is locked; `None` where the page is not, or no longer, on that frame.
pub(super) fn of<'a>(page: &'a LockedPage<'_>) -> Option<&'a Set> {
    let token = page.token()?;
    let _rcu = rcu::read_lock();
    // SAFETY: In place, with the RCU read lock held. And with the folio locked that is on the set's frame,
    // nobody gives it up: see the module.
    let set = unsafe { load(token.id())?.as_ref() };
    let is_its = set.token(token.id()) == token && set.frame.load(Acquire) == page.frame().0;
    is_its.then_some(set)
}

/// As [`of`], of a folio that the kernel walks over; which may be the first that tells of a new frame.
///
/// # Safety
///
/// `folio`, a KSM folio without a stable node, must be referenced and locked for `'a`.
pub(super) unsafe fn of_walked<'a>(folio: NonNull<bindings::folio>) -> Option<&'a Set> {
    // SAFETY: Promised by the caller.
    let (token, frame) = unsafe {
        let index = shim::ksm_v_folio_index(folio.as_ptr()) as u64;
        (Token(index), frame_of_folio(folio))
    };
    let _rcu = rcu::read_lock();
    // SAFETY: As for `of`.
    let set = unsafe { load(token.id())?.as_ref() };
    if set.token(token.id()) != token {
        return None;
    }
    let known = set.frame.load(Acquire);
    if known == frame.0 {
        return Some(set);
    }
    // Who migrates has the old folio locked, and no entry maps it any more. Else it is this folio that is
    // the old one, which nothing maps.
    if known == GONE || is_mapped(Frame(known)) {
        return None;
    }
    let moved = set.frame.cmpxchg(known, frame.0, Full);
    moved.is_ok().then_some(set)
}

/// Whether some entry maps the folio on `frame`.
fn is_mapped(frame: Frame) -> bool {
    PageRef::get(frame).is_some_and(|page| page.mappings() > 0)
}

/// The anon_vma of an area, for some more sharers.
pub(super) struct Base<'a> {
    vma: &'a StableVma<'a>,
    number: Number,
    /// For how many.
    left: Cell<u32>,
}

impl<'a> Base<'a> {
    /// That of `vma`, for so many sharers at the most.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC`: too many are known.
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
        // SAFETY: The area is in place.
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

/// Records a sharer of a page that is locked and has `set`. Returns `None` where it is recorded already.
///
/// # Errors
///
/// `ENOMEM`, `ENOSPC`; `ERANGE`: its index is too large.
///
/// # Safety
///
/// `set` must be that of a page whose folio lock the caller holds, and no record of it be borrowed.
pub(super) unsafe fn add(set: &Set, base: &Base<'_>, addr: usize) -> Result<Option<Record>> {
    if !rmap_ksm::is_redirected() {
        if set.len() > 0 {
            return Ok(None);
        }
        // One says that the page has been mapped.
        // SAFETY: Promised by the caller.
        return unsafe { set.push(Record::NONE) }.map(|()| Some(Record::NONE));
    }
    let record = base.record(addr)?;
    let left = base.left.get().checked_sub(1).ok_or(ENOSPC)?;
    // SAFETY: Promised by the caller.
    unsafe {
        if is_recent(set.records(), record) {
            return Ok(None);
        }
        set.push(record)?;
    }
    base.left.set(left);
    Ok(Some(record))
}

/// Whether a record is among the last few: where a page was written to and merged again.
fn is_recent(records: &[Record], record: Record) -> bool {
    const RECENT: usize = 8;
    records
        .iter()
        .rev()
        .take(RECENT)
        .any(|&other| other == record)
}

/// Takes a record back that [`add`] has just made.
///
/// # Safety
///
/// As for [`add`].
pub(super) unsafe fn take_back(set: &Set, record: Record) {
    // SAFETY: Promised by the caller.
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

/// Gives up a set whose page never got a sharer: does nothing where it did.
pub(super) fn give_up_new(id: SetId) {
    let _alone = GIVING_UP.lock();
    let Some(set) = load(id) else {
        return;
    };
    // SAFETY: Sets are given up under this mutex only.
    if unsafe { set.as_ref() }.len() == 0 {
        // SAFETY: Nobody else knows the page.
        unsafe { free(id, set) };
    }
}

/// How many page table entries map the merged page of a set; `None` where it has gone. Gives the set up
/// then, and otherwise drops records that are surely stale. While the page is moved, which is not to be
/// waited for, it counts as mapped once.
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
    // A new one, which its maker gives up where nothing comes to map it.
    if set.len() == 0 {
        return Some(1);
    }
    if set.frame.cmpxchg(page.frame().0, GONE, Full).is_err() {
        return Some(1);
    }
    page.set_token_index(0);
    let set = NonNull::from(set);
    // SAFETY: Nothing maps the page or will, and nobody finds the set by it any more.
    unsafe { free(id, set) };
    None
}

/// By how many entries the page of a set is mapped, and how many records it has; `None` where that is to be
/// looked at more closely.
fn mapped(id: SetId) -> Option<(u32, usize)> {
    let (mappings, records) = peek(id)?;
    (mappings > 0).then_some((mappings, records))
}

/// Whether the page of a set can't be referenced just now since it is being moved, or swapped out.
pub(super) fn is_on_the_move(id: SetId) -> bool {
    peek(id).is_some()
}

/// What [`mapped`] does, without a reference; `None` where the page has gone.
fn peek(id: SetId) -> Option<(u32, usize)> {
    let _rcu = rcu::read_lock();
    // SAFETY: The RCU read lock is held, which keeps the set in place.
    let set = unsafe { load(id)?.as_ref() };
    let (frame, token) = (set.frame.load(Relaxed), set.token(id));
    // SAFETY: Any frame number may be asked for.
    let mappings = unsafe { shim::ksm_v_merged_mapcount(frame as usize, token.0 as usize) };
    Some((u32::try_from(mappings).ok()?, set.len()))
}

/// Gives up a set whose page has gone, unless that is in the memory of a device.
fn give_up_gone(id: SetId) -> Option<u32> {
    let pointer = {
        let _rcu = rcu::read_lock();
        load(id)?
    };
    // SAFETY: It is in use: sets are given up under the mutex that the caller holds.
    let set = unsafe { pointer.as_ref() };
    // A new one, whose page its maker is making.
    if set.len() == 0 {
        return Some(1);
    }
    let frame = &set.frame;
    let known = frame.load(Acquire);
    // SAFETY: Any frame number may be asked for.
    if unsafe { shim::ksm_v_pfn_is_device(known as usize) } {
        return Some(1);
    }
    if page(id).is_some() || frame.cmpxchg(known, GONE, Full).is_err() {
        return Some(1);
    }
    // SAFETY: There is no folio with its token on its frame, and it has not moved since that was seen.
    unsafe { free(id, pointer) };
    None
}

/// # Safety
///
/// `set` has `id`, was not freed yet, and nobody finds it by a page.
unsafe fn free(id: SetId, set: NonNull<Set>) {
    // SAFETY: Promised by the caller.
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

/// Drops records of a page that has more of them than mappings.
fn drop_stale(page: &PageRef, mappings: usize) {
    let is_too_many = |set: &Set| set.len() > mappings;
    drop_records(page, is_too_many, |page, record| {
        !is_mapped_by(page, record)
    });
}

/// Drops records of a page for which `is_stale`, but for the last one, if `is_to_look` says so.
fn drop_records(
    page: &PageRef,
    is_to_look: impl Fn(&Set) -> bool,
    is_stale: impl Fn(&LockedPage<'_>, Record) -> bool,
) {
    // Most pages have nothing to drop: not locked for that.
    let Some(token) = page.token() else {
        return;
    };
    let is_due = {
        let _rcu = rcu::read_lock();
        // SAFETY: In place, with the RCU read lock held.
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
        // SAFETY: The folio is locked.
        let record = unsafe { set.records() }.get(index).copied();
        if set.len() > 1 && record.is_some_and(|record| is_stale(&locked, record)) {
            // SAFETY: As above.
            unsafe { set.remove(index) }.into_iter().for_each(forget);
        }
    }
}

/// Whether an entry maps the page where a record says so; true where that can't be told.
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

/// Passes until stale records are looked for everywhere.
const SWEEP_EVERY: u32 = 16;

/// Passes that have ended.
static PASSES: Atomic<u32> = Atomic::new(0);

/// Ends a pass: [sweeps](sweep) now and then.
pub(crate) fn end_pass() {
    let passes = PASSES.fetch_add(1, Relaxed);
    if passes % SWEEP_EVERY == SWEEP_EVERY - 1 {
        sweep();
    }
}

/// How long after the last pass, or the last look, it is seen which shared pages have gone, in milliseconds,
/// at the least: when nothing is scanned, nobody else does, and the module would stay in use.
const TIDY_MS: u32 = 10_000;
/// One part of so many of the time is spent on that, at the most.
const TIDY_SHARE: u32 = 100;

/// Sweeps, unless a pass has ended meanwhile. Returns after how many milliseconds to call it again; 0 where
/// there is nothing left.
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

/// Counts all sets, gives up those whose pages have gone, and what no process uses any more: records of
/// exited processes, and anon_vmas without records. May sleep.
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

/// Frees all memory, at the end. No merged page may be left.
pub(super) fn end() {
    sweep();
    anon_vmas::end();
}
