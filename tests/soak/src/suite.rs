// SPDX-License-Identifier: GPL-2.0

//! What a suite is.

use guest::peer::User;
use guest::Result;

use crate::stage::Stage;
use crate::worker::Worker;

/// A suite. It is a constant of its own file: `Suite { ..., ..Suite::new(name, about, work) }`.
#[derive(Clone, Copy)]
pub struct Suite {
    /// Its name, as it is asked for.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// What a worker does until its deadline; an error is a failure of the suite.
    pub work: fn(&mut Worker) -> Result,
    /// The workers, by the user whose process each is.
    pub crew: &'static [User],
    /// Why the suite can't be run on this kernel; asked with the module loaded and stopped.
    pub lacks: fn() -> Option<String>,
    /// Knobs that are set before anything is scanned, with their values.
    pub knobs: &'static [(&'static str, u64)],
    /// What the harness itself does meanwhile; it has to end with the stage's time.
    pub direct: fn(&Stage) -> Result,
    /// Whether workers may end by SIGKILL: the suite has them killed itself.
    pub kills_workers: bool,
    /// Whether the scanner need not have merged anything.
    pub may_merge_nothing: bool,
    /// Whether memory fails: what is merged there can't be taken apart, which ends with EIO.
    pub fails_memory: bool,
}

impl Suite {
    /// A suite of two workers of Alice and one each of Bob and root, that runs on any kernel.
    pub const fn new(
        name: &'static str,
        about: &'static str,
        work: fn(&mut Worker) -> Result,
    ) -> Self {
        Suite {
            name,
            about,
            work,
            crew: &[User::Alice, User::Alice, User::Bob, User::Root],
            lacks: || None,
            knobs: &[],
            direct: |_| Ok(()),
            kills_workers: false,
            may_merge_nothing: false,
            fails_memory: false,
        }
    }
}
