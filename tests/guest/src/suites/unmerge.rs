// SPDX-License-Identifier: GPL-2.0

//! `run=2` unmerges all merged pages in all processes before the write returns.

use guest::expect;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::ksm_v::scanner::Counts;
use guest::lab;
use guest::lab::Lab;
use guest::memory::census::Census;
use guest::memory::content::Ids;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;

mod breaks;
mod cut_short;
mod reading;
mod restart;
mod waits;
mod writer;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    [
        breaks::TESTS,
        restart::TESTS,
        cut_short::TESTS,
        waits::TESTS,
        reading::TESTS,
    ]
    .iter()
    .flat_map(|tests| lab::trials("unmerge", tests))
    .collect()
}

const PAGES: u64 = 16;
const IDS: Ids = Ids::each(100);

/// Expects that nothing is merged any more, according to the counts and to the page tables.
fn expect_nothing_merged() -> Result {
    let zero = Counts {
        shared: 0,
        sharing: 0,
        zero: 0,
    };
    expect::eq("counts after run=2", zero, Counts::read()?)?;
    expect::eq(
        "merge_ratio_x100 after run=2",
        0,
        knob::number("merge_ratio_x100")?,
    )?;
    let census = Census::take()?;
    let left: Vec<_> = census.frames().take(4).collect();
    expect::that(left.is_empty(), || {
        format!(
            "expected no merged page after run=2, found {}, as {left:?}",
            census.shared()
        )
    })
}

/// Two processes with merged pages of [`IDS`].
fn merged_pair(lab: &Lab) -> Result<[(Peer, Span); 2]> {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(PAGES, IDS)?, b.anon(PAGES, IDS)?);
    scanner::merge()?;
    pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
    Ok([(a, in_a), (b, in_b)])
}

/// Unmerges, and expects that no page is shared any more.
fn expect_unmerged(all: &[pages::Pages<'_>], ids: Ids) -> Result {
    scanner::unmerge()?;
    expect_nothing_merged()?;
    for &(peer, span) in all {
        pages::expect_mappings(&pages::expect_not_merged((peer, span))?, 1)?;
        peer.check(span, ids)?;
    }
    Ok(())
}
