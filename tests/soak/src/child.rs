// SPDX-License-Identifier: GPL-2.0

//! Children that a worker forks, without `exec`: they share its memory and its tally.

use guest::expect;
use guest::process::task;
use guest::Context;
use guest::Result;
use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

/// A forked child. Dropping it does not wait for it.
#[derive(Debug)]
pub struct Child(Pid);

/// Forks a child that runs `body` and ends; if `body` fails, the child fails with its message.
///
/// The calling process must have only one thread: then its child may call any function.
pub fn fork(body: impl FnOnce() -> Result) -> Result<Child> {
    // SAFETY: The caller has one thread.
    match unsafe { libc::fork() } {
        0 => end(body()),
        pid if pid > 0 => Ok(Child(Pid::from_raw(pid))),
        _ => Err(std::io::Error::last_os_error()).context(|| "fork"),
    }
}

/// Ends a child at once, without the destructors of its parent.
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
    /// A child that was not made by [`fork`].
    pub fn of(pid: i32) -> Self {
        Child(Pid::from_raw(pid))
    }

    /// Its process ID.
    pub fn pid(&self) -> i32 {
        self.0.as_raw()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result {
        kill(self.0, signal).context(|| format!("{signal} to the child {}", self.0))
    }

    /// Waits for its end; fails unless it succeeded.
    pub fn wait(self) -> Result {
        match self.wait_any()? {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => Err(format!("a child ended with {status:?}").into()),
        }
    }

    /// Waits for its end, and returns the status.
    pub fn wait_any(self) -> Result<WaitStatus> {
        waitpid(self.0, None).context(|| format!("waiting for the child {}", self.0))
    }

    /// Kills it and waits for its end.
    pub fn end(self) -> Result {
        self.signal(Signal::SIGKILL)?;
        self.wait_any().map(drop)
    }
}

/// Ends all remaining children of this process, including orphans that it adopted.
pub fn end_all() -> Result {
    let ended = task::wait_until(task::PATIENCE, || {
        own_children().for_each(|pid| {
            // The child may already be gone.
            let _ = kill(pid, Signal::SIGKILL);
        });
        while matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
        own_children().next().is_none()
    });
    expect::that(ended, || "killed processes did not end within 30 s")
}

fn own_children() -> impl Iterator<Item = Pid> {
    let this = std::process::id().to_string();
    task::all()
        .into_iter()
        .filter(move |&pid| task::stat(pid, 4).is_ok_and(|parent| parent == this))
        .map(Pid::from_raw)
}
