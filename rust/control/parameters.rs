// SPDX-License-Identifier: GPL-2.0

//! The parameters of the module. `module!` declares them.

use core::borrow::Borrow;
use engine::HashKind;
use kernel::prelude::*;

/// The hash that the value of `bytewise_hash` selects. Kernel 7.2 lends the value of a parameter, 7.3 copies it.
///
/// # Errors
///
/// `EINVAL`.
pub(crate) fn hash_kind(bytewise_hash: impl Borrow<u8>) -> Result<HashKind> {
    match *bytewise_hash.borrow() {
        0 => Ok(HashKind::Wide),
        1 => Ok(HashKind::Bytewise),
        other => {
            pr_err!("bytewise_hash={other}: must be 0 or 1\n");
            Err(EINVAL)
        }
    }
}
