// SPDX-License-Identifier: GPL-2.0

//! Tests of regions, some of which are visited less often than others.

use engine::huge::SplitRule;
use engine::region::middle;
use engine::region::Plan;
use engine::region::RegionId;
use engine::region::Regions;
use engine::region::VisitOutcome;
use engine::region::LONGEST_INTERVAL;
use model::memory::Memory;
use model::memory::Plan as MemoryPlan;

const PATIENCE: u8 = 3;
const PAGES: u16 = 512;
/// Mergeable parts at which a huge page is split.
const ENOUGH: u16 = 64;
/// A digest of mapped pages, for tests in which it does not matter.
const SAME: u32 = 1;

const IN_VAIN: VisitOutcome = VisitOutcome {
    looked_at: PAGES,
    found_merged: 0,
    merged: 0,
    mergeable_in_large: 0,
    is_promising: false,
};

/// A visit that found all pages merged.
const MERGED: VisitOutcome = VisitOutcome {
    found_merged: PAGES,
    ..IN_VAIN
};

/// How the scanner finds a region.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    TooEarly,
    Due,
    Settled,
}

/// A scanner that goes from pass to pass.
struct Passes {
    regions: Regions<Memory>,
    memory: Memory,
    pass: u64,
    longest_interval: u8,
}

impl Passes {
    fn new(longest_interval: u8) -> Self {
        Passes {
            regions: Regions::new(7),
            memory: Memory::new(MemoryPlan::Ample),
            pass: 0,
            longest_interval,
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            pass: self.pass,
            patience: PATIENCE,
            longest_interval: self.longest_interval,
            split: SplitRule::at_least(ENOUGH),
        }
    }

    /// Reaches a region and visits it with this outcome if it is due. Returns whether it was visited.
    fn comes_to(&mut self, id: u64, digest: u32, outcome: VisitOutcome) -> bool {
        self.finds(id, digest, outcome) != Found::TooEarly
    }

    /// Like [`Self::comes_to`], but also returns whether the region was settled.
    fn finds(&mut self, id: u64, digest: u32, outcome: VisitOutcome) -> Found {
        let plan = self.plan();
        let visit = self.regions.recall(RegionId(id), &plan).visit(|| digest);
        let Some(visit) = visit else {
            return Found::TooEarly;
        };
        let (found, outcome) = if visit.is_settled {
            (Found::Settled, VisitOutcome::default())
        } else {
            (Found::Due, outcome)
        };
        let ended = self.regions.end_visit(&self.memory, visit, &plan, outcome);
        assert_eq!(ended, Ok(()));
        found
    }

    fn next(&mut self) {
        self.regions.end_pass(&self.memory, self.pass);
        self.pass += 1;
    }

    /// Those of the next `count` passes in which a region is visited, if each visit has this outcome.
    fn visits(&mut self, count: u64, outcome: VisitOutcome) -> Vec<u64> {
        let mut visited = Vec::new();
        for _ in 0..count {
            if self.comes_to(1, SAME, outcome) {
                visited.push(self.pass);
            }
            self.next();
        }
        visited
    }
}

#[test]
fn barren_regions_are_visited_every_second_fourth_eighth_pass() {
    let visits = |longest| Passes::new(longest).visits(34, IN_VAIN);
    assert_eq!(visits(8), [0, 1, 2, 4, 8, 16, 24, 32]);
    assert_eq!(visits(4)[..6], [0, 1, 2, 4, 8, 12]);
    assert_eq!(visits(2)[..5], [0, 1, 2, 4, 6]);
    assert_eq!(visits(1).len(), 34);
}

#[test]
fn a_merge_or_the_hope_of_one_brings_a_visit_in_the_next_pass() {
    let merged = VisitOutcome {
        merged: 1,
        ..IN_VAIN
    };
    let promising = VisitOutcome {
        is_promising: true,
        ..IN_VAIN
    };
    for outcome in [merged, promising] {
        let mut passes = Passes::new(8);
        passes.visits(8, IN_VAIN);
        assert_eq!(passes.visits(1, outcome), [8]);
        assert_eq!(passes.visits(7, IN_VAIN), [9, 10, 11, 12]);
    }
}

#[test]
fn other_pages_in_a_barren_region_bring_a_visit_at_once() {
    let mut passes = Passes::new(8);
    passes.visits(9, IN_VAIN);
    assert!(!passes.comes_to(1, SAME, IN_VAIN));
    assert!(passes.comes_to(1, SAME + 1, IN_VAIN));
    passes.next();
    assert!(!passes.comes_to(1, SAME + 1, IN_VAIN));
    assert!(passes.comes_to(1, SAME, IN_VAIN));
}

/// A thrashing region always has other pages mapped: merging replaces them, and copying replaces them
/// again.
#[test]
fn thrashing_regions_are_visited_less_often_whatever_is_mapped() {
    let mut passes = Passes::new(8);
    let all = VisitOutcome {
        merged: PAGES,
        ..IN_VAIN
    };
    let mut visited = Vec::new();
    for digest in 1..=40 {
        if passes.comes_to(1, digest, all) {
            visited.push(passes.pass);
        }
        passes.next();
    }
    // The first merges were broken before the second visit, and so on.
    assert_eq!(visited, [0, 1, 2, 4, 8, 16, 24, 32]);
}

/// Comes to a region in each of the next `count` passes, as khugepaged collapses it after `period` passes
/// if some of its pages are merged. They are merged at the third sighting since. Returns how often it was
/// collapsed.
fn collapses(passes: &mut Passes, count: u64, period: u64) -> u64 {
    let (mut sightings, mut digest, mut collapses) = (0, SAME, 0);
    for pass in 1..=count {
        let is_merged = sightings >= 3;
        let outcome = VisitOutcome {
            found_merged: if is_merged { PAGES / 4 } else { 0 },
            merged: if sightings == 2 { PAGES / 4 } else { 0 },
            // The first sighting is the first of that content.
            is_promising: sightings == 1,
            ..IN_VAIN
        };
        if passes.comes_to(1, digest, outcome) && !is_merged {
            sightings += 1;
            digest += u32::from(sightings == 3);
        }
        if pass % period == 0 && sightings >= 3 {
            (sightings, digest, collapses) = (0, digest + 1, collapses + 1);
        }
        passes.next();
    }
    collapses
}

#[test]
fn regions_that_thrash_are_visited_less_often_even_if_merging_again_takes_several_visits() {
    let found = collapses(&mut Passes::new(8), 384, 1);
    // One in three visits, of which there are no more than one in eight passes in the long run.
    assert!((10..=20).contains(&found), "{found} collapses");
    // Every third pass, without a memory of what was broken.
    assert_eq!(collapses(&mut Passes::new(1), 384, 1), 128);
}

#[test]
fn pages_that_are_seldom_broken_are_merged_again() {
    assert_eq!(collapses(&mut Passes::new(8), 3200, 100), 32);
}

/// Thrashing ends with a visit that finds the merges intact: new pages are then met at once.
#[test]
fn a_region_that_keeps_its_merges_thrashes_no_longer() {
    let mut passes = Passes::new(8);
    let again = VisitOutcome {
        merged: PAGES / 4,
        ..IN_VAIN
    };
    let intact = VisitOutcome {
        found_merged: PAGES / 4,
        ..IN_VAIN
    };
    let mut visited = |digest, outcome| {
        let is_visited = passes.comes_to(1, digest, outcome);
        passes.next();
        is_visited
    };
    assert!(visited(SAME, again));
    assert!(
        visited(SAME, again),
        "the merges of the first visit were broken"
    );
    assert!(visited(SAME, intact) || visited(SAME, intact));
    // Not due, and some other page is mapped.
    assert!(visited(SAME + 1, intact));
}

#[test]
fn merges_that_last_are_no_thrashing() {
    let mut passes = Passes::new(8);
    for visit in 0..40 {
        // One page of four is broken each time.
        let outcome = VisitOutcome {
            found_merged: visit * 3,
            merged: 4,
            ..IN_VAIN
        };
        assert!(passes.comes_to(1, u32::from(visit) + 1, outcome));
        passes.next();
    }
}

#[test]
fn contents_are_remembered_until_the_next_visit_of_a_barren_region() {
    let mut passes = Passes::new(8);
    let mut last = None;
    for _ in 0..64 {
        let plan = passes.plan();
        if let Some(visit) = passes.regions.recall(RegionId(1), &plan).visit(|| SAME) {
            assert!((1..=LONGEST_INTERVAL).contains(&visit.next_within));
            if let Some(expected) = last.replace(passes.pass + u64::from(visit.next_within)) {
                assert_eq!(passes.pass, expected);
            }
            let ended = passes
                .regions
                .end_visit(&passes.memory, visit, &plan, IN_VAIN);
            assert_eq!(ended, Ok(()));
        }
        passes.next();
    }
}

#[test]
fn all_regions_meet_in_the_passes_of_the_longest_interval() {
    let mut passes = Passes::new(8);
    let mut met = Vec::new();
    for pass in 0..64u64 {
        // Each pass reaches one more region.
        let visited: Vec<u64> = (0..=pass)
            .filter(|&id| passes.comes_to(id, SAME, IN_VAIN))
            .collect();
        if visited.len() as u64 == pass + 1 {
            met.push(pass);
        }
        passes.next();
    }
    for pass in (0..64).step_by(8) {
        assert!(met.contains(&pass), "{pass}: {met:?}");
    }
}

#[test]
fn regions_that_are_gone_are_forgotten() {
    let mut passes = Passes::new(8);
    for id in 0..1000 {
        assert!(passes.comes_to(id, SAME, IN_VAIN));
    }
    assert!(passes.regions.bytes() >= 16_000);
    for _ in 0..2 {
        passes.next();
    }
    assert_eq!(passes.regions.bytes(), 0);
}

#[test]
fn a_region_without_pages_to_merge_is_barren() {
    let mut passes = Passes::new(8);
    let empty = VisitOutcome {
        looked_at: 0,
        ..IN_VAIN
    };
    let mut barren = Passes::new(8);
    assert_eq!(passes.visits(40, empty), barren.visits(40, IN_VAIN));
    // The newly mapped pages may be mergeable.
    assert!(passes.comes_to(0, SAME + 1, empty));
}

#[test]
fn what_can_not_be_remembered_is_visited() {
    let mut passes = Passes::new(8);
    passes.memory = Memory::new(MemoryPlan::Only(0));
    let plan = passes.plan();
    let visit = passes
        .regions
        .recall(RegionId(1), &plan)
        .visit(|| SAME)
        .unwrap();
    let ended = passes
        .regions
        .end_visit(&passes.memory, visit, &plan, IN_VAIN);
    assert!(ended.is_err());
    passes.next();
    assert!(passes
        .regions
        .recall(RegionId(1), &passes.plan())
        .visit(|| SAME)
        .is_some());
}

/// Reaches a region that is due in each pass, in `passes.pass` and the next ones, with these digests.
fn in_each_pass(passes: &mut Passes, digests: &[u32], outcome: VisitOutcome) -> Vec<Found> {
    let mut found = Vec::new();
    for &digest in digests {
        found.push(passes.finds(1, digest, outcome));
        passes.next();
    }
    found
}

#[test]
fn a_region_is_settled_while_the_same_merged_pages_are_mapped() {
    use Found::Due;
    use Found::Settled;
    let mut passes = Passes::new(1);
    let just_merged = VisitOutcome {
        merged: PAGES,
        ..IN_VAIN
    };
    assert_eq!(in_each_pass(&mut passes, &[1], just_merged), [Due]);
    // Other pages are mapped since: the shared ones. Then one was broken, and merged again.
    assert_eq!(
        in_each_pass(&mut passes, &[2, 2, 2, 3, 3, 3], MERGED),
        [Due, Settled, Settled, Due, Settled, Settled]
    );
}

#[test]
fn a_region_with_a_page_that_is_not_merged_is_never_settled() {
    let mut passes = Passes::new(1);
    let all_but_one = VisitOutcome {
        found_merged: PAGES - 1,
        ..IN_VAIN
    };
    let found = in_each_pass(&mut passes, &[SAME; 6], all_but_one);
    assert!(found.iter().all(|found| *found == Found::Due), "{found:?}");
    assert_eq!(passes.regions.bytes(), 0);
}

#[test]
fn settled_regions_are_looked_at_every_sixteen_passes() {
    let found = in_each_pass(&mut Passes::new(1), &[SAME; 40], MERGED);
    let looked_at = |pass: &usize| found[*pass] == Found::Due;
    assert_eq!(
        (0..40).filter(looked_at).collect::<Vec<_>>(),
        [0, 1, 16, 32]
    );
}

/// A settled visit does not count pages, but must not forget how many were merged. Otherwise one more
/// merge would look like thrashing, or a broken page would look like none.
#[test]
fn a_settled_region_is_visited_as_seldom_as_any_barren_one() {
    let mut passes = Passes::new(8);
    assert_eq!(passes.visits(34, MERGED), [0, 1, 2, 4, 8, 16, 24, 32]);
    let one_more = VisitOutcome {
        looked_at: PAGES + 1,
        merged: 1,
        ..MERGED
    };
    assert_eq!(passes.finds(1, SAME + 1, one_more), Found::Due);
    passes.next();
    // This was no thrashing: the next visit is in the next pass.
    assert_eq!(passes.finds(1, SAME + 2, MERGED), Found::Due);
}

#[test]
fn an_area_is_parted_where_a_region_begins() {
    const REGION: usize = 512 * 4096;
    for (rest, expected) in [
        (0..8 * REGION, Some(4 * REGION)),
        // Rather too early than too late, and never at either end.
        (0..3 * REGION, Some(REGION)),
        (REGION - 4096..REGION + 4096, Some(REGION)),
        (5 * REGION + 4096..7 * REGION, Some(6 * REGION)),
        (4096..REGION + 4096, Some(REGION)),
        (0..REGION, None),
        (REGION..2 * REGION, None),
        (4096..8192, None),
    ] {
        assert_eq!(middle(&rest), expected, "of {rest:x?}");
    }
}

#[test]
fn what_is_no_area_is_not_parted() {
    for (start, end) in [(8192, 8192), (8192, 4096), (usize::MAX, 0)] {
        assert_eq!(middle(&(start..end)), None);
    }
    let high = usize::MAX - 4095;
    assert_eq!(middle(&(high..usize::MAX)), None);
}

/// A visit that left this number of mergeable parts in large pages.
fn kept(parts: u16) -> VisitOutcome {
    VisitOutcome {
        mergeable_in_large: parts,
        ..IN_VAIN
    }
}

#[test]
fn a_region_is_worth_splitting_once_a_visit_found_enough_parts() {
    for longest_interval in [1, LONGEST_INTERVAL] {
        let mut passes = Passes::new(longest_interval);
        let mut after = |parts| {
            assert!(passes.comes_to(1, SAME, kept(parts)));
            // Without intervals, a record that is not renewed ends with the pass.
            passes.next();
            let plan = passes.plan();
            passes
                .regions
                .recall(RegionId(1), &plan)
                .is_worth_splitting()
        };
        assert!(!after(ENOUGH - 1));
        assert!(after(ENOUGH));
        assert!(after(PAGES));
        assert!(!after(0));
    }
}

#[test]
fn a_visit_knows_what_the_last_one_found() {
    let mut passes = Passes::new(LONGEST_INTERVAL);
    for (parts, was_worth) in [(ENOUGH, false), (0, true), (0, false)] {
        let plan = passes.plan();
        let visit = passes.regions.recall(RegionId(1), &plan).visit(|| SAME);
        assert_eq!(visit.map(|visit| visit.is_worth_splitting), Some(was_worth));
        assert!(passes.comes_to(1, SAME, kept(parts)));
        passes.next();
    }
}

/// The next visit is to merge what this one has left. If it can't, there is no further hope.
#[test]
fn a_region_that_becomes_worth_splitting_is_visited_in_the_next_pass() {
    let mut passes = Passes::new(LONGEST_INTERVAL);
    assert_eq!(passes.visits(16, IN_VAIN), [0, 1, 2, 4, 8]);
    assert!(passes.comes_to(1, SAME, kept(ENOUGH)));
    passes.next();
    assert_eq!(passes.visits(15, kept(ENOUGH)), [17, 18, 19, 20, 24]);
}

/// The flags share a word with the number of merged pages.
#[test]
fn what_is_worth_splitting_can_still_thrash_and_settle() {
    let mut passes = Passes::new(LONGEST_INTERVAL);
    let all = VisitOutcome {
        merged: PAGES,
        ..kept(PAGES)
    };
    let merged = VisitOutcome {
        mergeable_in_large: PAGES,
        ..MERGED
    };
    for (outcome, found) in [
        (all, Found::Due),
        (merged, Found::Due),
        (all, Found::Settled),
    ] {
        assert_eq!(passes.finds(1, SAME, outcome), found);
        passes.next();
    }
    // Other pages: all merges are broken, and made again.
    for found in [Found::Due, Found::Due, Found::TooEarly] {
        assert_eq!(passes.finds(1, SAME + 1, all), found);
        passes.next();
    }
}
