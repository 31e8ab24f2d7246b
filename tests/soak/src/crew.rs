// SPDX-License-Identifier: GPL-2.0

//! The processes of a suite, from the harness's side.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::process::peer::spawn::SELF;
use guest::process::peer::User;
use guest::Context;
use guest::Result;

use crate::checker;
use crate::job;
use crate::job::Job;
use crate::tally::Tally;

/// How long a process may take to end after its deadline: a debug kernel is slow.
const GRACE: Duration = Duration::from_secs(900);

/// Workers that were killed on purpose.
const KILLED: &str = "workers killed";

/// The processes of a suite. Dropping it kills them.
pub struct Crew {
    members: Vec<Member>,
    tally: Tally,
    may_be_killed: bool,
}

struct Member {
    job: Job,
    process: std::process::Child,
    /// Its output.
    log: String,
    ended: Option<ExitStatus>,
}

impl Crew {
    /// A crew without members.
    pub fn new(tally: Tally, may_be_killed: bool) -> Self {
        Crew {
            members: Vec::new(),
            tally,
            may_be_killed,
        }
    }

    /// Starts a process of `user`, and returns its index.
    ///
    /// It starts by `exec`: a process that changes its user without `exec` is not dumpable.
    pub fn start(&mut self, user: User, job: Job) -> Result<i32> {
        let log = format!("{}.{}.log", job.tally, self.members.len());
        let process = spawn(user, &job, &log).context(|| format!("starting {job:?}"))?;
        let pid = process.id() as i32;
        self.members.push(Member {
            job,
            process,
            log,
            ended: None,
        });
        Ok(pid)
    }

    /// Waits until every worker has ended or has set up its memory.
    ///
    /// # Errors
    ///
    /// The output of the first workers that failed; a message if some took too long.
    pub fn wait_ready(&mut self) -> Result {
        let tally = self.tally;
        self.wait(Duration::ZERO, |member| {
            !member.is_worker() || tally.is_ready(member.job.index)
        })
    }

    /// Waits until every worker has ended or has done its work. Errors as for `wait_ready`.
    pub fn wait_arrived(&mut self, time: Duration) -> Result {
        let tally = self.tally;
        self.wait(time, |member| member.has_arrived(&tally))
    }

    /// Waits until all processes have ended. Errors as for `wait_ready`.
    pub fn wait_ended(&mut self) -> Result {
        self.wait(Duration::ZERO, |_| false)
    }

    fn wait(&mut self, time: Duration, done: impl Fn(&Member) -> bool) -> Result {
        let (start, time) = (Instant::now(), time + GRACE);
        loop {
            self.expect_no_failure()?;
            let late = |member: &&Member| member.ended.is_none() && !done(member);
            let Some(late) = self.members.iter().find(late) else {
                return Ok(());
            };
            if start.elapsed() > time {
                return Err(late.stuck().into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the worker with this index and waits until it is gone.
    pub fn kill_worker(&mut self, index: usize) -> Result {
        let is_it = |member: &&mut Member| member.is_worker() && member.job.index == index;
        let member = self.members.iter_mut().find(is_it);
        let member = member.ok_or_else(|| format!("there is no worker {index}"))?;
        member.process.kill().context(|| "killing a worker")?;
        member.ended = Some(member.process.wait().context(|| "waiting for a worker")?);
        self.tally.add(KILLED, 1);
        Ok(())
    }

    /// Fails with the output of failed processes.
    pub fn expect_no_failure(&mut self) -> Result {
        let mut failures = Vec::new();
        for member in &mut self.members {
            let Some(status) = member.poll().context(|| "waiting for a worker")? else {
                continue;
            };
            if status.success() {
                continue;
            }
            if self.may_be_killed && member.was_killed(status) {
                self.tally.add(KILLED, 1);
                continue;
            }
            failures.push(member.failure(status));
        }
        expect::that(failures.is_empty(), || failures.join("\n"))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            if member.ended.is_none() {
                // The process is gone, now or before.
                let _ = member.process.kill();
                let _ = member.process.wait();
            }
            let _ = fs::remove_file(&member.log);
        }
    }
}

impl Member {
    fn is_worker(&self) -> bool {
        self.job.suite != checker::NAME
    }

    /// The checker works until the end.
    fn has_arrived(&self, tally: &Tally) -> bool {
        !self.is_worker() || tally.has_arrived(self.job.index)
    }

    /// Its status, if it has ended since the last call.
    fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait()?;
            return Ok(self.ended);
        }
        Ok(None)
    }

    fn was_killed(&self, status: ExitStatus) -> bool {
        use std::os::unix::process::ExitStatusExt;
        self.is_worker() && status.signal() == Some(libc::SIGKILL)
    }

    fn failure(&self, status: ExitStatus) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        format!("{}, {status}: {}", self.name(), said.trim_end())
    }

    fn stuck(&self) -> String {
        let read = |name| fs::read_to_string(format!("/proc/{}/{name}", self.process.id()));
        format!(
            "{} did not end within {GRACE:?} after its time; status {}, stack:\n{}",
            self.name(),
            read("stat").unwrap_or_default().trim_end(),
            read("stack").unwrap_or_default()
        )
    }

    fn name(&self) -> String {
        format!("{} {}", self.job.suite, self.job.index)
    }
}

/// All output of a process goes to the file `log`, which its children share.
fn spawn(user: User, job: &Job, log: &str) -> io::Result<std::process::Child> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(SELF)
        .env_clear()
        .arg(format!("--{}", job::OPTION))
        .args(job.words())
        .uid(user.id())
        .gid(user.id())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}
