// SPDX-License-Identifier: GPL-2.0

//! The definition of a suite.

use guest::process::peer::User;
use guest::Result;

use crate::stage::Stage;
use crate::worker::Worker;

/// A suite. Each is a constant in a file: `Suite { ..., ..Suite::new(name, about, work) }`.
#[derive(Clone, Copy)]
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// A description in one line.
    pub about: &'static str,
    /// The work of a worker until its deadline; an error is a failure of the suite.
    pub work: fn(&mut Worker) -> Result,
    /// The workers, by the user of each process.
    pub crew: &'static [User],
    /// Why the suite cannot run on this kernel; called with the module loaded and stopped.
    pub lacks: fn() -> Option<String>,
    /// Knobs to set before anything is scanned, with their values.
    pub knobs: &'static [(&'static str, u64)],
    /// The harness's own work meanwhile; it must end with the stage's time.
    pub direct: fn(&Stage) -> Result,
    /// Whether workers may end by SIGKILL, because the suite kills some.
    pub kills_workers: bool,
    /// Whether the suite may pass although nothing was merged.
    pub may_merge_nothing: bool,
    /// Whether memory fails: merged pages on failed memory cannot be broken apart (EIO).
    pub fails_memory: bool,
}

impl Suite {
    /// A suite with two workers of Alice and one each of Bob and root, for any kernel.
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
