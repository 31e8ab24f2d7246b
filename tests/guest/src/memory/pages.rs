// SPDX-License-Identifier: GPL-2.0

//! Expectations about the pages of peers.

use std::fmt::Display;

use crate::expect;
use crate::expect::FailureContext;
use crate::ksm_v::debugfs;
use crate::memory::pagemap::Frame;
use crate::process::peer::Peer;
use crate::Result;
use crate::Span;

/// A span of pages in a process.
pub type Pages<'a> = (&'a Peer, Span);

/// Expects that the corresponding pages of all processes are merged, and returns their frames.
pub fn expect_merged(all: &[Pages<'_>]) -> Result<Vec<Frame>> {
    let (first, span) = all[0];
    let frames = first.frames(span)?;
    for &(peer, other) in &all[1..] {
        let what = format!(
            "frames of process {}, {other:?}, merged with those of process {}, {span:?}",
            peer.pid(),
            first.pid()
        );
        let refusals = || {
            format!(
                "refused so far: {:?}",
                debugfs::refusals().unwrap_or_default()
            )
        };
        expect_same(what, &frames, &peer.frames(other)?).during(refusals)?;
    }
    for &frame in &frames {
        let flags = frame.flags()?;
        expect::that(flags.ksm(), || {
            format!("{frame:?} of {span:?}: expected to be merged, found {flags:?}")
        })?;
    }
    Ok(frames)
}

/// Expects that all pages of a span are present and not merged, and returns their frames.
pub fn expect_not_merged((peer, span): Pages<'_>) -> Result<Vec<Frame>> {
    let frames = peer.frames(span)?;
    for (index, frame) in frames.iter().enumerate() {
        let flags = frame.flags()?;
        expect::that(!flags.ksm() && !flags.zero_page(), || {
            format!(
                "process {}, page {index} of {span:?}: expected not to be merged, \
                 found {frame:?} with {flags:?}",
                peer.pid()
            )
        })?;
    }
    Ok(frames)
}

/// Expects that all pages of a span map the shared zero page.
pub fn expect_zero_page((peer, span): Pages<'_>) -> Result {
    for (index, frame) in peer.frames(span)?.iter().enumerate() {
        let flags = frame.flags()?;
        expect::that(flags.zero_page(), || {
            format!(
                "process {}, page {index} of {span:?}: expected the shared zero page, \
                 found {frame:?} with {flags:?}",
                peer.pid()
            )
        })?;
    }
    Ok(())
}

/// Expects that the frames of a span are unchanged.
pub fn expect_frames(what: &str, (peer, span): Pages<'_>, before: &[Frame]) -> Result {
    let found = peer.frames(span)?;
    let what = format!("{what}: frames of process {}, {span:?}", peer.pid());
    expect_same(what, before, &found)
}

/// Expects that two lists of frames are equal, and reports the first differences.
fn expect_same(what: impl Display, expected: &[Frame], found: &[Frame]) -> Result {
    expect::eq(format!("number of {what}"), expected.len(), found.len())?;
    let mut pairs = expected.iter().zip(found);
    match pairs.position(|(expected, found)| expected != found) {
        Some(index) => expect::eq(
            format!("{what}: page {index}"),
            expected[index],
            found[index],
        ),
        None => Ok(()),
    }
}

/// Expects that every frame is mapped `count` times.
pub fn expect_mappings(frames: &[Frame], count: u64) -> Result {
    for frame in frames {
        expect::eq(format!("mappings of {frame:?}"), count, frame.mappings()?)?;
    }
    Ok(())
}

/// Expects that two sets of frames are disjoint.
pub fn expect_disjoint(what: &str, some: &[Frame], others: &[Frame]) -> Result {
    let common = some.iter().find(|frame| others.contains(frame));
    expect::that(common.is_none(), || {
        format!("{what}: expected no common frame, found {common:?}")
    })
}
