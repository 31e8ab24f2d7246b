// SPDX-License-Identifier: GPL-2.0

//! Files that control what the scanner may merge: `scope`, `domain`, `undumpable` and `content`.

use crate::mm::policy::Division;
use crate::mm::policy::Scope;
use crate::mm::policy::Undumpable;
use crate::scan::profile::Contents;
use crate::sys::sysfs::Attribute;
use crate::sysfs::file::Scand;
use engine::knobs;
use kernel::prelude::*;

pub(super) const SCOPE: Attribute<Scand> = choice!(
    knobs::SCOPE,
    [Scope::All, Scope::Registered],
    |scand| scand.own().scope,
    |scand, scope| scand.daemon.set_scope(scope),
);

pub(super) const DOMAIN: Attribute<Scand> = choice!(
    knobs::DOMAIN,
    [
        Division::User,
        Division::Process,
        Division::Cgroup,
        Division::Global,
    ],
    |scand| scand.daemon.read(|state| state.policy.division),
    |scand, division| scand.daemon.set_division(division),
);

pub(super) const UNDUMPABLE: Attribute<Scand> = choice!(
    knobs::UNDUMPABLE,
    [Undumpable::Siblings, Undumpable::Leave],
    |scand| scand.daemon.read(|state| state.policy.undumpable),
    |scand, undumpable| scand.daemon.set_undumpable(undumpable),
);

pub(super) const CONTENT: Attribute<Scand> = choice!(
    knobs::CONTENT,
    [Contents::All, Contents::Zero],
    |scand| scand.own().contents,
    |scand, contents| scand.change(|own| own.contents = contents),
);
