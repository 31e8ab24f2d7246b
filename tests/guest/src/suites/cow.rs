// SPDX-License-Identifier: GPL-2.0

//! Operations of processes on merged pages: a process that writes gets a copy, all others keep their
//! contents, and the counts follow.

use guest::kernel::feature::Feature;
use guest::ksm_v::scanner;
use guest::lab;
use guest::lab::Lab;
use guest::memory::content::Ids;
use guest::memory::pagemap::Frame;
use guest::memory::pages;
use guest::process::peer::Peer;
use guest::Result;
use guest::Span;
use libtest_mimic::Trial;

mod mappings;
mod others;
mod processes;
mod reclaim;
mod writes;

/// The tests of this suite.
pub fn trials() -> Vec<Trial> {
    let tests = [
        writes::TESTS,
        processes::TESTS,
        mappings::TESTS,
        others::TESTS,
        reclaim::TESTS,
    ];
    let mut trials: Vec<Trial> = tests
        .iter()
        .flat_map(|tests| lab::trials("cow", tests))
        .collect();
    trials.extend(lab::skippable_trials("cow", reclaim::SKIPPABLE));
    trials.extend(lab::trials_with(
        &[Feature::SoftDirty],
        "cow",
        others::SOFT_DIRTY,
    ));
    trials
}

/// Size of a region in these tests, in pages.
const PAGES: u64 = 8;
/// The contents of the merged pages.
const IDS: Ids = Ids::each(100);
/// The contents that are written to them.
const NEW: Ids = Ids::each(900);

/// Three processes that share merged pages; the module is stopped.
struct Trio {
    a: Peer,
    in_a: Span,
    b: Peer,
    in_b: Span,
    c: Peer,
    in_c: Span,
    frames: Vec<Frame>,
}

impl Trio {
    fn new(lab: &Lab) -> Result<Self> {
        let (a, b) = lab.pair()?;
        let c = lab.alice()?;
        let (in_a, in_b, in_c) = (
            a.anon(PAGES, IDS)?,
            b.anon(PAGES, IDS)?,
            c.anon(PAGES, IDS)?,
        );
        scanner::merge()?;
        let frames = pages::expect_merged(&[(&a, in_a), (&b, in_b), (&c, in_c)])?;
        pages::expect_mappings(&frames, 3)?;
        scanner::expect_exact_counts("after merging")?;
        Ok(Trio {
            a,
            in_a,
            b,
            in_b,
            c,
            in_c,
            frames,
        })
    }

    /// Expects that the processes B and C have their old frames and contents.
    fn expect_others_unchanged(&self) -> Result {
        pages::expect_frames("other sharers", (&self.b, self.in_b), &self.frames)?;
        pages::expect_frames("other sharers", (&self.c, self.in_c), &self.frames)?;
        self.b.check(self.in_b, IDS)?;
        self.c.check(self.in_c, IDS)
    }

    /// Expects that A has private pages with these contents, that the others are unchanged, and that
    /// the counts are exact.
    fn expect_private_copy(&self, span: Span, ids: Ids, when: &str) -> Result {
        self.a.check(span, ids)?;
        let own = pages::expect_not_merged((&self.a, span))?;
        pages::expect_mappings(&own, 1)?;
        self.expect_others_unchanged()?;
        pages::expect_mappings(&self.frames, 2)?;
        scanner::expect_exact_counts(when).map(drop)
    }
}
