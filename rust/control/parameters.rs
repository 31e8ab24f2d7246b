// SPDX-License-Identifier: GPL-2.0

//! The parameters of the module. `module!` declares them.

use core::borrow::Borrow;
use engine::HashKind;
use kernel::prelude::*;

/// The hash that the value of `bytewise_hash` selects.
///
/// # Errors
///
/// `EINVAL`.
pub(crate) fn hash_kind(bytewise_hash: impl Borrow<u8>) -> Result<HashKind> {
    if switch("bytewise_hash", bytewise_hash)? {
        Ok(HashKind::Bytewise)
    } else {
        Ok(HashKind::Wide)
    }
}

/// Whether the parameter of this name is 1 rather than 0. Kernel 7.2 lends the value of a parameter, 7.3 copies
/// it.
///
/// # Errors
///
/// `EINVAL`.
pub(crate) fn switch(name: &str, value: impl Borrow<u8>) -> Result<bool> {
    match *value.borrow() {
        0 => Ok(false),
        1 => Ok(true),
        other => {
            pr_err!("{name}={other}: must be 0 or 1\n");
            Err(EINVAL)
        }
    }
}
