// SPDX-License-Identifier: GPL-2.0

//! Expectations: each failure message says what was expected and what was found.

use std::fmt::Debug;
use std::fmt::Display;
use std::ops::RangeInclusive;

use libtest_mimic::Failed;

pub mod secret;
pub mod statistics;

/// The result of a test and of every helper; the error is the failure message.
pub type Result<T = ()> = std::result::Result<T, Failed>;

/// Adds to an error what was being done when it occurred.
pub trait Context<T> {
    /// Prefixes the error's text with `what()`.
    fn context<S: Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context<S: Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| format!("{}: {error}", what()).into())
    }
}

/// Like [`Context`], but for failures of other helpers.
pub trait FailureContext<T> {
    /// Prefixes the failure's text with `what()`.
    fn during<S: Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> FailureContext<T> for Result<T> {
    fn during<S: Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|failed| {
            let message = failed.message().unwrap_or("failed").to_owned();
            format!("{}: {message}", what()).into()
        })
    }
}

/// Fails with the text of `otherwise` unless `condition` holds.
pub fn that<S: Display>(condition: bool, otherwise: impl FnOnce() -> S) -> Result {
    if condition {
        Ok(())
    } else {
        Err(otherwise().to_string().into())
    }
}

/// Expects two values to be equal.
pub fn eq<T: PartialEq + Debug>(what: impl Display, expected: T, found: T) -> Result {
    that(expected == found, || {
        format!("{what}: expected {expected:?}, found {found:?}")
    })
}

/// Expects two values to differ.
pub fn ne<T: PartialEq + Debug>(what: impl Display, unexpected: T, found: T) -> Result {
    that(unexpected != found, || {
        format!("{what}: expected anything but {unexpected:?}, found just that")
    })
}

/// Expects a value within a range.
pub fn within<T: PartialOrd + Debug>(
    what: impl Display,
    expected: RangeInclusive<T>,
    found: T,
) -> Result {
    that(expected.contains(&found), || {
        format!("{what}: expected {expected:?}, found {found:?}")
    })
}

/// Expects an operation to fail with this error number.
pub fn errno<T: Debug>(what: impl Display, expected: i32, found: std::io::Result<T>) -> Result {
    let name = |number: i32| std::io::Error::from_raw_os_error(number).to_string();
    match found {
        Err(error) if error.raw_os_error() == Some(expected) => Ok(()),
        Err(error) => Err(format!("{what}: expected {}, found {error}", name(expected)).into()),
        Ok(value) => Err(format!(
            "{what}: expected {}, found success: {value:?}",
            name(expected)
        )
        .into()),
    }
}
