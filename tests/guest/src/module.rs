// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;

use nix::kmod;

use crate::knob;
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

/// Unloads the module and tells how that went.
pub fn try_unload() -> io::Result<()> {
    unload_named(NAME)
}

/// Unloads a driver that [`load_beside`] has loaded, or [`load_file`].
pub fn unload_beside(name: &str) {
    if let Err(error) = unload_named(name) {
        eprintln!("{name} is still loaded: {error}");
    }
}

fn unload_named(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    Ok(kmod::delete_module(
        &name,
        kmod::DeleteModuleFlags::O_NONBLOCK,
    )?)
}

/// Unloads the module.
pub fn unload() -> Result {
    try_unload().context(|| format!("unloading {NAME}"))
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
