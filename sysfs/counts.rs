// SPDX-License-Identifier: GPL-2.0

//! Files that show what the scanner has done.
//!
//! Everybody may read these files. Reads take constant time and return counts as of the last pass, or
//! of the last change of `run`. Readers that may also write to the files get exact counts, for which
//! all shared pages and processes are visited.

use crate::mm::page::splits;
use crate::mm::zero;
use crate::sys::sysfs::is_privileged;
use crate::sys::sysfs::Attribute;
use crate::sysfs::file::Scand;

pub(super) const FULL_SCANS: Attribute<Scand> =
    Attribute::read_only(c"full_scans", |scand, text| {
        text.line(scand.daemon.counts().full_scans)
    });

pub(super) const PAGES_SHARED: Attribute<Scand> =
    Attribute::read_only(c"pages_shared", |scand, text| {
        text.line(scand.daemon.counts_now(is_privileged()).ksm.pages_shared)
    });

pub(super) const PAGES_SHARING: Attribute<Scand> =
    Attribute::read_only(c"pages_sharing", |scand, text| {
        text.line(scand.daemon.counts_now(is_privileged()).ksm.pages_sharing)
    });

pub(super) const PAGES_UNSHARED: Attribute<Scand> =
    Attribute::read_only(c"pages_unshared", |scand, text| {
        text.line(scand.daemon.counts().ksm.pages_unshared)
    });

pub(super) const PAGES_SCANNED: Attribute<Scand> =
    Attribute::read_only(c"pages_scanned", |scand, text| {
        text.line(scand.daemon.counts().ksm.pages_scanned)
    });

pub(super) const PAGES_SKIPPED: Attribute<Scand> =
    Attribute::read_only(c"pages_skipped", |scand, text| {
        text.line(scand.daemon.counts().pages_skipped)
    });

pub(super) const PASS_PAGES: Attribute<Scand> =
    Attribute::read_only(c"pass_pages", |scand, text| {
        text.line(scand.daemon.counts().pass_pages)
    });

pub(super) const LAST_PASS_PAGES: Attribute<Scand> =
    Attribute::read_only(c"last_pass_pages", |scand, text| {
        text.line(scand.daemon.counts().passes.last_seen())
    });

pub(super) const MERGE_RATIO_X100: Attribute<Scand> =
    Attribute::read_only(c"merge_ratio_x100", |scand, text| {
        text.line(
            scand
                .daemon
                .counts_now(is_privileged())
                .ksm
                .merge_ratio_x100,
        )
    });

pub(super) const ZERO_PAGES: Attribute<Scand> =
    Attribute::read_only(c"zero_pages", |_, text| text.line(zero_pages()));

/// Number of zero pages that stand for merged pages. Exact if the reader is privileged, since this
/// visits all processes.
pub(super) fn zero_pages() -> u64 {
    if is_privileged() {
        zero::count()
    } else {
        zero::recent_count()
    }
}

pub(super) const HUGE_PAGES_SPLIT: Attribute<Scand> =
    Attribute::read_only(c"huge_pages_split", |_, text| text.line(splits()));

pub(super) const PROMISE_WORST: Attribute<Scand> =
    Attribute::read_only(c"promise_worst", |scand, text| {
        text.line(scand.daemon.read(|state| state.promise.worst()))
    });

pub(super) const PROMISE_HELD: Attribute<Scand> =
    Attribute::read_only(c"promise_held", |scand, text| {
        text.line(u8::from(scand.daemon.read(|state| state.is_held())))
    });

pub(super) const INDEX_BYTES: Attribute<Scand> =
    Attribute::read_only(c"index_bytes", |scand, text| {
        text.line(scand.daemon.counts().index_bytes)
    });

pub(super) const INDEX_FAILURES: Attribute<Scand> =
    Attribute::read_only(c"index_failures", |scand, text| {
        text.line(scand.daemon.counts().index_failures)
    });

pub(super) const CPU_NS: Attribute<Scand> =
    Attribute::read_only(c"cpu_ns", |scand, text| text.line(scand.threads.cpu_ns()));
