// SPDX-License-Identifier: GPL-2.0

//! All kernel operations at once: processes that change their memory, the module that merges it, and
//! the kernel that moves, swaps and compacts it. The steps are random, and their number is fixed.

use guest::expect;
use guest::expect::FailureContext;
use guest::kernel::cgroup::Cgroup;
use guest::kernel::procfs;
use guest::ksm_v::knob;
use guest::ksm_v::scanner;
use guest::lab::Lab;
use guest::lab::Test;
use guest::memory::numa;
use guest::process::peer::churn;
use guest::process::peer::Peer;
use guest::process::peer::User;
use guest::rng;
use guest::rng::Rng;
use guest::tests;
use guest::Result;
use guest::Span;

use super::reclaim;
use super::MOVABLE;

pub(super) const TESTS: &[Test] = tests![
    processes_that_work_while_pages_move,
    processes_that_work_while_movable_changes,
];

const WORKERS: usize = 4;
const ROUNDS: u64 = 4;
/// Steps of each worker in each round.
const STEPS: u64 = 60;
/// Kernel operations in each round.
const DEEDS: u64 = 24;

/// The addresses where a worker may have its pages.
fn places() -> Vec<u64> {
    let span = |&place: &u64| Span::new(place, churn::PAGES);
    let of = |span: Span| (0..span.pages).map(move |index| span.page(index).addr);
    churn::PLACES.iter().map(span).flat_map(of).collect()
}

/// Makes the kernel perform one operation on the workers' memory. It may fail.
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

/// Runs everything, calling `between` before each operation. Returns the highest number of shared
/// pages.
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
    // Every swap entry must have an owner, or `swapoff` would search for the owner for ever.
    swap.off()?;
    Ok(most)
}

fn processes_that_work_while_pages_move(lab: &Lab) -> Result {
    let migrated = || procfs::number_in("/proc/vmstat", "pgmigrate_success");
    let before = migrated()?;
    let most = run(lab, |_| Ok(()))?;
    expect::ne("pages shared at some time", 0, most)?;
    expect::ne("pages migrated", before, migrated()?)?;
    Ok(())
}

fn processes_that_work_while_movable_changes(lab: &Lab) -> Result {
    run(lab, |rng| match rng.below(8) {
        0 => {
            knob::set("run", 2)?;
            knob::set("run", 1)
        }
        _ => knob::set(MOVABLE, rng.below(2)),
    })?;
    knob::set(MOVABLE, 1)
}
