// SPDX-License-Identifier: GPL-2.0

//! Functions and data that the kernel declares but does not export.
//!
//! The table of them, and how they are reached, is in `rust/shim/imports.c`.

use crate::shim;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;

/// Proof that every import can be called. It gives the right to use [`crate::mm`].
#[derive(Clone, Copy)]
pub(crate) struct Imports(());

impl Imports {
    /// Finds every import. Must be called once, when the module is loaded.
    ///
    /// # Errors
    ///
    /// `ENOENT`, after a line in the kernel log that names the first missing symbol.
    pub(crate) fn resolve() -> Result<Self> {
        // SAFETY: Only the `init` of the module calls this, before anything calls an import.
        to_result(unsafe { shim::ksm_v_imports_resolve() })?;
        Ok(Imports(()))
    }

    /// `/sys/kernel/mm`, which is never removed.
    pub(crate) fn mm_kobj(self) -> *mut bindings::kobject {
        // SAFETY: `self` proves that every import was found.
        unsafe { shim::ksm_v_mm_kobj() }
    }
}
