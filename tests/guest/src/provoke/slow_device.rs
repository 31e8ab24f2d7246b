// SPDX-License-Identifier: GPL-2.0

//! A device that takes a while to invalidate its mappings: the module `ksm_v_slow_device`
//! (`tests/provoke/ksm_v_slow_device.c`).

use crate::kernel::procfs;
use crate::ksm_v::module;
use crate::memory::content::PAGE_SIZE;
use crate::process::peer::Peer;
use crate::Context;
use crate::Result;
use crate::Span;

const FILE: &str = "ksm_v_slow_device.ko";
const NAME: &str = "ksm_v_slow_device";

/// Keeps the device's mapping while it exists.
pub struct SlowDevice(());

impl SlowDevice {
    /// Makes the device map memory of a process.
    pub fn map(peer: &Peer, span: Span) -> Result<Self> {
        let (pid, start, len) = (peer.pid(), span.addr, span.pages * PAGE_SIZE);
        let parameters = format!("pid={pid} start={start} len={len}");
        module::load_file(FILE, &parameters).context(|| format!("loading {FILE}"))?;
        Ok(SlowDevice(()))
    }

    /// The number of times somebody waited for the device.
    pub fn waited(&self) -> Result<u64> {
        procfs::number("/sys/module/ksm_v_slow_device/parameters/waited")
    }
}

impl Drop for SlowDevice {
    fn drop(&mut self) {
        module::unload_beside(NAME);
    }
}
