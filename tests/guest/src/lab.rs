// SPDX-License-Identifier: GPL-2.0

//! The state in which every test starts and ends: the module loaded and stopped, nothing merged, no
//! process besides the test, and khugepaged at rest.

use std::rc::Rc;

use libtest_mimic::Completion;
use libtest_mimic::Trial;

use crate::kernel::cgroup::Cgroup;
use crate::kernel::feature::Feature;
use crate::kernel::khugepaged;
use crate::kernel::kmsg::Kmsg;
use crate::ksm_v::module;
use crate::ksm_v::scanner;
use crate::process::peer::Nursery;
use crate::process::peer::Peer;
use crate::process::peer::User;
use crate::Result;

/// The environment of a test.
pub struct Lab {
    nursery: Rc<Nursery>,
}

impl Lab {
    /// Puts the module and khugepaged into the state in which tests start, also for a lab that is open already.
    pub fn open() -> Result<Self> {
        module::ensure_loaded()?;
        scanner::settle_knobs()?;
        khugepaged::rest()?;
        Ok(Lab {
            nursery: Nursery::open()?,
        })
    }

    /// Starts a process.
    pub fn peer(&self, user: User) -> Result<Peer> {
        self.nursery.spawn(user)
    }

    /// Starts a process of Alice.
    pub fn alice(&self) -> Result<Peer> {
        self.peer(User::Alice)
    }

    /// Starts `count` processes of Alice.
    pub fn alices(&self, count: usize) -> Result<Vec<Peer>> {
        (0..count).map(|_| self.alice()).collect()
    }

    /// Starts two processes of Alice.
    pub fn pair(&self) -> Result<(Peer, Peer)> {
        Ok((self.alice()?, self.alice()?))
    }

    /// Starts `program`, a copy of this one. The new process, still as root, runs `setup` before it
    /// executes `program`.
    pub fn start(
        &self,
        program: &str,
        setup: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Peer> {
        self.nursery.spawn_program(program, setup)
    }

    /// Starts a process in a cgroup.
    pub fn peer_in(&self, user: User, cgroup: &Cgroup) -> Result<Peer> {
        self.nursery.spawn_in(user, Some(cgroup))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if module::is_loaded() {
            if let Err(failed) = scanner::settle_knobs() {
                eprintln!("cleaning up: {}", failed.message().unwrap_or("failed"));
            }
        }
    }
}

/// The name and the function of a test.
pub type Test = (&'static str, fn(&Lab) -> Result);

/// Like [`Test`], but the function may return why the test cannot run here.
pub type SkippableTest = (&'static str, fn(&Lab) -> Result<Completion>);

/// The table of these functions, each a test with the name of its function.
#[macro_export]
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        &[$((stringify!($test), $test)),+]
    };
}

/// Turns the tests of a suite into trials.
pub fn trials(suite: &str, tests: &[Test]) -> Vec<Trial> {
    let make =
        |&(name, test): &Test| Trial::test(format!("{suite}::{name}"), move || watched(test));
    tests.iter().map(make).collect()
}

/// A test that takes an argument.
pub type TestOf<T> = (&'static str, fn(&Lab, T) -> Result);

/// Turns tests into trials that each pass `given` to their test.
pub fn trials_of<T>(suite: &str, given: T, tests: &[TestOf<T>]) -> Vec<Trial>
where
    T: Copy + Send + 'static,
{
    let make = |&(name, test): &TestOf<T>| {
        Trial::test(format!("{suite}::{name}"), move || {
            watched(|lab| test(lab, given))
        })
    };
    tests.iter().map(make).collect()
}

/// Turns tests into trials that are skipped if the kernel lacks one of `features`.
pub fn trials_with(features: &[Feature], suite: &str, tests: &[Test]) -> Vec<Trial> {
    let Some(why) = features.iter().find_map(|feature| feature.missing()) else {
        return trials(suite, tests);
    };
    let skip = |&(name, _): &Test| {
        Trial::ignorable_test(format!("{suite}::{name}"), move || {
            Ok(Completion::ignored_with(why))
        })
    };
    tests.iter().map(skip).collect()
}

/// Turns tests into trials that are skipped if `lacking` returns a reason. It is called with the
/// module loaded.
pub fn trials_unless(
    lacking: fn() -> Result<Option<String>>,
    suite: &str,
    tests: &[Test],
) -> Vec<Trial> {
    let make = |&(name, test): &Test| {
        let run = move |lab: &Lab| match lacking()? {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => test(lab).map(|()| Completion::Completed),
        };
        Trial::ignorable_test(format!("{suite}::{name}"), move || watched(run))
    };
    tests.iter().map(make).collect()
}

/// Turns tests that may skip themselves into trials.
pub fn skippable_trials(suite: &str, tests: &[SkippableTest]) -> Vec<Trial> {
    let make = |&(name, test): &SkippableTest| {
        Trial::ignorable_test(format!("{suite}::{name}"), move || watched(test))
    };
    tests.iter().map(make).collect()
}

/// Runs a test in its own lab; fails if the kernel complained meanwhile.
fn watched<T>(test: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    let mut log = Kmsg::open()?;
    let result = Lab::open().and_then(|lab| test(&lab));
    log.expect_quiet()?;
    result
}
