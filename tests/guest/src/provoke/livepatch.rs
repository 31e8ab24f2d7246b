// SPDX-License-Identifier: GPL-2.0

//! A livepatch of a function that the module also redirects: the module `ksm_v_livepatch`
//! (`tests/provoke/ksm_v_livepatch.c`).

use std::fs;
use std::io;
use std::path::Path;

use crate::ksm_v::module;
use crate::process::task;

const NAME: &str = "ksm_v_livepatch";
const FILE: &str = "ksm_v_livepatch.ko";

/// Keeps the function patched while it exists.
#[derive(Debug)]
pub struct Livepatch(());

impl Livepatch {
    /// Returns whether the guest has the livepatch module.
    pub fn exists() -> bool {
        Path::new(FILE).exists()
    }

    /// Enables the livepatch and returns the result.
    pub fn new() -> io::Result<Self> {
        module::load_file(FILE, "")?;
        Ok(Livepatch(()))
    }
}

impl Drop for Livepatch {
    fn drop(&mut self) {
        // This file exists only in kernels with livepatch support.
        let _ = fs::write(format!("/sys/kernel/livepatch/{NAME}/enabled"), "0");
        // The module stays in use until no task runs the patched function.
        let unload = || module::unload_named(NAME).is_ok();
        if !task::wait_until(task::PATIENCE, unload) {
            eprintln!("{NAME} is still loaded");
        }
    }
}
