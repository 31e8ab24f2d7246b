// SPDX-License-Identifier: GPL-2.0

//! What the scanner may merge: `scope`, `domain`.

use super::Scand;
use crate::mm::policy::Division;
use crate::mm::policy::Scope;
use crate::sys::sysfs::Attribute;
use crate::sys::sysfs::Text;
use core::fmt::Write;
use kernel::prelude::*;

const SCOPES: [Scope; 2] = [Scope::All, Scope::Registered];
const SCOPE_NAMES: [&str; 2] = ["all", "registered"];

const DIVISIONS: [Division; 4] = [
    Division::User,
    Division::Process,
    Division::Cgroup,
    Division::Global,
];
const DIVISION_NAMES: [&str; 4] = ["user", "process", "cgroup", "global"];

pub(super) const SCOPE: Attribute<Scand> = Attribute::read_write(
    c"scope",
    |scand, text| {
        let scope = scand.body().read(|scanner| scanner.policy().scope);
        choices(text, &SCOPES, &SCOPE_NAMES, scope)
    },
    |scand, text| {
        let scope = choice(text, &SCOPES, &SCOPE_NAMES)?;
        scand.body().change_policy(|policy| policy.scope = scope)
    },
);

pub(super) const DOMAIN: Attribute<Scand> = Attribute::read_write(
    c"domain",
    |scand, text| {
        let division = scand.body().read(|scanner| scanner.policy().division);
        choices(text, &DIVISIONS, &DIVISION_NAMES, division)
    },
    |scand, text| {
        let division = choice(text, &DIVISIONS, &DIVISION_NAMES)?;
        scand
            .body()
            .change_policy(|policy| policy.division = division)
    },
);

/// Writes all names, the chosen one in brackets, as `/sys/kernel/mm/transparent_hugepage` does.
fn choices<T: PartialEq>(text: &mut Text<'_>, values: &[T], names: &[&str], chosen: T) -> Result {
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

/// The value whose name is written.
fn choice<T: Copy>(text: &[u8], values: &[T], names: &[&str]) -> Result<T> {
    let position = engine::parse::word(text, names).ok_or(EINVAL)?;
    values.get(position).copied().ok_or(EINVAL)
}
