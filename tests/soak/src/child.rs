// SPDX-License-Identifier: GPL-2.0

//! Children that a worker forks, without `exec`: they have its memory, and its tally.

use guest::task;
use guest::Context;
use guest::Result;
use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

/// A forked child. It is not waited for when this is dropped.
#[derive(Debug)]
pub struct Child(Pid);

/// Forks a child that does `body` and ends; it fails with the text of `body`'s failure.
///
/// The calling process must have one thread: its child may do whatever it could.
pub fn fork(body: impl FnOnce() -> Result) -> Result<Child> {
    // SAFETY: By the above.
    match unsafe { libc::fork() } {
        0 => end(body()),
        pid if pid > 0 => Ok(Child(Pid::from_raw(pid))),
        _ => Err(std::io::Error::last_os_error()).context(|| "fork"),
    }
}

/// Ends a child at once: what its parent would do at its end is not the child's to do.
fn end(result: Result) -> ! {
    let status = match result {
        Ok(()) => 0,
        Err(failed) => {
            eprintln!("child: {}", failed.message().unwrap_or("failed"));
            1
        }
    };
    // SAFETY: Ends this process.
    unsafe { libc::_exit(status) }
}

impl Child {
    /// A child that came to be by other means.
    pub fn of(pid: i32) -> Self {
        Child(Pid::from_raw(pid))
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.0.as_raw()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result {
        kill(self.0, signal).context(|| format!("{signal} to the child {}", self.0))
    }

    /// Waits for its end, which has to be a good one.
    pub fn wait(self) -> Result {
        match self.wait_any()? {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => Err(format!("a child ended with {status:?}").into()),
        }
    }

    /// Waits for its end, whatever it is.
    pub fn wait_any(self) -> Result<WaitStatus> {
        waitpid(self.0, None).context(|| format!("waiting for the child {}", self.0))
    }

    /// Kills it and waits for its end.
    pub fn end(self) -> Result {
        self.signal(Signal::SIGKILL)?;
        self.wait_any().map(drop)
    }
}

/// Ends all children of this process that are left, also those that came to it as orphans.
pub fn end_all() -> Result {
    let ended = task::wait_until(task::PATIENCE, || {
        own_children().for_each(|pid| {
            // It may be gone by now.
            let _ = kill(pid, Signal::SIGKILL);
        });
        while matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
        own_children().next().is_none()
    });
    guest::expect::that(ended, || "killed processes did not end within 30 s")
}

fn own_children() -> impl Iterator<Item = Pid> {
    let this = std::process::id().to_string();
    task::all()
        .into_iter()
        .filter(move |&pid| task::stat(pid, 4).is_ok_and(|parent| parent == this))
        .map(Pid::from_raw)
}
