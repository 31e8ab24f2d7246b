// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/mm/ksm_v/compat`: the files of `/sys/kernel/mm/ksm`, for programs written for
//! mainline's KSM.
//!
//! Names, texts, defaults and errors are those of mainline (`mm/ksm.c`). `Documentation/ABI` describes
//! what the files mean here.

use crate::control::Daemon;
use crate::scan::profile::Profile;
use crate::scan::profile::Profiles;
use crate::sys::sysfs::is_privileged;
use crate::sys::sysfs::Attribute;
use crate::sysfs::control::number_of;
use crate::sysfs::control::run_of;
use crate::sysfs::counts::zero_pages;
use crate::sysfs::file::choices;
use engine::advisor::Mode;
use engine::mainline;
use engine::mainline::MainlineSettings;
use engine::parse;
use engine::parse::Misfit;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The state behind the files.
pub(super) type Shared = Arc<Daemon>;

const MODES: [Mode; 2] = [Mode::None, Mode::ScanTime];
const MODE_NAMES: [&str; 2] = ["none", "scan-time"];

/// The file of a setting that is on or off: a field of [`MainlineSettings`].
macro_rules! switch {
    ($name:expr, $field:ident) => {
        Attribute::read_write(
            $name,
            |daemon, text| text.line(u8::from(settings(daemon).$field)),
            |daemon, text| {
                let is_wanted = parse::kstrtobool(text).ok_or(EINVAL)?;
                change(daemon, |mainline| mainline.$field = is_wanted);
                Ok(())
            },
        )
    };
}

/// Number of mainline's files.
const MAINLINES: usize = 23 + cfg!(CONFIG_NUMA) as usize;

/// Mainline's files, with Red Hat's if `has_red_hats`.
pub(super) fn files(has_red_hats: bool) -> &'static [Attribute<Shared>] {
    let count = MAINLINES + usize::from(has_red_hats);
    ATTRIBUTES.get(..count).unwrap_or(&ATTRIBUTES)
}

/// Mainline's files, then Red Hat's.
static ATTRIBUTES: [Attribute<Shared>; MAINLINES + 1] = [
    RUN,
    PAGES_TO_SCAN,
    SLEEP_MILLISECS,
    #[cfg(CONFIG_NUMA)]
    MERGE_ACROSS_NODES,
    MAX_PAGE_SHARING,
    USE_ZERO_PAGES,
    STABLE_NODE_CHAINS_PRUNE_MILLISECS,
    SMART_SCAN,
    ADVISOR_MODE,
    ADVISOR_MAX_CPU,
    ADVISOR_TARGET_SCAN_TIME,
    ADVISOR_MIN_PAGES_TO_SCAN,
    ADVISOR_MAX_PAGES_TO_SCAN,
    FULL_SCANS,
    PAGES_SCANNED,
    PAGES_SHARED,
    PAGES_SHARING,
    PAGES_UNSHARED,
    PAGES_VOLATILE,
    PAGES_SKIPPED,
    KSM_ZERO_PAGES,
    STABLE_NODE_CHAINS,
    STABLE_NODE_DUPS,
    GENERAL_PROFIT,
    REDHAT_ONLY_ZERO_PAGES,
];

const RUN: Attribute<Shared> = Attribute::read_write(
    c"run",
    |daemon, text| text.line(number_of(daemon.run_mode())),
    |daemon, text| daemon.set_run(run_of(number(text, 2)?), Profile::Mainline),
);

const PAGES_TO_SCAN: Attribute<Shared> = Attribute::read_write(
    c"pages_to_scan",
    |daemon, text| text.line(settings(daemon).pages_to_scan()),
    |daemon, text| {
        let pages = number(text, u32::MAX)?;
        change(daemon, |mainline| mainline.set_pages_to_scan(pages)).map_err(|_| EINVAL)
    },
);

const SLEEP_MILLISECS: Attribute<Shared> = Attribute::read_write(
    c"sleep_millisecs",
    |daemon, text| text.line(settings(daemon).sleep_millisecs),
    |daemon, text| {
        let ms = number(text, u32::MAX)?;
        change(daemon, |mainline| mainline.sleep_millisecs = ms);
        Ok(())
    },
);

#[cfg(CONFIG_NUMA)]
const MERGE_ACROSS_NODES: Attribute<Shared> = Attribute::read_write(
    c"merge_across_nodes",
    |daemon, text| text.line(u8::from(settings(daemon).merge_across_nodes)),
    |daemon, text| {
        let is_wanted = match parse::kstrtoul(text, u64::MAX).map_err(errno)? {
            0 => false,
            1 => true,
            _ => return Err(EINVAL),
        };
        daemon.change_unshared(
            |profiles| profiles.mainline.merge_across_nodes == is_wanted,
            |profiles| profiles.mainline.merge_across_nodes = is_wanted,
        )
    },
);

const MAX_PAGE_SHARING: Attribute<Shared> = Attribute::read_write(
    c"max_page_sharing",
    |daemon, text| text.line(settings(daemon).max_page_sharing()),
    |daemon, text| {
        let number = parse::kstrtoint(text).map_err(errno)?;
        let mappings = u32::try_from(number).map_err(|_| EINVAL)?;
        if mappings < 2 {
            return Err(EINVAL);
        }
        daemon.change_unshared(
            |profiles| profiles.mainline.max_page_sharing() == mappings,
            |profiles| profiles.mainline.set_max_page_sharing(mappings),
        )
    },
);

const USE_ZERO_PAGES: Attribute<Shared> = switch!(c"use_zero_pages", use_zero_pages);

const REDHAT_ONLY_ZERO_PAGES: Attribute<Shared> =
    switch!(c"redhat_only_zero_pages", only_zero_pages);

const STABLE_NODE_CHAINS_PRUNE_MILLISECS: Attribute<Shared> = Attribute::read_write(
    c"stable_node_chains_prune_millisecs",
    |daemon, text| text.line(settings(daemon).stable_node_chains_prune_millisecs),
    |daemon, text| {
        let ms = number(text, u32::MAX)?;
        change(daemon, |mainline| {
            mainline.stable_node_chains_prune_millisecs = ms
        });
        Ok(())
    },
);

const SMART_SCAN: Attribute<Shared> = switch!(c"smart_scan", smart_scan);

const ADVISOR_MODE: Attribute<Shared> = Attribute::read_write(
    c"advisor_mode",
    |daemon, text| {
        let mode = settings(daemon).advisor.mode();
        choices(text, &MODES, &MODE_NAMES, mode)
    },
    |daemon, text| {
        let position = parse::streq_word(text, &MODE_NAMES).ok_or(EINVAL)?;
        let mode = *MODES.get(position).ok_or(EINVAL)?;
        change(daemon, |mainline| mainline.set_advisor_mode(mode));
        Ok(())
    },
);

const ADVISOR_MAX_CPU: Attribute<Shared> = Attribute::read_write(
    c"advisor_max_cpu",
    |daemon, text| text.line(settings(daemon).advisor.max_cpu),
    |daemon, text| {
        // As in mainline, the upper bits are lost.
        let percent = long(text)? as u32;
        change(daemon, |mainline| mainline.advisor.max_cpu = percent);
        Ok(())
    },
);

const ADVISOR_TARGET_SCAN_TIME: Attribute<Shared> = Attribute::read_write(
    c"advisor_target_scan_time",
    |daemon, text| text.line(settings(daemon).advisor.target_scan_time()),
    |daemon, text| {
        let seconds = long(text)?;
        if seconds < 1 {
            return Err(EINVAL);
        }
        change(daemon, |mainline| {
            mainline.advisor.set_target_scan_time(seconds)
        });
        Ok(())
    },
);

const ADVISOR_MIN_PAGES_TO_SCAN: Attribute<Shared> = Attribute::read_write(
    c"advisor_min_pages_to_scan",
    |daemon, text| text.line(settings(daemon).advisor.min_pages_to_scan),
    |daemon, text| {
        let pages = long(text)?;
        change(daemon, |mainline| {
            mainline.advisor.min_pages_to_scan = pages
        });
        Ok(())
    },
);

const ADVISOR_MAX_PAGES_TO_SCAN: Attribute<Shared> = Attribute::read_write(
    c"advisor_max_pages_to_scan",
    |daemon, text| text.line(settings(daemon).advisor.max_pages_to_scan),
    |daemon, text| {
        let pages = long(text)?;
        change(daemon, |mainline| {
            mainline.advisor.max_pages_to_scan = pages
        });
        Ok(())
    },
);

const FULL_SCANS: Attribute<Shared> = Attribute::read_only(c"full_scans", |daemon, text| {
    text.line(daemon.counts().passes.full_scans())
});

const PAGES_SCANNED: Attribute<Shared> = Attribute::read_only(c"pages_scanned", |daemon, text| {
    text.line(daemon.counts().ksm.pages_scanned)
});

const PAGES_SHARED: Attribute<Shared> = Attribute::read_only(c"pages_shared", |daemon, text| {
    text.line(daemon.counts_now(is_privileged()).ksm.pages_shared)
});

const PAGES_SHARING: Attribute<Shared> = Attribute::read_only(c"pages_sharing", |daemon, text| {
    text.line(daemon.counts_now(is_privileged()).ksm.pages_sharing)
});

const PAGES_UNSHARED: Attribute<Shared> =
    Attribute::read_only(c"pages_unshared", |daemon, text| {
        text.line(daemon.counts().at_rest)
    });

const PAGES_VOLATILE: Attribute<Shared> =
    Attribute::read_only(c"pages_volatile", |daemon, text| {
        text.line(daemon.counts_now(is_privileged()).pages_volatile)
    });

const PAGES_SKIPPED: Attribute<Shared> = Attribute::read_only(c"pages_skipped", |daemon, text| {
    text.line(daemon.counts().pages_skipped)
});

const KSM_ZERO_PAGES: Attribute<Shared> =
    Attribute::read_only(c"ksm_zero_pages", |_, text| text.line(zero_pages()));

const STABLE_NODE_CHAINS: Attribute<Shared> =
    Attribute::read_only(c"stable_node_chains", |daemon, text| {
        text.line(daemon.copies(is_privileged()).contents)
    });

const STABLE_NODE_DUPS: Attribute<Shared> =
    Attribute::read_only(c"stable_node_dups", |daemon, text| {
        text.line(daemon.copies(is_privileged()).frames)
    });

const GENERAL_PROFIT: Attribute<Shared> =
    Attribute::read_only(c"general_profit", |daemon, text| {
        let counts = daemon.counts_now(is_privileged());
        let saved = counts.ksm.pages_sharing.saturating_add(zero_pages());
        text.line(mainline::general_profit(saved, counts.index_bytes))
    });

/// The settings of these files, whether in force or not.
fn settings(daemon: &Shared) -> MainlineSettings {
    daemon.read(|state| state.profiles.mainline)
}

fn change<T>(daemon: &Shared, change: impl FnOnce(&mut MainlineSettings) -> T) -> T {
    daemon.change(|profiles: &mut Profiles| change(&mut profiles.mainline))
}

fn number(text: &[u8], max: u32) -> Result<u32> {
    let number = parse::kstrtoul(text, max.into()).map_err(|_| EINVAL)?;
    u32::try_from(number).map_err(|_| EINVAL)
}

fn long(text: &[u8]) -> Result<u64> {
    parse::kstrtoul(text, u64::MAX).map_err(|_| EINVAL)
}

/// The error of the files for which mainline distinguishes numbers out of range from other text.
fn errno(misfit: Misfit) -> Error {
    match misfit {
        Misfit::NoNumber => EINVAL,
        Misfit::TooLarge => ERANGE,
    }
}
