// SPDX-License-Identifier: GPL-2.0

//! What a process of a suite is told on its command line.

use std::str::FromStr;
use std::time::Duration;

use guest::Context;
use guest::Result;

/// The option behind which the words of a job stand.
pub const OPTION: &str = "worker";
/// How many words those are.
pub const WORDS: usize = 5;

/// What a process is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The suite, or [`crate::checker::NAME`].
    pub suite: String,
    /// Which of the suite's processes this is, counted from 0.
    pub index: usize,
    /// The seed of the run.
    pub seed: u64,
    /// For how long the suite works in all.
    pub time: Duration,
    /// Where the tally is.
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

    /// Reads them back.
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
