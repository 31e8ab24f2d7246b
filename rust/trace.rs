// SPDX-License-Identifier: GPL-2.0

//! Hits the tracepoints, `events/ksm_v` in tracefs: one function for each.
//!
//! C header: `rust/shim/trace.h`; what they say is described in `Documentation/tracing.md`. One that
//! nobody traces costs an instruction that does nothing (a static branch): arguments are only made
//! out where it is traced. All may be hit in any context.

use crate::mm::page::PageRef;
use crate::mm::refusal::Refusal;
use crate::mm::shared;
use crate::shim;
use engine::pace::Cause;
use engine::pace::Totals;
use engine::Frame;
use engine::KsmStats;
use engine::Target;
use kernel::mm::Mm;
use kernel::prelude::*;

/// Has a tracepoint hit with these arguments, if somebody traces it.
macro_rules! hit {
    ($event:ident($($argument:expr),* $(,)?)) => {{
        #[cfg(CONFIG_TRACEPOINTS)]
        kernel::macros::paste! {
            // SAFETY: The key is that of a tracepoint of this module, which C defines.
            let is_traced = unsafe {
                kernel::jump_label::static_branch_unlikely!(
                    shim::[<__tracepoint_ $event>],
                    kernel::bindings::tracepoint,
                    key
                )
            };
            if is_traced {
                // SAFETY: The arguments are values, and an address space that the caller keeps.
                unsafe { shim::[<rust_do_trace_ $event>]($($argument),*) };
            }
        }
        // There are none in this kernel.
        #[cfg(not(CONFIG_TRACEPOINTS))]
        let _ = || ($($argument),*);
    }};
}

/// Who has pages unmerged.
#[derive(Clone, Copy)]
pub(crate) enum UnmergeCause {
    /// A write of 2 to `run`.
    Run,
    /// Memory is to go offline.
    Offline,
}

/// Pass number `pass` begins.
#[inline(always)]
pub(crate) fn start_scan(pass: u64) {
    hit!(ksm_v_start_scan(pass));
}

/// Pass number `pass` has ended, in which so much was done since the last one.
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

/// The entry at `addr` of an address space, which mapped `page`, maps `shared` now.
#[inline(always)]
pub(crate) fn merge(mm: &Mm, addr: usize, page: &PageRef, shared: &PageRef) {
    hit!(ksm_v_merge(
        mm.as_raw(),
        addr,
        number(page.frame()),
        number(shared.frame())
    ));
}

/// As [`merge`], of the zero page.
#[inline(always)]
pub(crate) fn merge_zero(mm: &Mm, addr: usize, page: &PageRef) {
    hit!(ksm_v_merge_zero(mm.as_raw(), addr, number(page.frame())));
}

/// The kernel is about to copy the merged page on `frame`, or a page of zeros that stands for one, for
/// whoever writes there, or wants the page to himself without writing.
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

/// The page that was seen on `frame`, at `addr` of an address space, was not merged with the target.
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

/// So many merged pages of an address space were broken apart; all of them, unless there is an error.
#[inline(always)]
pub(crate) fn unmerge(mm: &Mm, pages: u64, result: Result) {
    hit!(ksm_v_unmerge(mm.as_raw(), pages, errno(result)));
}

/// Unmerging pages in all address spaces has ended.
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

/// After pass number `pass` the governor chose a share of one CPU, in percent, for each thread.
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

/// The frame of a target, at this moment.
fn frame_of(target: Target) -> Frame {
    match target {
        Target::Shared(name) => shared::frame_of(name),
        Target::Twin(frame) => frame,
    }
}

/// The number of a frame, as C has it.
fn number(frame: Frame) -> usize {
    frame.0 as usize
}

/// 0, or a negative error number.
fn errno(result: Result) -> i32 {
    result.map_or_else(|error| error.to_errno(), |()| 0)
}
