// SPDX-License-Identifier: GPL-2.0

//! The command line of a process of a suite.

use std::str::FromStr;
use std::time::Duration;

use guest::Context;
use guest::Result;

/// The option before the words of a job.
pub const OPTION: &str = "worker";
/// The number of these words.
pub const WORDS: usize = 5;

/// The task of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The suite, or [`crate::checker::NAME`].
    pub suite: String,
    /// The index of this process in the suite, from 0.
    pub index: usize,
    /// The seed of the run.
    pub seed: u64,
    /// How long the suite works.
    pub time: Duration,
    /// The path of the tally.
    pub tally: String,
}

impl Job {
    /// The words of the command line.
    pub fn words(&self) -> [String; WORDS] {
        [
            self.suite.clone(),
            self.index.to_string(),
            self.seed.to_string(),
            self.time.as_millis().to_string(),
            self.tally.clone(),
        ]
    }

    /// Parses the words of the command line.
    pub fn from_words(words: &[String]) -> Result<Self> {
        let [suite, index, seed, time, tally] = words else {
            return Err(format!("expected {WORDS} words, found {words:?}").into());
        };
        Ok(Job {
            suite: suite.clone(),
            index: number(index)?,
            seed: number(seed)?,
            time: Duration::from_millis(number(time)?),
            tally: tally.clone(),
        })
    }
}

fn number<T: FromStr<Err: std::fmt::Display>>(word: &str) -> Result<T> {
    word.parse().context(|| format!("the word {word:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        let job = Job {
            suite: "writers".to_owned(),
            index: 3,
            seed: u64::MAX,
            time: Duration::from_secs(4),
            tally: "/dev/shm/tally".to_owned(),
        };
        assert_eq!(Job::from_words(&job.words()).unwrap(), job);
        assert!(Job::from_words(&["writers".to_owned()]).is_err());
    }
}
