// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.
//!
//! The module is in use while pages are merged: the kernel does not unload it then.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

use nix::kmod;

use crate::expect;
use crate::knob;
use crate::procfs;
use crate::scanner;
use crate::task;
use crate::Context;
use crate::Result;

/// The module's name.
pub const NAME: &str = "ksm_v";

/// `MODULE_INIT_COMPRESSED_FILE` of include/uapi/linux/module.h.
const MODULE_INIT_COMPRESSED_FILE: u32 = 4;

/// Where the module lies: in the current directory, unless `KSM_V_KO` says otherwise.
pub fn file() -> String {
    std::env::var("KSM_V_KO").unwrap_or_else(|_| "./ksm_v.ko".to_owned())
}

/// Whether the module is there with all it provides.
pub fn is_loaded() -> bool {
    Path::new(knob::DIR).is_dir()
}

/// Loads the module and tells how that went.
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

/// Loads a driver that lies in the current directory, packed or not, unless it is loaded; says
/// why it can't.
pub fn load_beside(name: &str) -> std::result::Result<(), String> {
    let candidates = [format!("{name}.ko"), format!("{name}.ko.xz")];
    let Some(file) = candidates.iter().find(|file| Path::new(file).exists()) else {
        return Err(format!("there is no {name}.ko here"));
    };
    match load_file(file, "") {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
            Err(format!("loading {file}: {error}"))
        }
        _ => Ok(()),
    }
}

/// Unloads the module as it is, and tells how that went. It fails with `EAGAIN` while pages are merged,
/// or while one of the module's files in debugfs is open.
pub fn try_unload() -> io::Result<()> {
    unload_named(NAME)
}

/// Unloads a driver that [`load_beside`] or [`load_file`] loaded.
pub fn unload_beside(name: &str) {
    if let Err(error) = unload_named(name) {
        eprintln!("{name} is still loaded: {error}");
    }
}

/// Unloads any module, and tells how that went.
pub fn unload_named(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    Ok(kmod::delete_module(
        &name,
        kmod::DeleteModuleFlags::O_NONBLOCK,
    )?)
}

/// Unloads the module as it is; no page may be merged.
pub fn unload_as_it_is() -> Result {
    try_unload().context(|| format!("unloading {NAME} with a use count of {:?}", use_count()))
}

/// Breaks all merged pages apart, and unloads the module.
pub fn unload() -> Result {
    scanner::unmerge()?;
    unload_as_it_is()
}

/// As [`unload`], beside others who write to `run` and may let the module merge in between.
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

/// Whether unloading failed since the module is in use.
pub fn is_in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

/// The kernel's count of users of the module: 0 if it can be unloaded.
pub fn use_count() -> Result<u64> {
    procfs::number(&format!("/sys/module/{NAME}/refcnt"))
}

/// Expects the kernel to refuse to unload the module, and the module to stay.
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

/// Loads the module afresh, so that everything has its default.
pub fn reload(parameters: &str) -> Result {
    if is_loaded() {
        unload()?;
    }
    load(parameters)
}
