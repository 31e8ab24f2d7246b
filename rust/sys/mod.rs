// SPDX-License-Identifier: GPL-2.0

//! Kernel services that the `kernel` crate does not wrap. Small and generic; nothing here is about merging.

pub(crate) mod debugfs;
pub(crate) mod entry_probe;
pub(crate) mod imports;
pub(crate) mod kthread;
pub(crate) mod random;
pub(crate) mod shrinker;
pub(crate) mod sysfs;
