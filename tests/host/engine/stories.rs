// SPDX-License-Identifier: GPL-2.0

//! Random stories of a machine that checks every answer of the engine: see [`World`].

use crate::property;
use engine::Domain;
use engine::HashKind;
use model::letters::Letter;
use model::letters::ALPHABET;
use model::letters::ZERO;
use model::memory::Plan;
use model::story::Op;
use model::story::Outcome;
use model::story::Setting;
use model::story::Story;
use model::story::SLOTS;
use model::world::Events;
use model::world::World;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::prelude::Just;
use proptest::prelude::Strategy;
use proptest::prop_oneof;
use std::cell::RefCell;

fn domain() -> impl Strategy<Value = Domain> {
    prop_oneof![6 => Just(1), 2 => Just(2), 1 => Just(u64::MAX)].prop_map(Domain)
}

fn letter() -> impl Strategy<Value = Letter> {
    prop_oneof![5 => 2..4u32, 2 => 0..ALPHABET].prop_map(Letter)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Merge),
        1 => Just(Outcome::Fail),
        1 => Just(Outcome::Fresh),
        1 => Just(Outcome::KeptHuge),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    prop_oneof![
        14 => (slot(), 1..5usize, domain(), letter()).prop_map(|(first, count, domain, letter)| {
            Op::Map { first, count, domain, letter }
        }),
        10 => (slot(), letter(), any::<bool>()).prop_map(|(slot, letter, report)| Op::Write {
            slot,
            letter,
            report
        }),
        8 => (slot(), slot(), proptest::option::weighted(0.3, domain()))
            .prop_map(|(from, to, domain)| Op::Fork { from, to, domain }),
        4 => slot().prop_map(|slot| Op::Unmap { slot }),
        8 => slot().prop_map(|slot| Op::Free { slot }),
        40 => (slot(), outcome()).prop_map(|(slot, outcome)| Op::Scan { slot, outcome }),
        16 => outcome().prop_map(|outcome| Op::Pass { outcome }),
        3 => Just(Op::EndPass),
        3 => Just(Op::Recount),
        2 => Just(Op::ForgetContents),
        1 => Just(Op::Init),
        1 => (0..6u8).prop_map(Op::PromoteAfter),
        1 => (0..9u32).prop_map(Op::MaxPageSharing),
        2 => (0..10u8, 0..10u8).prop_map(|(longest, remembered_for)| Op::Interval {
            longest,
            remembered_for,
        }),
        1 => (1..300u16).prop_map(Op::Flood),
    ]
}

fn setting(plan: impl Strategy<Value = Plan>) -> impl Strategy<Value = Setting> {
    let hash = prop_oneof![15 => Just(HashKind::Wide), 1 => Just(HashKind::Bytewise)];
    (hash, any::<u64>(), plan, 1..5u8).prop_map(|(hash, seed, plan, promote_after)| Setting {
        hash,
        seed,
        plan,
        promote_after,
    })
}

fn story(plan: impl Strategy<Value = Plan>) -> impl Strategy<Value = Story> {
    (setting(plan), vec(op(), 1..160)).prop_map(|(setting, ops)| Story { setting, ops })
}

/// Checks `cases` random stories on machines whose allocations follow `plan`, and returns the counts of
/// events.
fn tell(cases: u32, plan: impl Strategy<Value = Plan>) -> Events {
    let events = RefCell::new(Events::default());
    property::holds(cases, story(plan), |Story { setting, ops }| {
        let mut world = World::new(setting, &events);
        for op in &ops {
            world.step(op);
        }
    });
    events.into_inner()
}

#[test]
fn engine_agrees_with_the_reference_and_the_machine() {
    let events = tell(200, Just(Plan::Ample));
    assert_eq!(events.failures, 0);
    for (name, count) in [
        ("waits", events.waits),
        ("zeros", events.zeros),
        ("merged twins", events.merged_twins),
        ("merged into shared", events.merged_into_shared),
        ("refuted twins", events.refuted_twins),
        ("refuted shared", events.refuted_shared),
        ("retired", events.retired),
        ("reinstated", events.reinstated),
        ("unmerged", events.unmerged),
        ("exact counts", events.exact_counts),
    ] {
        // The rarest event happens some thirty times; the stories are drawn anew in each run.
        assert!(count >= 5, "{count} {name}: the stories say little");
    }
}

#[test]
fn engine_agrees_with_the_reference_while_memory_fails() {
    let plan = prop_oneof![
        2 => vec(any::<bool>(), 1..9).prop_map(Plan::Repeat),
        3 => (0..4usize).prop_map(Plan::Only),
    ];
    let events = tell(250, plan);
    assert!(events.failures >= 100, "{} failures", events.failures);
    assert!(events.full_index >= 100, "{} when full", events.full_index);
    assert!(events.merged_twins >= 20 && events.merged_into_shared >= 20);
}

#[test]
fn zero_pages_are_never_indexed() {
    let events = RefCell::default();
    let setting = Setting {
        hash: HashKind::Wide,
        seed: 0,
        plan: Plan::Only(0),
        promote_after: 1,
    };
    let mut world = World::new(setting, &events);
    world.step(&Op::Map {
        first: 0,
        count: SLOTS,
        domain: Domain(1),
        letter: ZERO,
    });
    world.step(&Op::Pass {
        outcome: Outcome::Fail,
    });
    assert_eq!(events.borrow().zeros, SLOTS as u32);
    assert_eq!(world.index_failures(), 0);
}
