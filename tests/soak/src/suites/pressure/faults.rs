// SPDX-License-Identifier: GPL-2.0

//! Failing allocations of the module's thread, on kernels with fault injection.
//!
//! Reference: Documentation/fault-injection/fault-injection.rst.

use std::path::Path;

use guest::kernel::procfs;
use guest::ksm_v::module;
use guest::process::task;
use guest::Context;
use guest::Result;

use crate::tally::Tally;

/// Fault injection for small allocations, and for pages.
const KINDS: [&str; 2] = ["failslab", "fail_page_alloc"];
/// Percentage of allocations that fail.
const PERCENT: u64 = 15;
/// Most failures: more than happen. The kernel counts it down.
const TIMES: u64 = 1_000_000_000;

/// Allocations fail until this is dropped.
pub struct Faults {
    scanner: i32,
}

impl Faults {
    /// Starts failures; `None` if this kernel has no fault injection.
    pub fn begin() -> Result<Option<Self>> {
        if !KINDS
            .iter()
            .all(|kind| Path::new(&directory(kind)).is_dir())
        {
            return Ok(None);
        }
        let faults = Faults {
            scanner: task::scanner()?,
        };
        let (start, end) = module_code()?;
        for kind in KINDS {
            let settings = [
                ("verbose", "0".to_owned()),
                ("task-filter", "Y".to_owned()),
                ("ignore-gfp-wait", "N".to_owned()),
                ("stacktrace-depth", "32".to_owned()),
                ("require-start", format!("{start:#x}")),
                ("require-end", format!("{end:#x}")),
                ("space", "0".to_owned()),
                ("interval", "1".to_owned()),
                ("times", TIMES.to_string()),
                ("probability", PERCENT.to_string()),
            ];
            for (name, value) in settings {
                procfs::write(&format!("{}/{name}", directory(kind)), &value)?;
            }
        }
        // By default, allocations from high memory and of single pages never fail.
        let pages = directory("fail_page_alloc");
        procfs::write(&format!("{pages}/ignore-gfp-highmem"), "N")?;
        procfs::write(&format!("{pages}/min-order"), "0")?;
        procfs::write(&faults.switch(), "1")?;
        Ok(Some(faults))
    }

    /// Ends the failures, and counts them.
    pub fn end(self, tally: &Tally) -> Result {
        for kind in KINDS {
            let left = procfs::number(&format!("{}/times", directory(kind)))?;
            tally.add(&format!("{kind}: allocations failed"), TIMES - left);
        }
        Ok(())
    }

    fn switch(&self) -> String {
        format!("/proc/{}/make-it-fail", self.scanner)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        for kind in KINDS {
            if let Err(failed) = procfs::write(&format!("{}/probability", directory(kind)), "0") {
                eprintln!("{}", failed.message().unwrap_or("failed"));
            }
        }
        // The thread may be gone.
        let _ = procfs::write(&self.switch(), "0");
    }
}

fn directory(kind: &str) -> String {
    format!("/sys/kernel/debug/{kind}")
}

/// The start of the module's code, and an end after its last instruction.
fn module_code() -> Result<(u64, u64)> {
    let path = format!("/sys/module/{}/sections/.text", module::NAME);
    let text = procfs::read(&path)?;
    let digits = text.trim().trim_start_matches("0x");
    let start = u64::from_str_radix(digits, 16).context(|| format!("{path}: {text:?}"))?;
    let size = procfs::number(&format!("/sys/module/{}/coresize", module::NAME))?;
    Ok((start, start + size))
}
