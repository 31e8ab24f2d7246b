// SPDX-License-Identifier: GPL-2.0

//! Secrets that the module must not reveal: kernel addresses and its seeds.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use guest::expect;
use guest::expect::secret;
use guest::kernel::kmsg::Kmsg;
use guest::ksm_v::knob;
use guest::ksm_v::module;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::process::child;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::tests;
use guest::Context;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![
    files_of_the_module_hold_no_address,
    files_for_everybody_hold_no_address,
    messages_hold_no_address,
    seeds_are_no_parameters,
];

const MODULE_DIR: &str = "/sys/module/ksm_v";

/// All files below a directory.
fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Fills the module's files with data: some pages are merged, and some are known to the index.
fn merge_some(lab: &Lab) -> Result<Peer> {
    let peer = lab.alice()?;
    peer.anon(16, Ids::same(7))?;
    peer.anon(16, Ids::each(100))?;
    scanner::merge()?;
    Ok(peer)
}

/// Even the superuser finds no kernel address in the module's own files.
fn files_of_the_module_hold_no_address(lab: &Lab) -> Result {
    let _peer = merge_some(lab)?;
    let files = files_below(Path::new(knob::DIR)).context(|| knob::DIR)?;
    expect::that(files.len() >= knob::READ_ONLY.len(), || {
        format!("expected the module's files, found {files:?}")
    })?;
    for path in files {
        if path.ends_with(knob::WRITE_ONLY) {
            continue; // which shows nothing to anybody
        }
        let bytes = fs::read(&path).context(|| path.display().to_string())?;
        secret::expect_no_address(path.display(), &bytes)?;
    }
    Ok(())
}

/// The kernel shows the section addresses of modules to the superuser only.
fn files_for_everybody_hold_no_address(lab: &Lab) -> Result {
    let _peer = merge_some(lab)?;
    let mut files = files_below(Path::new(MODULE_DIR)).context(|| MODULE_DIR)?;
    // The notes are part of the file ksm_v.ko and contain the build ID, which may look like an address.
    files.retain(|path| !path.starts_with(format!("{MODULE_DIR}/notes")));
    let mut public = 0;
    for path in &files {
        let mode = fs::metadata(path)
            .context(|| path.display().to_string())?
            .mode();
        let read = child::attempt(|| {
            child::become_user(User::Alice.id())?;
            let bytes = fs::read(path)?;
            secret::expect_no_address(path.display(), &bytes)
                .map_err(|_| io::Error::from_raw_os_error(libc::EILSEQ))
        });
        match read {
            Ok(()) => public += 1,
            Err(error) => {
                expect::eq(
                    format!("error of {}", path.display()),
                    libc::EACCES,
                    error.raw_os_error().unwrap_or(0),
                )?;
                expect::eq(
                    format!("mode of {}, for others", path.display()),
                    0,
                    mode & 0o004,
                )?;
            }
        }
    }
    expect::within(
        "files of the module that everybody reads",
        3..=files.len(),
        public,
    )
}

/// Checks the messages of loading, of refused loads, of operation and of unloading.
fn messages_hold_no_address(lab: &Lab) -> Result {
    let mut log = Kmsg::open()?;
    module::unload()?;
    let refused = module::try_load("no_such_parameter=1 bytewise_hash=2");
    expect::that(refused.is_err(), || {
        "expected a bad parameter to be refused"
    })?;
    module::load("")?;
    expect::that(module::try_load("").is_err(), || {
        "expected a second load to be refused"
    })?;
    scanner::settle_knobs()?;
    drop(merge_some(lab)?);
    scanner::unmerge()?;
    module::unload()?;
    let messages = log.messages();
    let of_module = messages.iter().filter(|message| message.contains("ksm_v"));
    expect::that(of_module.clone().count() > 0, || {
        format!("expected messages of the module, found {messages:?}")
    })?;
    for message in of_module {
        secret::expect_no_address("the kernel's log", message.as_bytes())?;
    }
    Ok(())
}

/// Module parameters are the only input at load time, and can be read afterwards.
fn seeds_are_no_parameters(_: &Lab) -> Result {
    let directory = format!("{MODULE_DIR}/parameters");
    let found: Vec<String> = match fs::read_dir(&directory) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !["bytewise_hash", "redhat_only_zero_pages"].contains(&name.as_str()))
            .collect(),
        Err(_) => Vec::new(),
    };
    expect::eq(
        format!("further files in {directory}"),
        Vec::<String>::new(),
        found,
    )
}
