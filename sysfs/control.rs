// SPDX-License-Identifier: GPL-2.0

//! Files that control what the scanner does, and how fast.

use super::choice;
use super::choices;
use super::number;
use super::Scand;
use crate::mm::process;
use crate::mm::shared;
use crate::scan::profile::Profile;
use crate::scan::profile::Settings;
use crate::scan::state::RunMode;
use crate::scan::MOST_THREADS;
use crate::sys::sysfs::Attribute;
use engine::pace::Governor;
use engine::region::LONGEST_INTERVAL;
use engine::settings::MOST_PAGE_SHARING;
use kernel::prelude::*;

/// The settings of this directory, whether in force or not.
pub(super) fn own(scand: &Scand) -> Settings {
    scand.daemon.read(|state| state.profiles.own)
}

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

pub(super) const RUN: Attribute<Scand> = Attribute::read_write(
    c"run",
    |scand, text| text.line(number_of(scand.daemon.run_mode())),
    |scand, text| {
        let run = run_of(number(text, 2)?);
        scand.daemon.set_run(run, Profile::Own)
    },
);

pub(super) const PROFILE: Attribute<Scand> = Attribute::read_only(c"profile", |scand, text| {
    text.line(match scand.daemon.read(|state| state.profiles.chosen) {
        Profile::Own => "own",
        Profile::Mainline => "compat",
    })
});

pub(super) const SCAN_RATE: Attribute<Scand> = Attribute::read_write(
    c"scan_rate",
    |scand, text| text.line(own(scand).engine.scan_rate()),
    |scand, text| {
        let pages = number(text, u32::MAX)?;
        scand
            .daemon
            .change(|profiles| profiles.own.engine.set_scan_rate(pages));
        Ok(())
    },
);

pub(super) const SLEEP_MS: Attribute<Scand> = Attribute::read_write(
    c"sleep_ms",
    |scand, text| text.line(own(scand).engine.sleep_ms()),
    |scand, text| {
        let ms = number(text, u32::MAX)?;
        scand
            .daemon
            .change(|profiles| profiles.own.engine.set_sleep_ms(ms));
        Ok(())
    },
);

pub(super) const PROMOTE_AFTER: Attribute<Scand> = Attribute::read_write(
    c"promote_after",
    |scand, text| text.line(own(scand).engine.promote_after()),
    |scand, text| {
        let sightings = u8::try_from(number(text, u8::MAX.into())?).map_err(|_| EINVAL)?;
        if sightings == 0 {
            return Err(EINVAL);
        }
        scand
            .daemon
            .change(|profiles| profiles.own.engine.set_promote_after(sightings));
        Ok(())
    },
);

pub(super) const MAX_PAGE_SHARING: Attribute<Scand> = Attribute::read_write(
    c"max_page_sharing",
    |scand, text| text.line(own(scand).engine.max_page_sharing()),
    |scand, text| {
        let mappings = number(text, MOST_PAGE_SHARING)?;
        if mappings < 2 {
            return Err(EINVAL);
        }
        scand
            .daemon
            .change(|profiles| profiles.own.engine.set_max_page_sharing(mappings));
        Ok(())
    },
);

pub(super) const MOVABLE: Attribute<Scand> = Attribute::read_write(
    c"movable",
    |_, text| text.line(u8::from(shared::is_movable())),
    |scand, text| scand.daemon.set_movable(number(text, 1)? == 1),
);

pub(super) const MAX_INTERVAL: Attribute<Scand> = Attribute::read_write(
    c"max_interval",
    |scand, text| text.line(own(scand).engine.max_interval()),
    |scand, text| {
        let passes = u8::try_from(number(text, LONGEST_INTERVAL.into())?).map_err(|_| EINVAL)?;
        if !passes.is_power_of_two() {
            return Err(EINVAL);
        }
        scand
            .daemon
            .change(|profiles| profiles.own.engine.set_max_interval(passes));
        Ok(())
    },
);

pub(super) const MAX_CPU: Attribute<Scand> = Attribute::read_write(
    c"max_cpu",
    |scand, text| text.line(scand.daemon.read(|state| state.pacer.max_cpu())),
    |scand, text| {
        let percent = u8::try_from(number(text, 100)?).map_err(|_| EINVAL)?;
        if percent == 0 {
            return Err(EINVAL);
        }
        scand
            .daemon
            .change_pacer(|pacer| pacer.set_max_cpu(percent));
        Ok(())
    },
);

const GOVERNORS: [Governor; 2] = [Governor::Manual, Governor::Auto];
const GOVERNOR_NAMES: [&str; 2] = ["manual", "auto"];

pub(super) const GOVERNOR: Attribute<Scand> = Attribute::read_write(
    c"governor",
    |scand, text| {
        let governor = own(scand).governor;
        choices(text, &GOVERNORS, &GOVERNOR_NAMES, governor)
    },
    |scand, text| {
        let governor = choice(text, &GOVERNORS, &GOVERNOR_NAMES)?;
        scand
            .daemon
            .change(|profiles| profiles.own.governor = governor);
        Ok(())
    },
);

pub(super) const THREADS: Attribute<Scand> = Attribute::read_write(
    c"threads",
    |scand, text| text.line(scand.threads.count()),
    |scand, text| {
        let count = number(text, MOST_THREADS)? as usize;
        if count == 0 {
            return Err(EINVAL);
        }
        scand.threads.set_count(count)
    },
);

pub(super) const MERGE_NOW: Attribute<Scand> =
    Attribute::write_only(c"merge_now", |scand, text| {
        let region = engine::parse::region(text).ok_or(EINVAL)?;
        let mm = process::find(region.pid).ok_or(ESRCH)?;
        scand.daemon.merge_now(&mm, region.range)
    });
