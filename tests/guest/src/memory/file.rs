// SPDX-License-Identifier: GPL-2.0

//! Files to map.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

/// Makes a file of these pages in `directory`, without a name: it goes away with its last user.
pub fn unnamed<P: AsRef<[u8]>>(
    directory: &str,
    pages: impl IntoIterator<Item = P>,
) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(directory)?;
    for page in pages {
        file.write_all(page.as_ref())?;
    }
    Ok(file)
}
