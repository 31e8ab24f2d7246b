// SPDX-License-Identifier: GPL-2.0

//! Files that control what the scanner does, and how fast.

use crate::mm::movable;
use crate::mm::process;
use crate::scan::profile::Profile;
use crate::scan::state::RunMode;
use crate::sys::sysfs::Attribute;
use crate::sysfs::file::Scand;
use engine::huge::SplitRule;
use engine::knobs;
use engine::pace::Governor;
use kernel::prelude::*;

/// The meaning of a number written to `run`.
pub(super) fn run_of(number: u32) -> RunMode {
    match number {
        0 => RunMode::Stop,
        1 => RunMode::Merge,
        _ => RunMode::Unmerge,
    }
}

/// The number that `run` shows.
pub(super) fn number_of(run: RunMode) -> u32 {
    match run {
        RunMode::Stop => 0,
        RunMode::Merge => 1,
        RunMode::Unmerge => 2,
    }
}

pub(super) const RUN: Attribute<Scand> = number!(
    knobs::RUN,
    |scand| number_of(scand.daemon.run_mode()),
    |scand, number| scand.daemon.set_run(run_of(number), Profile::Own),
);

pub(super) const PROFILE: Attribute<Scand> = Attribute::read_only(c"profile", |scand, text| {
    text.line(match scand.daemon.read(|state| state.profiles.chosen) {
        Profile::Own => "own",
        Profile::Mainline => "compat",
    })
});

pub(super) const SCAN_RATE: Attribute<Scand> = number!(
    knobs::SCAN_RATE,
    |scand| scand.own().engine.scan_rate(),
    |scand, pages| scand.change(|own| own.engine.set_scan_rate(pages)),
);

pub(super) const SLEEP_MS: Attribute<Scand> = number!(
    knobs::SLEEP_MS,
    |scand| scand.own().engine.sleep_ms(),
    |scand, ms| scand.change(|own| own.engine.set_sleep_ms(ms)),
);

pub(super) const PROMOTE_AFTER: Attribute<Scand> = number!(
    knobs::PROMOTE_AFTER,
    |scand| scand.own().engine.promote_after(),
    |scand, sightings| scand.change(|own| own.engine.set_promote_after(sightings)),
);

pub(super) const MAX_PAGE_SHARING: Attribute<Scand> = number!(
    knobs::MAX_PAGE_SHARING,
    |scand| scand.own().engine.max_page_sharing(),
    |scand, mappings| scand.change(|own| own.engine.set_max_page_sharing(mappings)),
);

pub(super) const MOVABLE: Attribute<Scand> = number!(
    knobs::MOVABLE,
    |_| u8::from(movable::is_movable()),
    |scand, is_wanted: u32| scand.daemon.set_movable(is_wanted == 1),
);

pub(super) const MAX_INTERVAL: Attribute<Scand> = number!(
    knobs::MAX_INTERVAL,
    |scand| scand.own().engine.max_interval(),
    |scand, passes| scand.change(|own| own.engine.set_max_interval(passes)),
);

pub(super) const HUGE_MIN_PARTS: Attribute<Scand> = number!(
    knobs::HUGE_MIN_PARTS,
    |scand| scand.own().split.min_parts(),
    |scand, parts| scand.change(|own| own.split = SplitRule::at_least(parts)),
);

pub(super) const MAX_CPU: Attribute<Scand> = number!(
    knobs::MAX_CPU,
    |scand| scand.daemon.read(|state| state.pacer.max_cpu()),
    |scand, percent| {
        scand.daemon.set_max_cpu(percent);
        Ok(())
    },
);

pub(super) const GOVERNOR: Attribute<Scand> = choice!(
    knobs::GOVERNOR,
    [Governor::Manual, Governor::Auto],
    |scand| scand.own().governor,
    |scand, governor| scand.change(|own| own.governor = governor),
);

pub(super) const THREADS: Attribute<Scand> = number!(
    knobs::THREADS,
    |scand| scand.threads.count(),
    |scand, count| scand.threads.set_count(count),
);

pub(super) const PROMISE_FLOOR: Attribute<Scand> = memory!(
    knobs::PROMISE_FLOOR,
    |scand| scand.daemon.read(|state| state.promise.floor()),
    |scand, floor| scand.daemon.set_promise_floor(floor),
);

pub(super) const PROMISE_SWAP: Attribute<Scand> = number!(
    knobs::PROMISE_SWAP,
    |scand| u8::from(scand.daemon.read(|state| state.promise.is_swap_counted())),
    |scand, is_counted: u32| {
        scand.daemon.set_promise_swap(is_counted == 1);
        Ok(())
    },
);

pub(super) const MERGE_NOW: Attribute<Scand> =
    Attribute::write_only(c"merge_now", |scand, text| {
        let part = engine::parse::process_part(text).ok_or(EINVAL)?;
        let mm = process::find(part.pid).ok_or(ESRCH)?;
        let result = scand.daemon.merge_now(&mm, part.range);
        if result == Err(EPERM) {
            let (pid, objection) = (part.pid, scand.daemon.objection(&mm));
            pr_info!("merge_now: process {pid} may not be merged: {objection}\n");
        }
        result
    });
