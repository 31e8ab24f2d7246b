// SPDX-License-Identifier: GPL-2.0

//! Programs installed in the guest's root file system by their packages.

use std::fs;
use std::fs::File;
use std::process::Child;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::expect;
use crate::process::task;
use crate::Context;
use crate::Result;

/// How long a daemon may take to exit.
const END_TIMEOUT: Duration = task::PATIENCE;

/// Builds a command from a program and its arguments, separated by spaces.
pub fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// The result of running a program.
pub struct Outcome {
    /// The exit status; `None` if a signal ended the program.
    pub status: Option<i32>,
    /// The standard output followed by the standard error.
    pub text: String,
}

/// Runs a program until it exits.
pub fn run(command: &mut Command) -> Result<Outcome> {
    let output = command.output().context(|| format!("{command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Outcome {
        status: output.status.code(),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// Runs a program that is expected to succeed, and returns its output.
pub fn output(command: &mut Command) -> Result<String> {
    match run(command)? {
        Outcome {
            status: Some(0),
            text,
        } => Ok(text),
        Outcome { status, text } => {
            Err(format!("{command:?} ended with status {status:?}: {text}").into())
        }
    }
}

/// A program that runs until this is dropped. Its output goes to a file.
pub struct Daemon {
    child: Child,
    log: String,
}

impl Daemon {
    /// Starts the program, with its output in `NAME.log` in the current directory.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let log = format!("{name}.log");
        let file = File::create(&log).context(|| log.clone())?;
        let both = file.try_clone().context(|| log.clone())?;
        let child = command.stdout(file).stderr(both).spawn();
        Ok(Daemon {
            child: child.context(|| format!("starting {command:?}"))?,
            log,
        })
    }

    /// The output so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Calls `ask` repeatedly until it returns an answer; the program may still be starting.
    pub fn wait_for<T>(
        &mut self,
        timeout: Duration,
        mut ask: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut answer = ask();
        task::wait_until(timeout, || {
            std::thread::sleep(Duration::from_millis(200));
            if answer.is_err() {
                answer = ask();
            }
            answer.is_ok() || matches!(self.child.try_wait(), Ok(Some(_)))
        });
        answer.map_err(|failed| {
            let why = failed.message().unwrap_or("failed").to_owned();
            format!("{why}; output: {}", self.output()).into()
        })
    }

    /// Waits for the program to exit by itself, and expects success.
    pub fn finish(mut self, timeout: Duration) -> Result {
        let pid = self.child.id() as i32;
        let ended = task::wait_until(timeout, || task::ended(pid));
        let status = self.child.try_wait().context(|| "waiting")?;
        expect::that(
            ended && status.is_some_and(|status| status.success()),
            || format!("{}: {status:?}: {}", self.log, self.output()),
        )
    }

    /// Ends the program and waits for its exit.
    pub fn end(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(pid, Signal::SIGTERM);
            if !task::wait_until(END_TIMEOUT, || task::ended(pid.as_raw())) {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}
