// SPDX-License-Identifier: GPL-2.0

//! Unmerging again, merging again, and both beside busy processes.

use std::time::Duration;
use std::time::Instant;

use guest::expect;
use guest::expect::FailureContext;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::pages;
use guest::rng;
use guest::tests;
use guest::Result;

use super::expect_nothing_merged;
use super::expect_unmerged;
use super::merged_pair;
use super::IDS;

pub(super) const TESTS: &[Test] = tests![
    can_be_repeated,
    merging_starts_again,
    does_not_merge_until_restarted,
    works_while_processes_fork_and_end,
];

fn can_be_repeated(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    for _ in 0..3 {
        expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)?;
    }
    Ok(())
}

fn merging_starts_again(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    for _ in 0..3 {
        expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)?;
        scanner::merge()?;
        pages::expect_merged(&[(&a, in_a), (&b, in_b)])?;
        a.check(in_a, IDS)?;
        scanner::expect_exact_counts("after merging again")?;
    }
    Ok(())
}

fn does_not_merge_until_restarted(lab: &Lab) -> Result {
    let [(a, in_a), (b, in_b)] = merged_pair(lab)?;
    expect_unmerged(&[(&a, in_a), (&b, in_b)], IDS)?;
    let scanned = knob::number("pages_scanned")?;
    std::thread::sleep(Duration::from_millis(700));
    expect::eq(
        "pages_scanned after run=2",
        scanned,
        knob::number("pages_scanned")?,
    )?;
    expect_nothing_merged()
}

/// Unmerging races with everything that creates or removes mappings.
fn works_while_processes_fork_and_end(lab: &Lab) -> Result {
    let (a, b) = lab.pair()?;
    let (in_a, in_b) = (a.anon(256, IDS)?, b.anon(256, IDS)?);
    let workers = lab.alices(3)?;
    for (index, worker) in workers.iter().enumerate() {
        worker.churn(
            rng::seed().wrapping_add(index as u64),
            Duration::from_secs(8),
        )?;
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        scanner::start()?;
        scanner::wait_passes(2)?;
        scanner::unmerge()?;
        pages::expect_not_merged((&a, in_a))?;
        pages::expect_not_merged((&b, in_b))?;
    }
    for worker in &workers {
        worker
            .churned()
            .during(|| format!("KSM_V_SEED={}", rng::seed()))?;
    }
    scanner::unmerge()?;
    expect_nothing_merged()?;
    a.check(in_a, IDS)?;
    b.check(in_b, IDS)
}
