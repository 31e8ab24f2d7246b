// SPDX-License-Identifier: GPL-2.0

//! What the scanner does, and how fast.

use super::choice;
use super::choices;
use super::number;
use super::Scand;
use crate::commons::Run;
use crate::commons::MOST_THREADS;
use crate::mm::process;
use crate::sys::sysfs::Attribute;
use engine::pace::Governor;
use engine::region::LONGEST_INTERVAL;
use kernel::prelude::*;

pub(super) const RUN: Attribute<Scand> = Attribute::read_write(
    c"run",
    |scand, text| {
        text.line(match scand.daemon().run_state() {
            Run::Stop => 0,
            Run::Merge => 1,
            Run::Unmerge => 2,
        })
    },
    |scand, text| {
        scand.daemon().set_run(match number(text, 2)? {
            0 => Run::Stop,
            1 => Run::Merge,
            _ => Run::Unmerge,
        })
    },
);

pub(super) const SCAN_RATE: Attribute<Scand> = Attribute::read_write(
    c"scan_rate",
    |scand, text| text.line(scand.daemon().read(|state| state.engine.scan_rate())),
    |scand, text| {
        let pages = number(text, u32::MAX)?;
        scand
            .daemon()
            .change(|state| state.engine.set_scan_rate(pages));
        Ok(())
    },
);

pub(super) const SLEEP_MS: Attribute<Scand> = Attribute::read_write(
    c"sleep_ms",
    |scand, text| text.line(scand.daemon().read(|state| state.engine.sleep_ms())),
    |scand, text| {
        let ms = number(text, u32::MAX)?;
        scand.daemon().change(|state| state.engine.set_sleep_ms(ms));
        Ok(())
    },
);

pub(super) const PROMOTE_AFTER: Attribute<Scand> = Attribute::read_write(
    c"promote_after",
    |scand, text| text.line(scand.daemon().read(|state| state.engine.promote_after())),
    |scand, text| {
        let sightings = u8::try_from(number(text, u8::MAX.into())?).map_err(|_| EINVAL)?;
        if sightings == 0 {
            return Err(EINVAL);
        }
        scand
            .daemon()
            .change(|state| state.engine.set_promote_after(sightings));
        Ok(())
    },
);

pub(super) const MAX_PAGE_SHARING: Attribute<Scand> = Attribute::read_write(
    c"max_page_sharing",
    |scand, text| text.line(scand.daemon().read(|state| state.engine.max_page_sharing())),
    |scand, text| {
        let mappings = number(text, i32::MAX.unsigned_abs())?;
        if mappings < 2 {
            return Err(EINVAL);
        }
        scand
            .daemon()
            .change(|state| state.engine.set_max_page_sharing(mappings));
        Ok(())
    },
);

pub(super) const MAX_INTERVAL: Attribute<Scand> = Attribute::read_write(
    c"max_interval",
    |scand, text| text.line(scand.daemon().read(|state| state.engine.max_interval())),
    |scand, text| {
        let passes = u8::try_from(number(text, LONGEST_INTERVAL.into())?).map_err(|_| EINVAL)?;
        if !passes.is_power_of_two() {
            return Err(EINVAL);
        }
        scand
            .daemon()
            .change(|state| state.engine.set_max_interval(passes));
        Ok(())
    },
);

pub(super) const MAX_CPU: Attribute<Scand> = Attribute::read_write(
    c"max_cpu",
    |scand, text| text.line(scand.daemon().read(|state| state.pacer.max_cpu())),
    |scand, text| {
        let percent = u8::try_from(number(text, 100)?).map_err(|_| EINVAL)?;
        if percent == 0 {
            return Err(EINVAL);
        }
        scand
            .daemon()
            .change_pacer(|pacer| pacer.set_max_cpu(percent));
        Ok(())
    },
);

const GOVERNORS: [Governor; 2] = [Governor::Manual, Governor::Auto];
const GOVERNOR_NAMES: [&str; 2] = ["manual", "auto"];

pub(super) const GOVERNOR: Attribute<Scand> = Attribute::read_write(
    c"governor",
    |scand, text| {
        let governor = scand.daemon().read(|state| state.pacer.governor());
        choices(text, &GOVERNORS, &GOVERNOR_NAMES, governor)
    },
    |scand, text| {
        let governor = choice(text, &GOVERNORS, &GOVERNOR_NAMES)?;
        scand
            .daemon()
            .change_pacer(|pacer| pacer.set_governor(governor));
        Ok(())
    },
);

pub(super) const THREADS: Attribute<Scand> = Attribute::read_write(
    c"threads",
    |scand, text| text.line(scand.count()),
    |scand, text| {
        let count = number(text, MOST_THREADS)? as usize;
        if count == 0 {
            return Err(EINVAL);
        }
        scand.set_count(count)
    },
);

pub(super) const MERGE_NOW: Attribute<Scand> =
    Attribute::write_only(c"merge_now", |scand, text| {
        let region = engine::parse::region(text).ok_or(EINVAL)?;
        let mm = process::find(region.pid).ok_or(ESRCH)?;
        scand.daemon().merge_now(&mm, region.range)
    });
