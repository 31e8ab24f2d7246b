// SPDX-License-Identifier: GPL-2.0

//! Kernel same-page merging as a loadable module.
//!
//! Finds private anonymous pages with equal content in all processes, and maps each set of them to one
//! shared page. The kernel's own copy-on-write breaks the sharing when a process writes.
//!
//! - [`engine`]: decides what to merge with what; knows no kernel types (a crate of its own)
//! - [`scan`]: the pipeline: workers take turns, gather pages, ask the engine, and merge
//! - [`mm`]: finds pages, merges and unmerges them; the unsafe layer
//! - [`control`]: what the knobs do, and what else happens to a scanner from outside
//! - [`sysfs`]: the files of knobs and counts
//! - [`sys`]: kernel services that the `kernel` crate does not wrap
//! - [`trace`]: the tracepoints of the module
//! - [`shim`]: generated declarations of the C shims
//!
//! `Documentation/design.md` describes how the parts fit together, `Documentation/ABI` each knob.

use crate::control::observers::Observers;
use crate::control::parameters::hash_kind;
use crate::control::parameters::switch;
use crate::control::Daemon;
use crate::scan::worker::Threads;
use crate::sys::imports::Imports;
use crate::sys::random::get_random_u64;
use kernel::prelude::*;

#[path = "rust/control/mod.rs"]
mod control;
#[path = "rust/mm/mod.rs"]
mod mm;
#[path = "rust/scan/mod.rs"]
mod scan;
#[path = "rust/shim.rs"]
mod shim;
#[path = "rust/sys/mod.rs"]
mod sys;
mod sysfs;
#[path = "rust/trace.rs"]
mod trace;

module! {
    type: KsmVeridian,
    name: "ksm_v",
    authors: ["The ksm_veridian developers"],
    description: "Kernel same-page merging of all processes' anonymous memory",
    license: "GPL",
    params: {
        bytewise_hash: u8 {
            default: 0,
            description: "1: hash with the documented bytewise 32-bit FNV-1a (slower)",
        },
        redhat_only_zero_pages: u8 {
            default: 0,
            description: "1: compat/ has the file of this name, which Red Hat's kernels have",
        },
    },
}

/// The loaded module, in the order of teardown: what observes the scanner, the files in sysfs with the threads
/// behind them, and what makes the kernel call `rust/mm`.
struct KsmVeridian {
    _observers: Observers,
    _files: sysfs::Files,
    _hooks: mm::Hooks,
}

impl kernel::Module for KsmVeridian {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let imports = Imports::resolve()?;
        let hash_kind = hash_kind(module_parameters::bytewise_hash.value())?;
        let has_red_hats_file = switch(
            "redhat_only_zero_pages",
            module_parameters::redhat_only_zero_pages.value(),
        )?;
        let hooks = mm::Hooks::begin();
        let daemon = Daemon::new(hash_kind, get_random_u64())?;
        let threads = Threads::new(daemon.commons())?;
        let files = sysfs::Files::new(imports, daemon.clone(), threads, has_red_hats_file)?;
        Ok(KsmVeridian {
            // Last, because open files of debugfs cannot pin a module whose `init` fails.
            _observers: Observers::new(module, daemon)?,
            _files: files,
            _hooks: hooks,
        })
    }
}
