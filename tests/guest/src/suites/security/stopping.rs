// SPDX-License-Identifier: GPL-2.0

//! Attempts of an ordinary user to stop others.

use std::time::Duration;

use guest::expect;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::content::Ids;
use guest::rng;
use guest::tests;
use guest::Result;

pub(super) const TESTS: &[Test] = tests![anon_vma_stays_locked_after_exits];

/// The number of processes that fork.
const PARENTS: usize = 4;
/// The number of pages that each child has as its own.
const PAGES: u64 = 12;
/// The time for which they fork.
const TIME: Duration = Duration::from_secs(20);

/// The anon_vma of a page is freed when the last process with the page ends, while the scanner may
/// still hold the page. Its memory then becomes the anon_vma of another process, with another lock. A
/// scanner that misses this takes one lock and releases another, and processes that fork and exit
/// then wait for ever.
fn anon_vma_stays_locked_after_exits(lab: &Lab) -> Result {
    let parents = lab.alices(PARENTS)?;
    scanner::start()?;
    for (index, parent) in parents.iter().enumerate() {
        let span = parent.anon(PAGES, Ids::each(1000 * (index as u64 + 1)))?;
        let seed = rng::seed().wrapping_add(index as u64);
        let time = TIME.as_millis() as u64;
        parent.begin("storm", &[span.addr, span.pages, seed, time])?;
    }
    let mut children = 0;
    for parent in &parents {
        children += parent.finish("storm")?;
    }
    scanner::stop()?;
    println!("security: {children} children");
    expect::that(children >= 200, || {
        format!("expected 200 children or more, found {children}")
    })
}
