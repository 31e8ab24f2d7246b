// SPDX-License-Identifier: GPL-2.0

//! Complaints in the kernel log during one test.
//!
//! The test runner also searches the guest's whole console; this check tells which test is to blame.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::OpenOptionsExt;

use crate::expect;
use crate::kernel::procfs;
use crate::Context;
use crate::Result;

/// Texts that begin a complaint.
const COMPLAINTS: [&str; 13] = [
    "BUG: ",
    "BUG at ",
    "WARNING: ",
    "Oops: ",
    "Bad page ",
    "bad page ",
    "Bad rss-counter",
    "general protection fault",
    "blocked for more than",
    "soft lockup",
    "rcu: INFO",
    "refcount_t:",
    "scheduling while atomic",
];

/// The kernel log, starting at the time when it was opened.
pub struct Kmsg(File);

impl Kmsg {
    /// Opens the log at its current end.
    pub fn open() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context(|| "/dev/kmsg")?;
        file.seek(SeekFrom::End(0)).context(|| "/dev/kmsg")?;
        Ok(Kmsg(file))
    }

    /// The messages since the last call. One read returns one message.
    pub fn messages(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        let mut record = [0; 8192];
        // EAGAIN marks the end of the log; EPIPE means that messages were overwritten, and reading
        // goes on.
        loop {
            match self.0.read(&mut record) {
                Ok(length) => messages.push(text_of(&String::from_utf8_lossy(&record[..length]))),
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return messages,
            }
        }
    }

    /// Fails if the kernel complained since the last call.
    pub fn expect_quiet(&mut self) -> Result {
        let messages = self.messages();
        let complaint = messages.iter().position(|message| is_complaint(message));
        let Some(first) = complaint else {
            return Ok(());
        };
        let shown = &messages[first..messages.len().min(first + 30)];
        expect::that(false, || {
            format!("the kernel complained:\n  {}", shown.join("\n  "))
        })
    }
}

/// Keeps messages off the console while it exists, for tests that expect messages that look like
/// complaints. The messages still reach the log.
pub struct QuietConsole {
    levels: String,
}

impl QuietConsole {
    const KNOB: &'static str = "/proc/sys/kernel/printk";

    /// Lets only emergency messages reach the console.
    pub fn begin() -> Result<Self> {
        let levels = procfs::read(Self::KNOB)?;
        procfs::write(Self::KNOB, "1")?;
        Ok(QuietConsole { levels })
    }
}

impl Drop for QuietConsole {
    fn drop(&mut self) {
        if procfs::write(Self::KNOB, &self.levels).is_err() {
            eprintln!("the console's level could not be restored");
        }
    }
}

/// The text of a record: from the first semicolon to the first newline after it.
fn text_of(record: &str) -> String {
    let text = record.split_once(';').map_or(record, |(_, text)| text);
    text.lines().next().unwrap_or("").to_owned()
}

fn is_complaint(message: &str) -> bool {
    COMPLAINTS.iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_apart() {
        assert_eq!(
            text_of("6,339,5140900,-;NET: hello; you\n SUBSYSTEM=acpi\n"),
            "NET: hello; you"
        );
    }

    #[test]
    fn complaints_are_told_from_messages() {
        assert!(is_complaint(
            "BUG: Bad rss-counter state mm:0 type:MM_ANONPAGES val:1"
        ));
        assert!(!is_complaint(
            "ksm_v: loading out-of-tree module taints kernel."
        ));
    }
}
