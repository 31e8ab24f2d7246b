// SPDX-License-Identifier: GPL-2.0

//! Files that control what the scanner may merge: `scope` and `domain`.

use super::choice;
use super::choices;
use super::control::own;
use super::Scand;
use crate::mm::policy::Division;
use crate::mm::policy::Scope;
use crate::sys::sysfs::Attribute;

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
        let scope = own(scand).scope;
        choices(text, &SCOPES, &SCOPE_NAMES, scope)
    },
    |scand, text| {
        let scope = choice(text, &SCOPES, &SCOPE_NAMES)?;
        scand
            .daemon
            .change_closed(|profiles| profiles.own.scope = scope)
    },
);

pub(super) const DOMAIN: Attribute<Scand> = Attribute::read_write(
    c"domain",
    |scand, text| {
        let division = scand.daemon.read(|state| state.policy.division);
        choices(text, &DIVISIONS, &DIVISION_NAMES, division)
    },
    |scand, text| {
        let division = choice(text, &DIVISIONS, &DIVISION_NAMES)?;
        scand.daemon.set_division(division)
    },
);
