// SPDX-License-Identifier: GPL-2.0

//! Random writes to knobs and reads of files.

use std::io;
use std::time::Duration;

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::refused;
use guest::process::task;
use guest::rng::Rng;
use guest::Context;
use guest::Result;

use crate::stage::Stage;

/// A knob, values that it accepts, and values that it refuses besides text that no knob accepts.
/// A knob that is listed more often is written more often.
struct Knob {
    name: &'static str,
    takes: &'static [&'static str],
    refuses: &'static [&'static str],
}

/// Other domains would let users share, which the checker counts as a failure.
const KNOBS: [Knob; 15] = [
    Knob {
        name: "run",
        takes: &["1", "1", "1", "1", "1", "1", "0", "2"],
        refuses: &["3", "256", "4294967296", "4294967297"],
    },
    Knob {
        name: "scan_rate",
        takes: &["100000", "100000", "4294967295", "1000", "64", "0", "1"],
        refuses: &["4294967296", "4294967297"],
    },
    Knob {
        name: "sleep_ms",
        takes: &["0", "0", "0", "0", "1", "20", "4294967295"],
        refuses: &["4294967296", "18446744073709551615"],
    },
    Knob {
        name: "promote_after",
        takes: &["1", "1", "2", "3", "255"],
        refuses: &["0", "256", "257"],
    },
    Knob {
        name: "max_interval",
        takes: &["1", "8", "8", "2", "4"],
        refuses: &["0", "3", "16", "257"],
    },
    Knob {
        name: "huge_min_parts",
        takes: &["1", "1", "64", "512", "0"],
        refuses: &["513", "65536", "65537"],
    },
    Knob {
        name: "max_cpu",
        takes: &["100", "100", "100", "50", "5", "1"],
        refuses: &["0", "101", "256"],
    },
    Knob {
        name: "threads",
        takes: &["1", "2", "2", "3", "5"],
        refuses: &["0", "65", "256"],
    },
    Knob {
        name: "governor",
        takes: &["manual", "manual", "auto"],
        refuses: &["[auto]", "manual auto"],
    },
    Knob {
        name: "scope",
        takes: &["all", "all", "all", "registered"],
        refuses: &["all registered", "[all]"],
    },
    Knob {
        name: "domain",
        takes: &["user", "user", "process"],
        refuses: &["users", "[global]", "user process"],
    },
    Knob {
        name: "undumpable",
        takes: &["siblings", "siblings", "leave"],
        refuses: &["sibling", "[leave]", "siblings leave"],
    },
    Knob {
        name: "content",
        takes: &["all", "all", "all", "zero"],
        refuses: &["zeros", "[all]", "all zero"],
    },
    Knob {
        name: "promise_floor",
        takes: &["0", "0", "1", "0%", "64", "5%"],
        refuses: &["4294967296", "101%", "%", "1 %"],
    },
    Knob {
        name: "promise_swap",
        takes: &["0", "1"],
        refuses: &["2", "257"],
    },
];

/// Writes and reads until time is up.
pub(super) fn write(stage: &Stage, mut rng: Rng) -> Result {
    let bad = refused::no_numbers();
    while stage.has_time() {
        let knob = &KNOBS[rng.below(KNOBS.len() as u64) as usize];
        match rng.below(11) {
            0..=4 => take(stage, knob, &mut rng)?,
            5..=7 => refuse(stage, knob, &bad, &mut rng)?,
            8 => merge_now(stage, &mut rng)?,
            _ => read(stage, &mut rng)?,
        }
        std::thread::sleep(Duration::from_micros(rng.below(2_000)));
    }
    Ok(())
}

/// Returns whether an error means that the module is not loaded at the moment.
fn is_away(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn take(stage: &Stage, knob: &Knob, rng: &mut Rng) -> Result {
    let text = *rng.pick(knob.takes);
    match knob::try_write(knob.name, format!("{text}\n").as_bytes()) {
        Ok(()) => stage.tally.count(&format!("write to {}", knob.name)),
        Err(error) if is_away(&error) => stage.tally.add("knobs that were away", 1),
        // Another thread may have started the scanner since the unmerging.
        Err(error) if knob.name == "domain" && error.raw_os_error() == Some(libc::EBUSY) => {
            stage.tally.count("change domain while pages are shared");
        }
        error => return error.context(|| format!("writing {text} to {}", knob.name)),
    }
    Ok(())
}

/// Merges a random process, which may exit or be left alone, while others write to `run`.
fn merge_now(stage: &Stage, rng: &mut Rng) -> Result {
    let pid = *rng.pick(&task::all());
    let refusals = [libc::ESRCH, libc::EPERM, libc::EBUSY, libc::ENOMEM];
    match knob::try_write(knob::WRITE_ONLY, pid.to_string().as_bytes()) {
        Ok(()) => stage.tally.count("merge a process now"),
        Err(error) if is_away(&error) => (),
        Err(error) if refusals.contains(&error.raw_os_error().unwrap_or(0)) => {
            stage.tally.count("refuse to merge a process now");
        }
        error => return error.context(|| format!("merging process {pid} now")),
    }
    Ok(())
}

fn refuse(stage: &Stage, knob: &Knob, bad: &[Vec<u8>], rng: &mut Rng) -> Result {
    let text = if rng.below(2) == 0 {
        rng.pick(bad).clone()
    } else {
        rng.pick(knob.refuses).as_bytes().to_vec()
    };
    let written = knob::try_write(knob.name, &text);
    if written.as_ref().is_err_and(is_away) {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
    let what = format!("writing {shown:?} to {}", knob.name);
    expect::errno(what, libc::EINVAL, written)?;
    stage.tally.count("write of what is refused");
    Ok(())
}

/// Every file has one line.
fn read(stage: &Stage, rng: &mut Rng) -> Result {
    let name = *rng.pick(&knob::READ_ONLY);
    match std::fs::read_to_string(knob::path(name)) {
        Ok(text) => {
            expect::that(text.ends_with('\n') && text.lines().count() == 1, || {
                format!("{name}: expected one line, found {text:?}")
            })?;
            stage.tally.count("read of a count");
        }
        Err(error) if is_away(&error) => {}
        Err(error) => return Err(error).context(|| format!("reading {name}")),
    }
    Ok(())
}
