// SPDX-License-Identifier: GPL-2.0

//! What somebody with an account must not be able to stop.

use std::time::Duration;

use guest::content::Ids;
use guest::expect;
use guest::lab::Lab;
use guest::lab::Test;
use guest::rng;
use guest::scanner;
use guest::Result;

pub(super) const TESTS: &[Test] = &[("anon_vma_stays_locked_after_exits", anon_vma)];

/// Processes that fork.
const PARENTS: usize = 4;
/// Pages that each child has for its own.
const PAGES: u64 = 12;
/// How long they do so.
const TIME: Duration = Duration::from_secs(20);

/// A page's anon_vma is freed when the last process that has the page ends, while the scanner may
/// still hold the page; its memory is the anon_vma of another process then, with another lock.
/// A scanner that does not see that takes one lock and releases another: processes that fork and
/// end wait for ever.
fn anon_vma(lab: &Lab) -> Result {
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
