// SPDX-License-Identifier: GPL-2.0

//! The files of knobs, and the state behind them.

use crate::control::Daemon;
use crate::scan::profile::Settings;
use crate::scan::worker::Threads;
use crate::sys::sysfs::Text;
use core::fmt::Write;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The file of a knob whose values are numbers: `$get` reads the number, and `$set` sets it.
macro_rules! number {
    ($knob:expr, $get:expr, $set:expr $(,)?) => {
        $crate::sys::sysfs::Attribute::read_write(
            $knob.name,
            |scand, text| {
                let get: fn(&$crate::sysfs::file::Scand) -> _ = $get;
                text.line(get(scand))
            },
            |scand, text| {
                let set: fn(&$crate::sysfs::file::Scand, _) -> Result = $set;
                set(scand, $knob.parse(text).ok_or(EINVAL)?)
            },
        )
    };
}

/// The file of a knob whose values are words. `$values` are the meanings of the words, in their order;
/// `$get` reads the value, and `$set` sets it.
macro_rules! choice {
    ($knob:expr, $values:expr, $get:expr, $set:expr $(,)?) => {{
        const _: () = assert!($values.len() == $knob.words().len());
        $crate::sys::sysfs::Attribute::read_write(
            $knob.name,
            |scand, text| {
                let get: fn(&$crate::sysfs::file::Scand) -> _ = $get;
                $crate::sysfs::file::choices(text, &$values, $knob.words(), get(scand))
            },
            |scand, text| {
                let set: fn(&$crate::sysfs::file::Scand, _) -> Result = $set;
                let position: usize = $knob.parse(text).ok_or(EINVAL)?;
                set(scand, *$values.get(position).ok_or(EINVAL)?)
            },
        )
    }};
}

/// The file of a knob whose values are amounts of memory: `$get` reads the amount, and `$set` sets it.
macro_rules! memory {
    ($knob:expr, $get:expr, $set:expr $(,)?) => {
        $crate::sys::sysfs::Attribute::read_write(
            $knob.name,
            |scand, text| {
                let get: fn(&$crate::sysfs::file::Scand) -> ::engine::promise::Floor = $get;
                text.line(get(scand))
            },
            |scand, text| {
                let set: fn(&$crate::sysfs::file::Scand, ::engine::promise::Floor) = $set;
                set(scand, ::engine::promise::Floor::parse(text).ok_or(EINVAL)?);
                Ok(())
            },
        )
    };
}

/// The state behind the files.
pub(super) struct Scand {
    pub(super) threads: Pin<KBox<Threads>>,
    pub(super) daemon: Arc<Daemon>,
}

impl Scand {
    /// The settings of this directory, whether in force or not.
    pub(super) fn own(&self) -> Settings {
        self.daemon.read(|state| state.profiles.own)
    }

    /// Changes the settings of this directory, with immediate effect if they are in force.
    pub(super) fn change(&self, change: impl FnOnce(&mut Settings)) -> Result {
        self.daemon.change(|profiles| change(&mut profiles.own));
        Ok(())
    }
}

/// Writes all names, the chosen one in brackets, like `/sys/kernel/mm/transparent_hugepage` does.
pub(super) fn choices<T: PartialEq>(
    text: &mut Text<'_>,
    values: &[T],
    names: &[&str],
    chosen: T,
) -> Result {
    let mut separator = "";
    for (value, name) in values.iter().zip(names) {
        let (open, close) = if *value == chosen {
            ("[", "]")
        } else {
            ("", "")
        };
        write!(text, "{separator}{open}{name}{close}").map_err(|_| EMSGSIZE)?;
        separator = " ";
    }
    text.line("")
}
