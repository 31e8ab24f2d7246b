// SPDX-License-Identifier: GPL-2.0

//! The hash table against `HashMap`, with keys that collide, runs of entries that reach around
//! the end, and storage that fails.

use crate::property;
use engine::hash::mix;
use engine::table::Entry;
use engine::table::Full;
use engine::table::Table;
use model::memory::Memory;
use model::memory::Plan;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::prelude::Just;
use proptest::prelude::Strategy;
use proptest::prop_oneof;
use std::cell::Cell;
use std::collections::HashMap;

/// Slots of a table's first block, as documented by its behaviour below.
const FIRST: usize = 256;

/// Homes are spread as in real use.
const SPREAD: u8 = 0;
/// Homes are the last four and the first four slots.
const AROUND_THE_END: u8 = 1;
/// There is one home for all, the last slot but one.
const ONE_HOME: u8 = 2;

/// An entry whose home is chosen by `HOMES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Item<const HOMES: u8> {
    key: u64,
    value: u64,
    used: bool,
}

impl<const HOMES: u8> Item<HOMES> {
    fn new(key: u64, value: u64) -> Self {
        Item {
            key,
            value,
            used: true,
        }
    }
}

impl<const HOMES: u8> Entry for Item<HOMES> {
    fn is_vacant(&self) -> bool {
        !self.used
    }

    fn key(&self) -> u64 {
        self.key
    }

    fn hash(key: u64) -> u64 {
        match HOMES {
            SPREAD => mix(key),
            AROUND_THE_END => (key % 8).wrapping_sub(4),
            _ => u64::MAX - 1,
        }
    }
}

/// A step; keys are below [`KEYS`].
#[derive(Clone, Debug)]
enum Op {
    /// Each key from `first` is inserted, or changed where it is in the table.
    Insert { first: u64, count: u64, value: u64 },
    /// Each key from `first` is removed.
    Remove { first: u64, count: u64 },
    /// Entries of value `v` stay where `v % modulus != remainder`; those that stay are changed.
    Retain { modulus: u64, remainder: u64 },
    /// Memory is given back.
    Shrink,
    /// All is forgotten.
    Clear,
    /// From now on memory behaves like this.
    Plan(Plan),
}

const KEYS: u64 = 700;

fn op() -> impl Strategy<Value = Op> {
    let keys = || (0..KEYS, prop_oneof![3 => 1..10u64, 1 => 10..300u64]);
    let plan = prop_oneof![
        Just(Plan::Ample),
        (0..3usize).prop_map(Plan::Only),
        vec(any::<bool>(), 1..5).prop_map(Plan::Repeat),
    ];
    prop_oneof![
        10 => (keys(), 0..1000u64).prop_map(|((first, count), value)| Op::Insert {
            first,
            count,
            value
        }),
        6 => keys().prop_map(|(first, count)| Op::Remove { first, count }),
        2 => (2..9u64, 0..2u64).prop_map(|(modulus, remainder)| Op::Retain { modulus, remainder }),
        2 => Just(Op::Shrink),
        1 => Just(Op::Clear),
        3 => plan.prop_map(Op::Plan),
    ]
}

/// A table, and what ought to be in it.
struct Pair<const HOMES: u8> {
    memory: Memory,
    table: Table<Item<HOMES>, Memory>,
    model: HashMap<u64, u64>,
    refused: u32,
}

impl<const HOMES: u8> Pair<HOMES> {
    fn new() -> Self {
        Pair {
            memory: Memory::default(),
            table: Table::new(),
            model: HashMap::new(),
            refused: 0,
        }
    }

    fn slots(&self) -> usize {
        self.table.bytes() / size_of::<Item<HOMES>>()
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Insert {
                first,
                count,
                value,
            } => (first..first + count).for_each(|key| self.insert(key % KEYS, value + key)),
            Op::Remove { first, count } => {
                (first..first + count).for_each(|key| self.remove(key % KEYS));
            }
            Op::Retain { modulus, remainder } => self.retain(modulus, remainder),
            Op::Shrink => self.shrink(),
            Op::Clear => {
                self.table.clear();
                self.model.clear();
                assert_eq!(self.table.bytes(), 0);
            }
            Op::Plan(ref plan) => self.memory.set_plan(plan.clone()),
        }
        self.check();
    }

    fn insert(&mut self, key: u64, value: u64) {
        let known = self.table.get_mut(key);
        assert_eq!(
            known.as_ref().map(|item| item.value),
            self.model.get(&key).copied()
        );
        if let Some(item) = known {
            item.value = value;
            self.model.insert(key, value);
            return;
        }
        let (slots, refusals) = (self.slots(), self.memory.failures());
        match self.table.insert(&self.memory, Item::new(key, value)) {
            Ok(()) => {
                self.model.insert(key, value);
            }
            Err(Full) => {
                assert!(self.memory.failures() > refusals, "full for no reason");
                assert!(self.model.len() >= slots - slots / 16, "full too early");
                self.refused += 1;
            }
        }
    }

    fn remove(&mut self, key: u64) {
        let removed = self.table.remove(key).map(|item| (item.key, item.value));
        assert_eq!(removed, self.model.remove(&key).map(|value| (key, value)));
    }

    fn retain(&mut self, modulus: u64, remainder: u64) {
        let mut visits = HashMap::new();
        let keep = |value: &mut u64| {
            let keeps = *value % modulus != remainder;
            *value += 1;
            keeps
        };
        self.table.retain(|item| {
            assert_eq!(visits.insert(item.key, item.value), None, "visited twice");
            keep(&mut item.value)
        });
        assert_eq!(visits, self.model, "not visited");
        self.model.retain(|_, value| keep(value));
    }

    fn shrink(&mut self) {
        let (slots, refusals) = (self.slots(), self.memory.failures());
        self.table.shrink(&self.memory);
        assert!(self.slots() <= slots);
        if self.model.is_empty() {
            assert_eq!(self.slots(), 0);
        } else if self.memory.failures() == refusals {
            assert!(
                self.slots() <= FIRST * 2 || self.slots() < self.model.len() * 16,
                "{} slots for {} entries",
                self.slots(),
                self.model.len()
            );
        }
    }

    fn check(&self) {
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(self.table.is_empty(), self.model.is_empty());
        let slots = self.slots();
        assert!(slots == 0 || slots.is_power_of_two() && slots >= FIRST);
        assert!(self.model.len() <= slots - slots / 16, "too full to search");
    }

    fn check_every_key(&self) {
        for key in 0..KEYS {
            let item = self.table.get(key).map(|item| (item.key, item.value));
            assert_eq!(item, self.model.get(&key).map(|&value| (key, value)));
        }
    }
}

/// Checks random steps; returns how many insertions found no room.
fn agrees_with_a_hash_map<const HOMES: u8>(cases: u32) -> u32 {
    let refused = Cell::new(0);
    property::holds(cases, vec(op(), 1..40), |ops| {
        let mut pair = Pair::<HOMES>::new();
        for op in &ops {
            pair.step(op);
        }
        pair.check_every_key();
        refused.set(refused.get() + pair.refused);
    });
    refused.get()
}

#[test]
fn spread_keys() {
    let refused = agrees_with_a_hash_map::<SPREAD>(150);
    assert!(refused >= 100, "{refused} insertions without room");
}

#[test]
fn keys_around_the_end() {
    let refused = agrees_with_a_hash_map::<AROUND_THE_END>(60);
    assert!(refused >= 20, "{refused} insertions without room");
}

#[test]
fn keys_of_one_home() {
    agrees_with_a_hash_map::<ONE_HOME>(30);
}

/// All ways in which five entries can lie across the end of the table, and each removed in turn.
#[test]
fn removal_shifts_back_what_it_must_and_nothing_else() {
    const ENTRIES: u32 = 5;
    const HOMES: u64 = 6;
    for arrangement in 0..HOMES.pow(ENTRIES) {
        // Entry `i`'s key has home `arrangement / HOMES^i % HOMES - 3`, around the end.
        let key = |i: u32| u64::from(i) * 8 + 1 + arrangement / HOMES.pow(i) % HOMES;
        for gone in 0..ENTRIES {
            let mut table = Table::<Item<AROUND_THE_END>, Memory>::new();
            for i in 0..ENTRIES {
                let item = Item::new(key(i), i.into());
                table.insert(&Memory::default(), item).unwrap();
            }
            assert_eq!(
                table.remove(key(gone)).map(|item| item.value),
                Some(gone.into())
            );
            for i in 0..ENTRIES {
                let found = table.get(key(i)).map(|item| item.value);
                let expected = (i != gone).then_some(i.into());
                assert_eq!(found, expected, "{arrangement}: entry {i} without {gone}");
            }
        }
    }
}

#[test]
fn an_empty_table_has_no_memory_and_finds_nothing() {
    let mut table = Table::<Item<SPREAD>, Memory>::default();
    assert_eq!((table.len(), table.bytes()), (0, 0));
    assert!(table.get(0).is_none() && table.get_mut(0).is_none() && table.remove(0).is_none());
    table.retain(|_| panic!("nothing to visit"));
    table.shrink(&Memory::default());
    assert_eq!(table.bytes(), 0);
    let nothing = Memory::new(Plan::Only(0));
    assert_eq!(table.insert(&nothing, Item::new(1, 1)), Err(Full));
    assert_eq!((table.len(), table.bytes(), nothing.failures()), (0, 0, 1));
}

#[test]
fn a_table_grows_when_three_quarters_are_used() {
    let mut pair = Pair::<SPREAD>::new();
    for key in 0..192 {
        pair.insert(key, key);
        assert_eq!(pair.slots(), FIRST);
    }
    pair.insert(192, 192);
    assert_eq!(pair.slots(), 2 * FIRST);
    pair.check_every_key();
}

#[test]
fn without_memory_to_grow_fifteen_sixteenths_can_be_used() {
    let mut pair = Pair::<SPREAD>::new();
    pair.memory.set_plan(Plan::Only(1));
    for key in 0..300 {
        pair.insert(key, key);
    }
    assert_eq!((pair.table.len(), pair.slots()), (240, FIRST));
    assert_eq!(pair.refused, 60);
    pair.check_every_key();
    // One out, one in, and no more.
    pair.remove(17);
    pair.insert(299, 299);
    pair.insert(298, 298);
    assert_eq!((pair.table.len(), pair.refused), (240, 61));
    // Memory is back.
    pair.memory.set_plan(Plan::Ample);
    pair.insert(298, 298);
    assert_eq!((pair.table.len(), pair.slots()), (241, 2 * FIRST));
    pair.check_every_key();
}

#[test]
fn shrinking_leaves_room_to_grow_again() {
    let mut pair = Pair::<SPREAD>::new();
    for key in 0..KEYS {
        pair.insert(key, 2 * key + key % 2);
    }
    assert_eq!(pair.slots(), 4 * FIRST);
    pair.shrink();
    assert_eq!(pair.slots(), 4 * FIRST, "two thirds are in use");
    for key in 200..KEYS {
        pair.remove(key);
    }
    pair.shrink();
    assert_eq!(pair.slots(), 4 * FIRST, "the first block would be crowded");
    for key in 10..200 {
        pair.remove(key);
    }
    pair.memory.set_plan(Plan::Only(0));
    pair.shrink();
    assert_eq!(pair.slots(), 4 * FIRST, "no memory for a smaller block");
    pair.memory.set_plan(Plan::Ample);
    pair.shrink();
    assert_eq!(pair.slots(), FIRST);
    pair.check_every_key();
}
