// SPDX-License-Identifier: GPL-2.0

//! The parameters of the module. `module!` declares them.

use engine::HashKind;
use kernel::prelude::*;

/// The hash that the value of `bytewise_hash` selects.
///
/// # Errors
///
/// `EINVAL`.
pub(crate) fn hash_kind(bytewise_hash: u8) -> Result<HashKind> {
    match bytewise_hash {
        0 => Ok(HashKind::Wide),
        1 => Ok(HashKind::Bytewise),
        other => {
            pr_err!("bytewise_hash={other}: must be 0 or 1\n");
            Err(EINVAL)
        }
    }
}
