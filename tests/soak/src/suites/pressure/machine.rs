// SPDX-License-Identifier: GPL-2.0

//! The harness's changes to the memory of the whole machine.

use std::time::Duration;

use guest::kernel::procfs;
use guest::memory::swap::Swap;
use guest::Result;

use crate::stage::Stage;

use super::faults::Faults;
use super::limited;

/// Swap space, in MiB: more than the memory of all workers.
const SWAP: u64 = 64;
/// Longest pause between two operations, in milliseconds.
const PAUSE: u64 = 200;

/// The operations: name, weight, and function.
type Trouble = (&'static str, u64, fn(&Swap) -> Result);

const TROUBLES: &[Trouble] = &[
    ("drop_caches", 2, |_| {
        procfs::write("/proc/sys/vm/drop_caches", "3")
    }),
    ("compact_memory", 1, |_| {
        procfs::write("/proc/sys/vm/compact_memory", "1")
    }),
    ("memory.max", 3, |_| {
        limited::impose();
        Ok(())
    }),
    ("swapoff and swapon", 1, off_and_on),
];

/// Does random operations until time is up.
pub fn press(stage: &Stage) -> Result {
    let swap = Swap::open(SWAP)??;
    let faults = Faults::begin()?;
    let mut rng = stage.rng();
    let weights: u64 = TROUBLES.iter().map(|(_, weight, _)| weight).sum();
    limited::impose();
    while stage.has_time() {
        let (name, _, make) = choose(rng.below(weights));
        make(&swap)?;
        stage.tally.count(name);
        std::thread::sleep(Duration::from_millis(rng.below(PAUSE)));
    }
    if let Some(faults) = faults {
        faults.end(&stage.tally)?;
    }
    limited::lift();
    Ok(())
}

fn choose(mut number: u64) -> &'static Trouble {
    let found = TROUBLES.iter().find(|(_, weight, _)| {
        let found = number < *weight;
        number = number.saturating_sub(*weight);
        found
    });
    found.expect("the number is below the sum of the weights")
}

/// Removes and adds swap space. All swapped pages have to fit into memory in between.
fn off_and_on(swap: &Swap) -> Result {
    limited::lift();
    swap.off()?;
    swap.on_again()?;
    limited::impose();
    Ok(())
}
