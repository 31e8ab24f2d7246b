// SPDX-License-Identifier: GPL-2.0

//! Everything at once: processes that change their memory, the module that merges it, and the kernel
//! that moves it, swaps it out and compacts it. A fixed number of steps, at random.

use guest::cgroup::Cgroup;
use guest::expect;
use guest::expect::FailureContext;
use guest::knob;
use guest::lab::Lab;
use guest::lab::Test;
use guest::numa;
use guest::peer::churn;
use guest::peer::Peer;
use guest::peer::User;
use guest::procfs;
use guest::rng;
use guest::rng::Rng;
use guest::scanner;
use guest::Result;
use guest::Span;

use super::reclaim;
use super::MOVABLE;

pub(super) const TESTS: &[Test] = &[
    ("processes_that_work_while_pages_move", storm),
    ("processes_that_work_while_movable_changes", changing),
];

const WORKERS: usize = 4;
const ROUNDS: u64 = 4;
/// Of each worker and round.
const STEPS: u64 = 60;
/// What the kernel is made to do in a round.
const DEEDS: u64 = 24;

/// Where a worker may have its pages.
fn places() -> Vec<u64> {
    let span = |&place: &u64| Span::new(place, churn::PAGES);
    let of = |span: Span| (0..span.pages).map(move |index| span.page(index).addr);
    churn::PLACES.iter().map(span).flat_map(of).collect()
}

/// Has the kernel do one thing to the workers' memory. It may find that it can't.
fn deed(rng: &mut Rng, workers: &[Peer], cgroup: &Cgroup) -> Result {
    match rng.below(8) {
        0 => procfs::write("/proc/sys/vm/compact_memory", "1")?,
        1 | 2 => {
            let _ = cgroup.reclaim(1 << 19);
        }
        3 => procfs::write("/proc/sys/vm/drop_caches", "3")?,
        _ => {
            let (worker, node) = (rng.pick(workers), rng.below(2) as i32);
            let addresses = places();
            let _ = numa::move_pages(worker.pid(), &addresses, &vec![node; addresses.len()]);
        }
    }
    Ok(())
}

/// Runs all, with something else to do before each deed. Returns the most pages that were shared.
fn run(lab: &Lab, between: impl Fn(&mut Rng) -> Result) -> Result<u64> {
    let swap = reclaim::swap()?;
    let seed = rng::seed();
    let mut rng = Rng::new(seed);
    let cgroup = Cgroup::new("storm")?;
    let workers: Vec<Peer> = (0..WORKERS)
        .map(|_| lab.peer_in(User::Alice, &cgroup))
        .collect::<Result<_>>()?;
    let mut most = 0;
    scanner::start()?;
    for _ in 0..ROUNDS {
        for worker in &workers {
            worker.churn_steps(rng.number(), STEPS)?;
        }
        for _ in 0..DEEDS {
            between(&mut rng)?;
            deed(&mut rng, &workers, &cgroup)?;
            most = most.max(knob::number("pages_sharing")?);
        }
        for worker in &workers {
            worker.churned().during(|| format!("KSM_V_SEED={seed}"))?;
        }
    }
    scanner::stop()?;
    expect::eq("processes killed", 0, cgroup.killed()?)?;
    scanner::expect_exact_counts("after the storm")?;
    scanner::unmerge()?;
    drop(workers);
    // No entry is left that nobody has: this would look for it for ever.
    swap.off()?;
    Ok(most)
}

fn storm(lab: &Lab) -> Result {
    let migrated = || procfs::number_in("/proc/vmstat", "pgmigrate_success");
    let before = migrated()?;
    let most = run(lab, |_| Ok(()))?;
    expect::ne("pages shared at some time", 0, most)?;
    expect::ne("pages migrated", before, migrated()?)?;
    Ok(())
}

fn changing(lab: &Lab) -> Result {
    run(lab, |rng| match rng.below(8) {
        0 => {
            knob::set("run", 2)?;
            knob::set("run", 1)
        }
        _ => knob::set(MOVABLE, rng.below(2)),
    })?;
    knob::set(MOVABLE, 1)
}
