// SPDX-License-Identifier: GPL-2.0

//! The tracepoints under `events/ksm_v` in tracefs: one function for each.
//!
//! C header: `rust/shim/trace.h`. `Documentation/tracing.md` describes the events.
//!
//! A disabled tracepoint costs one no-op instruction (a static branch): its arguments are computed only
//! while it is enabled. All tracepoints may be hit in any context.

use crate::mm::page::PageRef;
use crate::mm::refusal::Refusal;
use crate::mm::shared;
use crate::shim;
use engine::pace::Cause;
use engine::pace::Totals;
use engine::promise::Balance;
use engine::Frame;
use engine::KsmStats;
use engine::Target;
use kernel::mm::Mm;
use kernel::prelude::*;

/// Hits a tracepoint with these arguments, if it is enabled.
macro_rules! hit {
    ($event:ident($($argument:expr),* $(,)?)) => {{
        #[cfg(CONFIG_TRACEPOINTS)]
        kernel::macros::paste! {
            // SAFETY: `key` is the static key of `__tracepoint_$event`, a static variable that the C
            // part of this module defines, so it is valid for as long as this code can run.
            let is_traced = unsafe {
                kernel::jump_label::static_branch_unlikely!(
                    shim::[<__tracepoint_ $event>],
                    kernel::bindings::tracepoint,
                    key
                )
            };
            if is_traced {
                // SAFETY: All arguments are plain values, except for a pointer to an address space. The
                // caller borrows it for the whole call, so the pointer is valid.
                unsafe { shim::[<rust_do_trace_ $event>]($($argument),*) };
            }
        }
        // This kernel has no tracepoints. The closure only marks the arguments as used.
        #[cfg(not(CONFIG_TRACEPOINTS))]
        let _ = || ($($argument),*);
    }};
}

/// The reason why pages are unmerged.
#[derive(Clone, Copy)]
pub(crate) enum UnmergeCause {
    /// A write of 2 to `run`.
    Run,
    /// Memory is going offline.
    Offline,
}

/// Pass number `pass` begins.
#[inline(always)]
pub(crate) fn start_scan(pass: u64) {
    hit!(ksm_v_start_scan(pass));
}

/// Pass number `pass` has ended; `done` counts what it did.
#[inline(always)]
pub(crate) fn stop_scan(pass: u64, done: Totals, stats: &KsmStats) {
    hit!(ksm_v_stop_scan(
        pass,
        done.scanned,
        done.merged,
        stats.pages_shared,
        stats.pages_sharing
    ));
}

/// The page table entry at `addr` of an address space mapped `page` and now maps `shared`.
#[inline(always)]
pub(crate) fn merge(mm: &Mm, addr: usize, page: &PageRef, shared: &PageRef) {
    hit!(ksm_v_merge(
        mm.as_raw(),
        addr,
        number(page.frame()),
        number(shared.frame())
    ));
}

/// Like [`merge`], for a page that was merged with the zero page.
#[inline(always)]
pub(crate) fn merge_zero(mm: &Mm, addr: usize, page: &PageRef) {
    hit!(ksm_v_merge_zero(mm.as_raw(), addr, number(page.frame())));
}

/// The kernel is about to copy the merged page on `frame`, or the zero page if `is_zero`: for a write
/// to it, or for a caller that needs a page of its own without writing.
#[inline(always)]
pub(crate) fn break_apart(mm: &Mm, addr: usize, frame: Frame, is_zero: bool, is_write: bool) {
    hit!(ksm_v_break(
        mm.as_raw(),
        addr,
        number(frame),
        is_zero,
        if is_write {
            shim::ksm_v_break_cause_KSM_V_BREAK_WRITE
        } else {
            shim::ksm_v_break_cause_KSM_V_BREAK_UNSHARE
        }
    ));
}

/// The page seen on `frame`, at `addr` of an address space, was not merged with `target`.
#[inline(always)]
pub(crate) fn refuse(mm: &Mm, addr: usize, frame: Frame, target: Option<Target>, refusal: Refusal) {
    hit!(ksm_v_refuse(
        mm.as_raw(),
        addr,
        number(frame),
        target.map_or(0, |target| number(frame_of(target))),
        refusal as u32
    ));
}

/// `pages` merged pages of an address space were unmerged; without an error, these are all of them.
#[inline(always)]
pub(crate) fn unmerge(mm: &Mm, pages: u64, result: Result) {
    hit!(ksm_v_unmerge(mm.as_raw(), pages, errno(result)));
}

/// Unmerging in all address spaces has ended.
#[inline(always)]
pub(crate) fn unmerge_end(cause: UnmergeCause, result: Result) {
    hit!(ksm_v_unmerge_end(
        match cause {
            UnmergeCause::Run => shim::ksm_v_unmerge_cause_KSM_V_UNMERGE_RUN,
            UnmergeCause::Offline => shim::ksm_v_unmerge_cause_KSM_V_UNMERGE_OFFLINE,
        },
        errno(result)
    ));
}

/// After pass number `pass`, the governor chose this share of one CPU, in percent, for each thread.
#[inline(always)]
pub(crate) fn pace(pass: u64, share: u8, previous: u8, cause: Cause) {
    hit!(ksm_v_pace(
        pass,
        u32::from(share),
        u32::from(previous),
        match cause {
            Cause::Rich => shim::ksm_v_pace_cause_KSM_V_PACE_RICH,
            Cause::Short => shim::ksm_v_pace_cause_KSM_V_PACE_SHORT,
            Cause::Steady => shim::ksm_v_pace_cause_KSM_V_PACE_STEADY,
            Cause::Poor => shim::ksm_v_pace_cause_KSM_V_PACE_POOR,
        }
    ));
}

/// By these amounts, further merges are held from now on, or go on.
#[inline(always)]
pub(crate) fn promise(balance: Balance) {
    hit!(ksm_v_promise(
        balance.is_held(),
        balance.available,
        balance.wanted
    ));
}

/// The current frame of a target.
fn frame_of(target: Target) -> Frame {
    match target {
        Target::Shared(name) => shared::frame_of(name),
        Target::Twin(frame) => frame,
    }
}

/// The frame number as C's `unsigned long`.
fn number(frame: Frame) -> usize {
    frame.0 as usize
}

/// 0, or a negative error number.
fn errno(result: Result) -> i32 {
    result.map_or_else(|error| error.to_errno(), |()| 0)
}
