// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.
//!
//! While pages are merged, the module is in use and the kernel refuses to unload it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use nix::kmod;

use crate::expect;
use crate::kernel::procfs;
use crate::ksm_v::knob;
use crate::ksm_v::scanner;
use crate::process::task;
use crate::Context;
use crate::Result;

/// The module's name.
pub const NAME: &str = "ksm_v";

/// `MODULE_INIT_COMPRESSED_FILE` of include/uapi/linux/module.h.
const MODULE_INIT_COMPRESSED_FILE: u32 = 4;

/// The path of the module: in the current directory, unless `KSM_V_KO` is set.
pub fn file() -> String {
    std::env::var("KSM_V_KO").unwrap_or_else(|_| "./ksm_v.ko".to_owned())
}

/// Returns whether the module is loaded and has created its files.
pub fn is_loaded() -> bool {
    Path::new(knob::DIR).is_dir()
}

/// The visible traces of a loaded module: its directories, its line in the list of modules, its threads, and
/// probes.
pub fn traces() -> Vec<String> {
    let directories = [knob::DIR.to_owned(), format!("/sys/module/{NAME}")];
    let mut found = Vec::from(directories);
    found.retain(|path| Path::new(path).exists());
    let modules = procfs::read("/proc/modules").unwrap_or_default();
    let is_own = |line: &&str| line.starts_with(&format!("{NAME} "));
    found.extend(modules.lines().filter(is_own).map(str::to_owned));
    let threads = task::scanners().into_iter();
    found.extend(threads.map(|pid| format!("thread {pid}")));
    let probes = procfs::read("/sys/kernel/debug/kprobes/list").unwrap_or_default();
    found.extend(probes.lines().map(str::to_owned));
    found
}

/// Loads the module and returns the result.
pub fn try_load(parameters: &str) -> io::Result<()> {
    load_file(&file(), parameters)
}

/// Loads the module.
pub fn load(parameters: &str) -> Result {
    try_load(parameters).context(|| format!("loading {} with {parameters:?}", file()))
}

/// Loads any module.
pub fn load_file(path: &str, parameters: &str) -> io::Result<()> {
    let parameters = CString::new(parameters)?;
    let flags = if path.ends_with(".xz") {
        kmod::ModuleInitFlags::from_bits_retain(MODULE_INIT_COMPRESSED_FILE)
    } else {
        kmod::ModuleInitFlags::empty()
    };
    Ok(kmod::finit_module(File::open(path)?, &parameters, flags)?)
}

/// Loads a driver from the current directory, compressed or not, unless it is loaded already; an
/// error says why it could not be loaded.
pub fn load_beside(name: &str) -> std::result::Result<(), String> {
    let candidates = [format!("{name}.ko"), format!("{name}.ko.xz")];
    let Some(file) = candidates.iter().find(|file| Path::new(file).exists()) else {
        return Err(format!("{name}.ko is missing"));
    };
    match load_file(file, "") {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
            Err(format!("loading {file}: {error}"))
        }
        _ => Ok(()),
    }
}

/// Unloads the module in its current state and returns the result. It fails with `EAGAIN` while pages
/// are merged, or while one of the module's files in debugfs is open.
pub fn try_unload() -> io::Result<()> {
    unload_named(NAME)
}

/// Unloads a driver that [`load_beside`] or [`load_file`] loaded.
pub fn unload_beside(name: &str) {
    if let Err(error) = unload_named(name) {
        eprintln!("{name} is still loaded: {error}");
    }
}

/// Unloads any module and returns the result.
pub fn unload_named(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    Ok(kmod::delete_module(
        &name,
        kmod::DeleteModuleFlags::O_NONBLOCK,
    )?)
}

/// Unloads the module in its current state; no page may be merged.
pub fn unload_as_it_is() -> Result {
    try_unload().context(|| format!("unloading {NAME} with a use count of {:?}", use_count()))
}

/// Unmerges all pages and unloads the module.
pub fn unload() -> Result {
    scanner::unmerge()?;
    unload_as_it_is()
}

/// Like [`unload`], but retries while other tasks write to `run` and may restart merging.
pub fn unload_beside_writers() -> Result {
    let start = Instant::now();
    loop {
        scanner::unmerge()?;
        match try_unload() {
            Err(error) if is_in_use(&error) && start.elapsed() < task::PATIENCE => (),
            result => return result.context(|| format!("unloading {NAME}")),
        }
    }
}

/// Returns whether unloading failed because the module is in use.
pub fn is_in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

/// The module's reference count: 0 if it can be unloaded.
pub fn use_count() -> Result<u64> {
    procfs::number(&format!("/sys/module/{NAME}/refcnt"))
}

/// Expects that the kernel refuses to unload the module and the module stays loaded.
pub fn expect_in_use(when: &str) -> Result {
    expect::errno(
        format!("unloading the module {when}"),
        libc::EAGAIN,
        try_unload(),
    )?;
    expect::ne(format!("use count {when}"), 0, use_count()?)?;
    expect::that(is_loaded(), || format!("the module should stay {when}"))
}

/// Loads the module unless it is loaded.
pub fn ensure_loaded() -> Result {
    if is_loaded() {
        Ok(())
    } else {
        load("")
    }
}

/// Reloads the module, which resets all settings to their defaults.
pub fn reload(parameters: &str) -> Result {
    if is_loaded() {
        unload()?;
    }
    load(parameters)
}
