// SPDX-License-Identifier: GPL-2.0

//! Swap space: on zram, or on a disk of the guest.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::module;
use crate::process::task;
use crate::Context;
use crate::Result;

/// Modules that the zram driver needs on some kernels.
const NEEDED_AT_TIMES: [&str; 4] = [
    "zsmalloc",
    "lz4_decompress",
    "lz4_compress",
    "lz4hc_compress",
];

/// Swap space that is in use until this is dropped.
pub struct Swap {
    disk: &'static str,
}

impl Swap {
    const ZRAM: &'static str = "/dev/zram0";

    /// Creates swap space of `mebibytes` MiB on zram. The inner `Err` says why the driver is unavailable.
    pub fn open(mebibytes: u64) -> Result<std::result::Result<Self, String>> {
        if let Err(why) = Self::load_driver() {
            return Ok(Err(why));
        }
        procfs::write("/sys/block/zram0/disksize", &format!("{mebibytes}M"))?;
        Ok(Ok(Self::on_disk(Self::ZRAM)?))
    }

    /// Turns a disk into swap space. Its data is lost.
    pub fn on_disk(disk: &'static str) -> Result<Self> {
        let made = Command::new("busybox").args(["mkswap", disk]).output();
        let made = made.context(|| "mkswap")?;
        expect::that(made.status.success(), || format!("mkswap: {made:?}"))?;
        let swap = Swap { disk };
        swap.on_again()?;
        Ok(swap)
    }

    /// Loads the driver of zram unless it is loaded already; an error says why it could not be loaded.
    pub fn load_driver() -> std::result::Result<(), String> {
        if Path::new(Self::ZRAM).exists() {
            return Ok(());
        }
        for name in NEEDED_AT_TIMES {
            // A missing file means that the kernel has the module built in.
            let _ = module::load_beside(name);
        }
        module::load_beside("zram")?;
        let there = task::wait_until(task::PATIENCE, || Path::new(Self::ZRAM).exists());
        if there {
            Ok(())
        } else {
            Err(format!("{} did not appear", Self::ZRAM))
        }
    }

    /// Disables the swap space (`swapoff`), which reads everything back into memory.
    pub fn off(&self) -> Result {
        self.call(|path| {
            // SAFETY: The path is a NUL-terminated string.
            unsafe { libc::swapoff(path) }
        })
        .context(|| "swapoff")
    }

    /// Enables the swap space again.
    pub fn on_again(&self) -> Result {
        self.call(|path| {
            // SAFETY: The path is a NUL-terminated string.
            unsafe { libc::swapon(path, 0) }
        })
        .context(|| "swapon")
    }

    fn call(&self, call: impl FnOnce(*const libc::c_char) -> libc::c_int) -> io::Result<()> {
        let path = CString::new(self.disk)?;
        match call(path.as_ptr()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // The swap space may be off already.
        let _ = self.off();
        if self.disk != Self::ZRAM {
            return;
        }
        if let Err(error) = fs::write("/sys/block/zram0/reset", "1") {
            eprintln!("swap could not be removed: {error}");
        }
    }
}

/// The swap space in use, in kB.
pub fn in_use() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    Some(procfs::field(&text, "SwapTotal")? - procfs::field(&text, "SwapFree")?)
}

/// The total swap space, in kB.
pub fn total() -> u64 {
    procfs::number_in("/proc/meminfo", "SwapTotal").unwrap_or(0)
}
